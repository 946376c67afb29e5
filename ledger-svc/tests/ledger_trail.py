"""Entries of the audit trail, for stores that are called without their use cases; and what was told."""

from __future__ import annotations

import itertools
from typing import Any

from ledger_svc.domain.repricing import OfferList, Repricing
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.trail import TrailService
from ledger_svc.service.trail_ports import TrailFilter
from meshkit.principal import OPERATOR

_numbers = itertools.count(1)


def an_entry(at_ms: int = 1, org_id: str = "org_a", action: str = "thing.changed") -> TrailEntry:
    return TrailEntry(f"aud_test_{next(_numbers)}", org_id, at_ms, OPERATOR, action, "thing_1")


def a_revocation_at(at_ms: int) -> Any:
    """Of whichever key."""
    return lambda _before: an_entry(at_ms, action="key.revoked")


async def told(trail: TrailService, org_id: str, action: str = "") -> list[TrailEntry]:
    """In the order in which they were written, which a page does not have within a millisecond."""
    found, token = await trail.page(TrailFilter(org_id, action), page_size=0, page_token="")
    assert not token
    logged = [await trail.get(org_id, entry.entry_id) for entry in found]
    return [one.entry for one in sorted(logged, key=lambda one: one.leaf_index)]


def a_repricing(revision: str, previous: str = "", **fields: Any) -> Repricing:
    nothing = OfferList((), 0)
    given: dict[str, Any] = {"price_changes": (), "price_change_count": 0, "added": nothing, "removed": nothing}
    return Repricing(revision, previous, **given | fields)


def a_change_of_key(_before: Any, _after: Any) -> TrailEntry:
    """Whatever it was and is."""
    return an_entry(action="key.updated")
