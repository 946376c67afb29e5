"""Tells watchers whose provider keys have changed: of changes made here at once, of another replica's after asking the
store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from ledger_svc.service.ports import Sleep
from ledger_svc.service.provider_key_ports import Changed, ProviderKeyStore
from ledger_svc.service.watchers import Watchers, poll_for_others
from meshkit.clock import Clock

OVERLAP_MS = 60_000
"""How far each poll looks back behind the last: a change carries the time of its decision on another machine's clock
and becomes visible at its COMMIT, so it may appear after later ones.
"""


class ProviderKeyChanges:
    """Fans changes out to watchers, each with a queue of ``max_pending`` organisations; a watcher that does not keep up
    is ended.
    """

    def __init__(self, store: ProviderKeyStore, clock: Clock, *, max_pending: int = 1_000) -> None:
        self._store = store
        self._clock = clock
        self._watchers = Watchers(max_pending)
        self._told: set[Changed] = set()
        self._since_ms = clock.now_ms() - OVERLAP_MS

    def watch(self) -> AsyncGenerator[str, None]:
        """An empty string at once (the watch stands), then the organisation of each change from then on.

        Raises:
            LedgerUnavailable: the watcher fell behind; watch again, and drop what was kept.
        """
        return self._watchers.watch()

    def announce(self, change: Changed) -> None:
        """Tells every watcher, once of each change."""
        if change in self._told:
            return
        self._told.add(change)
        self._watchers.tell(change.org_id)

    async def poll(self) -> None:
        """Announces what other replicas have changed since the last poll."""
        now_ms = self._clock.now_ms()
        for change in await self._store.changed_since(self._since_ms):
            self.announce(change)
        self._since_ms = now_ms - OVERLAP_MS
        self._told = {change for change in self._told if change.changed_at_ms >= self._since_ms}

    async def run(self, interval_s: float, is_leading: Callable[[], bool], sleep: Sleep = asyncio.sleep) -> None:
        """Polls until cancelled. A failure is logged; the next poll makes up for it. ``is_leading``: whether this
        replica is the writer, which has less reason to.
        """
        await poll_for_others(self.poll, interval_s, is_leading, sleep, failure="provider_key_poll_failed")
