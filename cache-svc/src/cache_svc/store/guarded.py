"""A store behind a circuit breaker: while the backend is away, nobody waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

import structlog

from cache_svc.domain.fill import Claim
from cache_svc.service import EntryStore, Found, StoreUnavailable, StoreUsage
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class GuardedStore:
    """An ``EntryStore`` over another. After ``StoreUnavailable`` all calls fail at once for ``retry_after_s``; then one
    is let through, and its outcome decides. One line is logged when an outage begins and one when it ends.
    """

    def __init__(self, store: EntryStore, clock: Clock, *, retry_after_s: float) -> None:
        self._store = store
        self._clock = clock
        self._retry_after_s = retry_after_s
        self._away_since_s: float | None = None
        self._retry_at_s = 0.0

    async def find(self, address: bytes, epoch_names: Sequence[str], claim: Claim | None = None) -> Found:
        """See ``EntryStore``."""
        self._admit()
        return await self._watched(self._store.find(address, epoch_names, claim))

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """See ``EntryStore``."""
        self._admit()
        return await self._watched(self._store.epochs(epoch_names))

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """See ``EntryStore``."""
        self._admit()
        await self._watched(self._store.put(address, blob, ttl_s=ttl_s, epoch_names=epoch_names))

    async def delete(self, address: bytes) -> None:
        """See ``EntryStore``."""
        self._admit()
        await self._watched(self._store.delete(address))

    async def raise_epoch(self, epoch_name: str) -> int:
        """See ``EntryStore``. Let through also in an outage: whoever purges wants it tried."""
        return await self._watched(self._store.raise_epoch(epoch_name))

    async def usage(self) -> StoreUsage:
        """See ``EntryStore``."""
        self._admit()
        return await self._watched(self._store.usage())

    def _admit(self) -> None:
        if self._away_since_s is None:
            return
        now_s = self._clock.monotonic_s()
        if now_s < self._retry_at_s:
            raise StoreUnavailable("the backend was away a moment ago")
        self._retry_at_s = now_s + self._retry_after_s  # this call is the one that tries; others wait for its outcome

    async def _watched(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except StoreUnavailable as error:
            now_s = self._clock.monotonic_s()
            self._retry_at_s = now_s + self._retry_after_s
            if self._away_since_s is None:
                self._away_since_s = now_s
                _log.warning("cache_backend_away", why=str(error))
            raise
        if self._away_since_s is not None:
            away_s = round(self._clock.monotonic_s() - self._away_since_s, 3)
            self._away_since_s = None
            _log.info("cache_backend_back", away_s=away_s)
        return result
