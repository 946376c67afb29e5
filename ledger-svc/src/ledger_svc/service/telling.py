"""What use cases tell the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger_svc.domain.trail import TrailEntry
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import Actor

_NOTHING: Mapping[str, Any] = {}


class Telling:
    """Makes entries, each with an id and a time of its own."""

    def __init__(self, clock: Clock, make_id: MakeId) -> None:
        self._clock = clock
        self._make_id = make_id

    def entry(
        self,
        org_id: str,
        actor: Actor,
        action: str,
        subject: str,
        *,
        before: Mapping[str, Any] = _NOTHING,
        after: Mapping[str, Any] = _NOTHING,
    ) -> TrailEntry:
        """See ``TrailEntry``."""
        return TrailEntry(
            self._make_id("aud"), org_id, self._clock.now_ms(), actor, action, subject, before=before, after=after
        )
