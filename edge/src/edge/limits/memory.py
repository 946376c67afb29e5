"""Limits of this process alone."""

from __future__ import annotations

from collections import OrderedDict

from edge.limits.window import Verdict, Window
from meshkit.clock import Clock


class MemoryLimiter:
    """A ``RateLimiter`` that is never away. Bounded: beyond ``max_buckets`` those go that were not used for longest.

    Most often they are whole again by then, and nothing is lost with them. Only where more than ``max_buckets`` were
    used within one minute, some begin anew too early.
    """

    def __init__(self, clock: Clock, *, max_buckets: int) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, Window] = OrderedDict()

    def __len__(self) -> int:
        """Buckets held."""
        return len(self._buckets)

    async def take(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        now_us = self._now_us()
        return self._window(bucket, now_us).take(now_us, limit, weight)

    async def ask(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        return (self._buckets.get(bucket) or Window()).ask(self._now_us(), limit, weight)

    async def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        """See ``RateLimiter``."""
        now_us = self._now_us()
        if used > taken.weight:
            self._window(bucket, now_us).add(now_us, taken.limit, used - taken.weight)
        elif (window := self._buckets.get(bucket)) is not None:
            window.give_back(now_us, taken.marks[0], taken.weight - used)

    def _now_us(self) -> int:
        return int(self._clock.monotonic_s() * 1_000_000)

    def _window(self, bucket: str, now_us: int) -> Window:
        buckets = self._buckets
        window = buckets.get(bucket)
        if window is not None:
            buckets.move_to_end(bucket)
            return window
        # Two out for one in, so that what is whole again goes as fast as new ones come.
        for name in [name for name, _ in zip(buckets, range(2), strict=False) if buckets[name].is_whole(now_us)]:
            del buckets[name]
        while len(buckets) >= self._max_buckets:
            buckets.popitem(last=False)
        window = buckets[bucket] = Window()
        return window
