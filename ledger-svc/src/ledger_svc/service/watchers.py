"""Who watches for changes, and how each is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog

from ledger_svc.domain.errors import LedgerUnavailable
from ledger_svc.service.ports import Sleep

LEADING_ROUNDS = 4
"""The replica that writes polls once in so many rounds: it tells of its own changes as it makes them, and another's can
only be from before, or from after it was taken for dead.
"""

_log = structlog.get_logger(__name__)


class Watchers:
    """Fans names of what has changed out to watchers, each with a queue of ``max_pending`` names; a watcher that does
    not keep up is ended.
    """

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._queues: set[asyncio.Queue[str | None]] = set()

    async def watch(self) -> AsyncGenerator[str, None]:
        """An empty string at once (the watch stands), then each name from then on. An empty one again says that
        anything may have changed.

        Raises:
            LedgerUnavailable: the watcher fell behind; watch again, and drop what was kept.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(self._max_pending + 1)
        self._queues.add(queue)
        try:
            yield ""
            while (name := await queue.get()) is not None:
                yield name
        finally:
            self._queues.discard(queue)
        raise LedgerUnavailable("the watcher fell behind: watch again, and drop what was kept")

    @property
    def count(self) -> int:
        """How many watch."""
        return len(self._queues)

    def tell(self, name: str) -> None:
        """Tells every watcher."""
        for queue in list(self._queues):
            if queue.qsize() >= self._max_pending:
                self._end(queue)
            else:
                queue.put_nowait(name)

    def _end(self, queue: asyncio.Queue[str | None]) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


async def poll_for_others(
    poll: Callable[[], Awaitable[None]],
    interval_s: float,
    is_leading: Callable[[], bool],
    sleep: Sleep,
    *,
    failure: str,
) -> None:
    """Asks for what other replicas have changed, every ``interval_s`` until cancelled, and less often while this one is
    the writer; at once when it becomes it. ``failure``: the event that a failed poll is logged as; the next makes up
    for it.
    """
    rounds = LEADING_ROUNDS
    while True:
        await sleep(interval_s)
        rounds += 1
        leads = is_leading()
        if leads and rounds < LEADING_ROUNDS:
            continue
        rounds = 0 if leads else LEADING_ROUNDS
        try:
            await poll()
        except Exception:  # noqa: BLE001 - whatever it was, the next round makes up for it
            rounds = LEADING_ROUNDS
            _log.exception(failure)
