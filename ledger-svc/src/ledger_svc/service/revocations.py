"""Tells watchers of revoked keys: of those revoked here at once, of another replica's after asking the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import structlog

from ledger_svc.domain.errors import LedgerUnavailable
from ledger_svc.service.ports import Directory, Sleep
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)

OVERLAP_MS = 60_000
"""How far each poll looks back behind the last: a revocation carries the time of its decision on another machine's
clock and becomes visible at its COMMIT, so it may appear after later ones.
"""


class Revocations:
    """Fans revocations out to watchers, each with a queue of ``max_pending`` key ids; a watcher that does not keep up
    is ended.
    """

    def __init__(self, directory: Directory, clock: Clock, *, max_pending: int = 1_000) -> None:
        self._directory = directory
        self._clock = clock
        self._max_pending = max_pending
        self._queues: set[asyncio.Queue[str | None]] = set()
        self._told: dict[str, int] = {}
        self._since_ms = clock.now_ms() - OVERLAP_MS

    async def watch(self) -> AsyncGenerator[str, None]:
        """An empty string at once (the watch stands), then the id of each key revoked from then on.

        Raises:
            LedgerUnavailable: the watcher fell behind; watch again, and drop what was kept.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(self._max_pending + 1)
        self._queues.add(queue)
        try:
            yield ""
            while (key_id := await queue.get()) is not None:
                yield key_id
        finally:
            self._queues.discard(queue)
        raise LedgerUnavailable("the watcher fell behind: watch again, and drop what was kept")

    def announce(self, key_id: str, revoked_at_ms: int) -> None:
        """Tells every watcher, once for each key."""
        if key_id in self._told:
            return
        self._told[key_id] = revoked_at_ms
        for queue in list(self._queues):
            if queue.qsize() >= self._max_pending:
                self._end(queue)
            else:
                queue.put_nowait(key_id)

    async def poll(self) -> None:
        """Announces what other replicas have revoked since the last poll."""
        now_ms = self._clock.now_ms()
        for key_id, revoked_at_ms in await self._directory.revoked_since(self._since_ms):
            self.announce(key_id, revoked_at_ms)
        self._since_ms = now_ms - OVERLAP_MS
        self._told = {key_id: at_ms for key_id, at_ms in self._told.items() if at_ms >= self._since_ms}

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Polls until cancelled. A failure is logged; the next poll makes up for it."""
        while True:
            await sleep(interval_s)
            try:
                await self.poll()
            except Exception:  # noqa: BLE001 - whatever it was, the next round makes up for it
                _log.exception("revocation_poll_failed")

    def _end(self, queue: asyncio.Queue[str | None]) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
