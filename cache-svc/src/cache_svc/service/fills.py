"""Leading and following the flights of identical requests, over any ``FillStore``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from cache_svc.domain.fill import Claim, Lead
from cache_svc.service.ports import Ending
from cache_svc.service.refusals import StoreFull, StoreUnavailable

_log = structlog.get_logger(__name__)

_EVENT, _END = b"+", b"."
"""What the bytes of an event in a store begin with."""
_LOOK_AGAIN_S = 1.0
"""A follower looks so often though nothing was heard: for a lease that lapses, and for word that was lost."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a leader has said from a position on, and whether it leads."""

    events: Sequence[bytes]
    leads: bool


@dataclass(frozen=True, slots=True)
class Attended:
    """Where a leader stands. ``live``: somebody wants to hear what it says."""

    leads: bool
    followed: bool = False
    live: bool = False


class FillStore(Protocol):
    """Who leads which flight, and what they say. Every method may raise ``StoreUnavailable``. Anything may be lost, at
    any time and without a word.
    """

    async def board(self, name: bytes, claim: Claim) -> str:
        """The token of who leads now, which may be the claim's; ``ALONE``: nobody is to lead or follow."""

    async def renew(self, lead: Lead, lease_s: float) -> Attended:
        """Prolongs the lease of who leads."""

    async def follow(self, lead: Lead, *, live: bool) -> None:
        """Lets the leader know that it is followed."""

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """Says them after what was said before. False: it does not lead.

        Raises:
            StoreFull: not said.
        """

    async def end(self, lead: Lead, event: bytes, *, alone_s: float) -> bool:
        """Says the last, and ends the lead. ``alone_s``: for so long nobody leads or follows after it. False: it did
        not lead.
        """

    async def read(self, lead: Lead, position: int) -> Said:
        """What was said, without the first ``position`` events; kept for a while after the end."""

    def watch(self, lead: Lead) -> AbstractAsyncContextManager[asyncio.Event]:
        """Inside, the event is set when something of the flight may have changed."""


@dataclass(frozen=True, slots=True)
class FillLimits:
    """``max_lease_s``: the longest lease. ``max_wait_s``: the longest that a leader waits for followers at a time.
    ``alone_s``: for how long nobody waits after an answer that could not be stored.
    """

    max_lease_s: float
    max_wait_s: float
    alone_s: float


class FillService:
    """The flights that this process leads and follows. What a leader says is opaque here."""

    def __init__(self, store: FillStore, limits: FillLimits) -> None:
        self._store = store
        self._limits = limits
        self._relays: dict[Lead, _Relay] = {}

    def claim(self, token: str, lease_s: float) -> Claim:
        """The wish to lead, for no longer than is allowed."""
        return Claim(token, min(lease_s, self._limits.max_lease_s))

    async def attend(self, lead: Lead, *, lease_s: float, wait_s: float) -> Attended:
        """Prolong the lease, and wait for somebody who wants to hear what is said.

        Raises:
            StoreUnavailable.
        """
        lease_s = min(lease_s, self._limits.max_lease_s)
        if wait_s <= 0:
            return await self._store.renew(lead, lease_s)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(wait_s, self._limits.max_wait_s)
        async with self._store.watch(lead) as heard:
            while True:
                heard.clear()
                attended = await self._store.renew(lead, lease_s)
                left_s = until_s - loop.time()
                if not attended.leads or attended.live or left_s <= 0:
                    return attended
                await _within(heard, left_s)

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """Say more. False: it leads no longer, or what it says can't be kept; then followers hear the end only.

        Raises:
            StoreUnavailable.
        """
        try:
            return await self._store.publish(lead, [_EVENT + event for event in events])
        except StoreFull as error:
            _log.warning("fill_not_published", why=str(error))
            return False

    def ending(self, lead: Lead, event: bytes) -> Ending:
        """What says the last together with the answer that is kept."""
        return Ending(lead, _END + event)

    async def end(self, lead: Lead, event: bytes, *, shared: bool = True) -> None:
        """Say the last. Never raises: where the backend is away, the lease lapses. ``shared`` False: the answer was one
        that nobody can be given, and so will the next ones be.
        """
        try:
            await self._store.end(lead, _END + event, alone_s=0.0 if shared else self._limits.alone_s)
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("fill_not_ended", why=str(error))

    async def follow(self, lead: Lead, *, live: bool) -> AsyncIterator[bytes]:
        """What the leader says from its beginning, the last of it at last; only that unless ``live``. Ends without it
        where the leader is lost.

        Raises:
            StoreUnavailable.
        """
        relay = self._relays.get(lead)
        if relay is None or relay.over:
            relay = self._relays[lead] = _Relay(self._store, lead)
        relay.followers += 1
        try:
            await relay.wants(live=live)
            position = 0
            while True:
                more = relay.more
                while position < len(relay.events):  # more may come while one is taken
                    event = relay.events[position]
                    position += 1
                    if live or event.startswith(_END):
                        yield event[1:]
                if relay.over:
                    if relay.error is not None:
                        raise relay.error
                    return
                await more.wait()
        finally:
            relay.followers -= 1
            if not relay.followers:
                relay.close()
                if self._relays.get(lead) is relay:
                    del self._relays[lead]


class _Relay:
    """What one leader says, read once for all who follow it from this process."""

    def __init__(self, store: FillStore, lead: Lead) -> None:
        self.events: list[bytes] = []
        self.over = False
        self.error: StoreUnavailable | None = None
        self.followers = 0
        self.more = asyncio.Event()
        self._store = store
        self._lead = lead
        self._told_live: bool | None = None
        self._task = asyncio.create_task(self._read(), name="relay a flight")

    async def wants(self, *, live: bool) -> None:
        """Let the leader know, once for all followers who want the same."""
        if self._told_live is None or (live and not self._told_live):
            self._told_live = live
            await self._store.follow(self._lead, live=live)

    def close(self) -> None:
        self._task.cancel()

    async def _read(self) -> None:
        try:
            async with self._store.watch(self._lead) as heard:
                while not self.over:
                    heard.clear()
                    said = await self._store.read(self._lead, len(self.events))
                    self.events += said.events
                    self.over = not said.leads or any(event.startswith(_END) for event in said.events)
                    if said.events or self.over:
                        self._tell()
                    if not self.over:
                        await _within(heard, _LOOK_AGAIN_S)
        except StoreUnavailable as error:
            self.over, self.error = True, error
            self._tell()

    def _tell(self) -> None:
        heard, self.more = self.more, asyncio.Event()
        heard.set()


async def _within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
