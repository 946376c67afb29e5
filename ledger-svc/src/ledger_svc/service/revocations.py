"""Tells watchers of keys that were revoked, rotated or changed: of those changed here at once, of another replica's
after asking the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from ledger_svc.service.ports import Directory, Sleep
from ledger_svc.service.watchers import Watchers, poll_for_others

_WHOLE_ORGANIZATION = "organization:"


def name_of_organization(org_id: str) -> str:
    """The name that watchers are told where all keys of an organisation may be affected. No key's id begins so."""
    return _WHOLE_ORGANIZATION + org_id


def organization_named(name: str) -> str | None:
    """The organisation that a name tells of; None: it is the id of a key."""
    return name.removeprefix(_WHOLE_ORGANIZATION) if name.startswith(_WHOLE_ORGANIZATION) else None


class Revocations:
    """Fans changes of keys out to watchers, each with a queue of ``max_pending`` names; a watcher that does not keep
    up is ended. A name is a key's id, or ``name_of_organization``.

    Changes are numbered in the order of their commits (there is one writer), so a poll asks for those after the last
    one that it has seen, and misses none.
    """

    def __init__(self, directory: Directory, *, max_pending: int = 1_000) -> None:
        self._directory = directory
        self._watchers = Watchers(max_pending)
        self._told: dict[str, int] = {}
        self._seen: int | None = None

    @property
    def watcher_count(self) -> int:
        """How many watch."""
        return self._watchers.count

    def watch(self) -> AsyncGenerator[str, None]:
        """An empty string at once (the watch stands), then the name of each change from then on. An empty one again
        says that any key may have been changed.

        Raises:
            LedgerUnavailable: the watcher fell behind; watch again, and drop what was kept.
        """
        return self._watchers.watch()

    def announce(self, name: str, change_seq: int) -> None:
        """Tells every watcher, once for each change."""
        if change_seq <= max(self._seen or 0, self._told.get(name, 0)):
            return
        self._told[name] = change_seq
        self._watchers.tell(name)

    async def poll(self) -> None:
        """Announces what other replicas have changed since the last poll."""
        if self._seen is None:
            self._seen = await self._directory.newest_change()
            self._watchers.tell("")  # whoever watches already may have missed what was changed until now
        for name, change_seq in await self._directory.changes_after(self._seen):
            self.announce(name, change_seq)
            self._seen = change_seq
        self._told = {name: told for name, told in self._told.items() if told > self._seen}

    async def run(self, interval_s: float, is_leading: Callable[[], bool], sleep: Sleep = asyncio.sleep) -> None:
        """Polls until cancelled. A failure is logged; the next poll makes up for it. ``is_leading``: whether this
        replica is the writer, which has less reason to.
        """
        await poll_for_others(self.poll, interval_s, is_leading, sleep, failure="revocation_poll_failed")
