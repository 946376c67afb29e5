"""From settings to a limiter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge.limits.guarded import GuardedLimiter
from edge.limits.limiter import RateLimiter
from edge.limits.memory import MemoryLimiter
from edge.limits.rates import FixedLimits, RateLimits
from edge.settings import EdgeSettings
from meshkit.clock import Clock


@asynccontextmanager
async def rate_limits(settings: EdgeSettings, clock: Clock) -> AsyncIterator[RateLimits]:
    """The limits over the backend that ``settings.limits_url`` names; it is closed with the block."""
    async with _limiter(settings, clock) as limiter:
        rates = RateLimits(
            limiter,
            MemoryLimiter(clock, max_buckets=settings.limits_entries),
            FixedLimits(settings.account_requests_per_minute, settings.failed_authentications_per_minute),
            backend=limiter if isinstance(limiter, GuardedLimiter) else None,
        )
        try:
            yield rates
        finally:
            await rates.aclose()


@asynccontextmanager
async def _limiter(settings: EdgeSettings, clock: Clock) -> AsyncIterator[RateLimiter]:
    own = MemoryLimiter(clock, max_buckets=settings.limits_entries)
    if settings.limits_url == "memory://":
        yield own
        return
    from edge.limits.redis import RedisLimiter, connect  # noqa: PLC0415 - 20 MB that one process alone has no use for

    shared = RedisLimiter(connect(settings.limits_url), timeout_s=settings.limits_timeout_s)
    try:
        yield GuardedLimiter(shared, own, clock, retry_after_s=settings.limits_retry_after_s)
    finally:
        await shared.aclose()
