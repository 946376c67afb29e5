"""What the use cases of the audit trail need of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.paging import Position


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """Which entries. ``org_id``: its own, and those of the whole installation; "": all. Texts that are empty and times
    that are 0 let all pass; ``from_ms`` is the first moment, ``to_ms`` the first that is not wanted any more.
    """

    org_id: str = ""
    action_prefix: str = ""
    actor_id: str = ""
    subject: str = ""
    from_ms: int = 0
    to_ms: int = 0


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """An entry, as signed (compact JWS), and its place in the log."""

    entry: TrailEntry
    jws: str
    leaf_index: int


class TrailRecords(Protocol):
    """The trail as it stands."""

    async def entries(self, wanted: TrailFilter, *, limit: int, before: Position | None) -> list[TrailEntry]:
        """At most ``limit`` entries, newest first; ``before``: those older than this (created_at_ms, entry_id)."""

    async def entry(self, org_id: str, entry_id: str) -> LoggedEntry:
        """One entry that the organisation sees; "": any.

        Raises:
            NotFound.
        """

    async def record_revision(self, previous_revision: str, revision: str, entry: TrailEntry) -> str:
        """Writes the entry if ``previous_revision`` was told last and ``revision`` is another; gives the revision that
        is told last now.
        """

    async def record(self, entry: TrailEntry) -> None:
        """Writes an entry of what is done outside the ledger."""
