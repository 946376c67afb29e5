"""Flights of identical requests in this process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cache_svc.domain.fill import ALONE, Claim, Lead
from cache_svc.service.fills import Attended, Said
from meshkit.clock import Clock

KEPT_S = 30.0
"""What was said is kept so long after the end, for followers who have not heard it yet."""
_MOST_LEADS = 100_000


@dataclass(slots=True)
class _Led:
    token: str
    until_s: float
    events: list[bytes] = field(default_factory=list)
    followed: bool = False
    live: bool = False


class MemoryFills:
    """A ``FillStore`` for one process. Bounded: past 100,000 flights at once, requests call for themselves."""

    def __init__(self, clock: Clock, *, most_leads: int = _MOST_LEADS) -> None:
        self._clock = clock
        self._most_leads = most_leads
        self._led: OrderedDict[bytes, _Led] = OrderedDict()  # by when they were led or renewed
        self._ended: dict[Lead, _Led] = {}
        self._endings: deque[tuple[float, Lead]] = deque()
        self._watchers: defaultdict[Lead, set[asyncio.Event]] = defaultdict(set)

    async def board(self, name: bytes, claim: Claim) -> str:
        """See ``FillStore``."""
        now_s = self._clock.monotonic_s()
        self._sweep(now_s)
        led = self._led.get(name)
        if led is not None and now_s < led.until_s:
            return led.token
        if led is None and len(self._led) >= self._most_leads:
            return ALONE
        self._led[name] = _Led(claim.token, now_s + claim.lease_s)
        self._led.move_to_end(name)
        return claim.token

    async def renew(self, lead: Lead, lease_s: float) -> Attended:
        """See ``FillStore``. A lease that lapsed is prolonged too, as long as nobody else leads."""
        led = self._of(lead)
        if led is None:
            return Attended(leads=False)
        led.until_s = self._clock.monotonic_s() + lease_s
        self._led.move_to_end(lead.name)
        return Attended(True, led.followed, led.live)

    async def follow(self, lead: Lead, *, live: bool) -> None:
        """See ``FillStore``."""
        led = self._of(lead)
        if led is not None:
            led.followed, led.live = True, led.live or live
            self._tell(lead)

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """See ``FillStore``. Its bound is the one that the leader has for an answer."""
        led = self._of(lead)
        if led is None:
            return False
        led.events += events
        self._tell(lead)
        return True

    async def end(self, lead: Lead, event: bytes, *, alone_s: float) -> bool:
        """See ``FillStore``."""
        led = self._of(lead)
        if led is None:
            return False
        now_s = self._clock.monotonic_s()
        del self._led[lead.name]
        if alone_s > 0:
            self._led[lead.name] = _Led(ALONE, now_s + alone_s)
        led.events.append(event)
        if led.followed:
            self._ended[lead] = led
            self._endings.append((now_s + KEPT_S, lead))
        self._tell(lead)
        return True

    async def read(self, lead: Lead, position: int) -> Said:
        """See ``FillStore``."""
        led = self._of(lead)
        if led is not None:
            return Said(led.events[position:], self._clock.monotonic_s() < led.until_s)
        ended = self._ended.get(lead)
        return Said(ended.events[position:] if ended else (), leads=False)

    @asynccontextmanager
    async def watch(self, lead: Lead) -> AsyncIterator[asyncio.Event]:
        """See ``FillStore``."""
        event = asyncio.Event()
        self._watchers[lead].add(event)
        try:
            yield event
        finally:
            watching = self._watchers[lead]
            watching.discard(event)
            if not watching:
                del self._watchers[lead]

    def _of(self, lead: Lead) -> _Led | None:
        led = self._led.get(lead.name)
        return led if led is not None and led.token == lead.token else None

    def _tell(self, lead: Lead) -> None:
        for event in self._watchers.get(lead, ()):
            event.set()

    def _sweep(self, now_s: float) -> None:
        """Forget what has lapsed. Two at a time keep up with the one that each call adds."""
        for _ in range(2):
            name, led = next(iter(self._led.items()), (b"", None))
            if led is not None and led.until_s <= now_s:
                del self._led[name]
            if self._endings and self._endings[0][0] <= now_s:
                self._ended.pop(self._endings.popleft()[1], None)
