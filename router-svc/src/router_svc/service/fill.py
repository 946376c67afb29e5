"""The lead of identical requests that a call was given: kept, its stream handed to who follows, and ended once.

Nothing of it holds the call up, and the cache is not spoken to before it is needed: an answer that is there before a
third of the lease has passed, or before a stream has run for a moment, ends its flight with the Store that it sends
anyway.
"""

from __future__ import annotations

import asyncio

import structlog

from router_svc.domain.answer import Delivery
from router_svc.domain.errors import CacheUnavailable, DeadlineExceeded, RouterError, UpstreamFailed
from router_svc.service.ports import FillBegan, FillLead, Fills

LIVE_AFTER_S = 0.1
"""A stream that lasts so long is looked at by whoever may have joined: about as long as a person takes to notice."""
_PUBLISHED_BYTES = 1024 * 1024
"""Of payloads in one message."""

_log = structlog.get_logger(__name__)


class Fill:
    """One call's lead. ``lease_s``: for how long it is kept at a time; it is renewed three times in that."""

    def __init__(self, fills: Fills, lead: FillLead, *, lease_s: float, stream: bool) -> None:
        self.lead = lead
        self.followed = False
        self.ended = False
        self._fills = fills
        self._lease_s = lease_s
        self._stream = stream
        self._live = False
        self._began: FillBegan | None = None
        self._delivery: Delivery | None = None
        self._published = 0
        self._announced = False
        self._more = asyncio.Event()
        self._pushing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._timer = asyncio.get_running_loop().call_later(lead.lease_s / 3, self._begin)

    def begun(self, delivery: Delivery, began: FillBegan) -> None:
        """The first of a stream is there."""
        self._delivery, self._began = delivery, began
        self._stop()  # a keeper that sleeps would be late for those who want chunks
        if not self.ended:
            self._timer = asyncio.get_running_loop().call_later(LIVE_AFTER_S, self._begin)

    def grown(self) -> None:
        """There is more of the stream."""
        if self._live:
            self._more.set()

    async def is_followed(self) -> bool:
        """Ask whether somebody follows now. False where the cache is away: nobody will hear the answer."""
        if not self.followed and not self.ended:
            try:
                attended = await self._fills.attend(self.lead, self._lease_s, wait_s=0)
            except CacheUnavailable as error:
                _log.warning("fill_not_attended", error=str(error))
            else:
                self.followed = attended.followed
        return self.followed

    async def flush(self) -> None:
        """Hand on what was not handed on yet, and nothing more. Before the answer is stored."""
        self.ended = True
        self._timer.cancel()
        if self._live:
            await self._push()  # after what is under way; cut off, nobody would know whether it arrived
        self._stop()

    async def quit(self, error: Exception | None) -> None:
        """End the lead without an answer, unless it has ended. Never raises: else the lease lapses."""
        self._stop()
        if self.ended:
            return
        self.ended = True
        # Only what a source did wrong concerns the others: a refusal is the leader's own.
        reason: RouterError = UpstreamFailed("the answer broke off")
        if isinstance(error, (UpstreamFailed, DeadlineExceeded)):
            reason = error
        try:
            await self._fills.quit(self.lead, reason)
        except CacheUnavailable as away:
            _log.warning("fill_not_ended", error=str(away))

    async def lost(self) -> None:
        """The answer could not be stored, and with it the end was lost."""
        self.ended = False
        await self.quit(None)

    def _begin(self) -> None:
        self._tasks.append(asyncio.create_task(self._keep(), name="keep a fill's lease"))

    def _stop(self) -> None:
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    async def _keep(self) -> None:
        """Renew the lease; while a stream runs and nobody listens, wait for the first who does."""
        while True:
            waits = self._stream and self._began is not None and not self._live
            try:
                attended = await self._fills.attend(
                    self.lead, self._lease_s, wait_s=self._lease_s / 3 if waits else 0.0
                )
            except CacheUnavailable as error:
                _log.warning("fill_not_attended", error=str(error))
                waits = False
            else:
                if not attended.leads:
                    _log.warning("fill_lost")  # another leads by now, and two call
                    return
                self.followed = self.followed or attended.followed
                if attended.live and not self._live and self._began is not None:
                    self._live = True
                    self._more.set()
                    self._tasks.append(asyncio.create_task(self._publish(), name="publish a stream"))
            if not waits or self._live:
                await asyncio.sleep(self._lease_s / 3)

    async def _publish(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            await self._push()

    async def _push(self) -> None:
        """One at a time: what comes meanwhile goes together."""
        delivery = self._delivery
        async with self._pushing:
            while delivery is not None and self._live and self._published < len(delivery.payloads):
                payloads = _first_of(delivery.payloads, self._published)
                try:
                    leads = await self._fills.publish(self.lead, None if self._announced else self._began, payloads)
                except CacheUnavailable as error:
                    # Who misses something hears it at the end, which says how many there were.
                    _log.warning("fill_not_published", error=str(error))
                    leads = False
                self._live = leads
                self._announced = True
                self._published += len(payloads)


def _first_of(payloads: list[bytes], start: int) -> list[bytes]:
    """From ``start`` on, what goes into one message; one at least."""
    size, end = 0, start
    while end < len(payloads) and (end == start or size + len(payloads[end]) <= _PUBLISHED_BYTES):
        size += len(payloads[end])
        end += 1
    return payloads[start:end]
