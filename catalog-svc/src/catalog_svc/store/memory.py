"""Revisions in this process only."""

from __future__ import annotations

from catalog_svc.domain import Snapshot


class MemoryStore:
    """Keeps at most ``keep`` revisions until the process ends."""

    def __init__(self, *, keep: int) -> None:
        assert keep > 0
        self._keep = keep
        self._kept: dict[str, Snapshot] = {}

    async def put(self, snapshot: Snapshot) -> None:
        """Keeps ``snapshot`` as the newest; forgets the oldest beyond the bound."""
        self._kept[snapshot.revision] = self._kept.pop(snapshot.revision, snapshot)
        while len(self._kept) > self._keep:
            del self._kept[next(iter(self._kept))]

    async def get(self, revision: str) -> Snapshot | None:
        """The revision of that name; None where it is not kept."""
        return self._kept.get(revision)

    async def revisions(self) -> tuple[str, ...]:
        """The names of all that are kept, the newest last."""
        return tuple(self._kept)
