"""Entries of the audit trail, for stores that are called without their use cases."""

from __future__ import annotations

import itertools
from typing import Any

from ledger_svc.domain.trail import TrailEntry
from meshkit.principal import OPERATOR

_numbers = itertools.count(1)


def an_entry(at_ms: int = 1, org_id: str = "org_a") -> TrailEntry:
    return TrailEntry(f"aud_test_{next(_numbers)}", org_id, at_ms, OPERATOR, "thing.changed", "thing_1")


def an_entry_at(at_ms: int) -> Any:
    """Whatever was changed."""
    return lambda _before: an_entry(at_ms)


def an_entry_of_change(_before: Any, _after: Any) -> TrailEntry:
    """Whatever it was and is."""
    return an_entry()
