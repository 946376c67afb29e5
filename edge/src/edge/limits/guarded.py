"""Limits that edges keep together, and each by itself while the backend is away.

Each edge keeps the limits also by itself, always. What the backend adds is what the others let through. So with the
backend away, and for the minute after it is back, at most (edges x limit) pass in any 60 s, and no edge waits for it.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from edge.limits.limiter import LimiterAway, RateLimiter
from edge.limits.window import Verdict
from meshkit.clock import Clock

PROBE_BUCKET = "probe"
"""Nothing is ever taken from it."""

_log = structlog.get_logger(__name__)


class GuardedLimiter:
    """A ``RateLimiter`` that is never away: over ``shared``, which may be, and ``own``, which is not.

    After ``LimiterAway`` nobody asks ``shared`` for ``retry_after_s``; then one call tries it, and its outcome decides.
    One line is logged when an outage begins and one when it ends.
    """

    def __init__(self, shared: RateLimiter, own: RateLimiter, clock: Clock, *, retry_after_s: float) -> None:
        self._shared = shared
        self._own = own
        self._clock = clock
        self._retry_after_s = retry_after_s
        self._away_since_s: float | None = None
        self._retry_at_s = 0.0
        self._alone = 0

    async def take(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        own = await self._own.take(bucket, limit, weight)
        if not self._may_ask():
            self._alone += 1
            return own
        try:
            # Where this edge refuses, the backend is asked all the same: it knows for how long.
            asked = self._shared.take if own.passed else self._shared.ask
            shared = await asked(bucket, limit, weight)
        except LimiterAway as error:
            self._is_away(error)
            return own
        self._is_there()
        if own.passed and not shared.passed:
            await self._own.correct(bucket, own, 0)
            own = await self._own.ask(bucket, limit, weight)
        return _stricter(own, shared)

    async def ask(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """See ``RateLimiter``."""
        own = await self._own.ask(bucket, limit, weight)
        if not self._may_ask():
            return own
        try:
            shared = await self._shared.ask(bucket, limit, weight)
        except LimiterAway as error:
            self._is_away(error)
            return own
        self._is_there()
        return _stricter(own, shared)

    async def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        """See ``RateLimiter``. A correction that the backend misses leaves what was taken as it was."""
        await self._own.correct(bucket, taken, used)
        if len(taken.marks) < 2 or not self._may_ask():
            return
        try:
            await self._shared.correct(bucket, replace(taken, marks=taken.marks[1:]), used)
        except LimiterAway as error:
            self._is_away(error)
        else:
            self._is_there()

    async def serving(self) -> bool:
        """Whether the backend is there; asked, it takes nothing. While an outage lasts it is not asked more often than
        by requests.
        """
        await self.ask(PROBE_BUCKET, 1)
        return self._away_since_s is None

    def _may_ask(self) -> bool:
        if self._away_since_s is None:
            return True
        now_s = self._clock.monotonic_s()
        if now_s < self._retry_at_s:
            return False
        self._retry_at_s = now_s + self._retry_after_s  # this call is the one that tries; others do not wait for it
        return True

    def _is_away(self, error: LimiterAway) -> None:
        now_s = self._clock.monotonic_s()
        self._retry_at_s = now_s + self._retry_after_s
        self._alone += 1
        if self._away_since_s is None:
            self._away_since_s = now_s
            _log.warning("rate_limits_backend_away", why=str(error), meanwhile="each edge keeps the limits by itself")

    def _is_there(self) -> None:
        if self._away_since_s is not None:
            away_s = round(self._clock.monotonic_s() - self._away_since_s, 3)
            _log.info("rate_limits_backend_back", away_s=away_s, decided_alone=self._alone)
            self._away_since_s = None
            self._alone = 0


def _stricter(own: Verdict, shared: Verdict) -> Verdict:
    """Both must let it pass."""
    waits = (own.retry_after_us, shared.retry_after_us)
    return Verdict(
        own.passed and shared.passed,
        shared.limit,
        min(own.remaining, shared.remaining),
        max(own.reset_us, shared.reset_us),
        None if None in waits else max(wait or 0 for wait in waits),
        shared.weight,
        own.marks + shared.marks if own.passed and shared.passed else (),
    )
