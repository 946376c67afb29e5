"""A store behind a circuit breaker: while the backend is away, nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from cache_svc.domain.fill import Claim
from cache_svc.domain.request import Group
from cache_svc.domain.statistics import Held
from cache_svc.service import Ending, EntryStore, Found, Put, StoreFull, StoreUnavailable, StoreUsage
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)


class Breaker:
    """Closed: calls pass. Open, from the first ``StoreUnavailable`` on: they fail at once for ``retry_after_s``. Then
    half open: one call at a time tries, however long it takes, and its outcome decides; meanwhile the others fail.

    A call that began before the breaker changed says nothing about the time since, so its outcome changes nothing. One
    line is logged when an outage begins and one when it ends.
    """

    def __init__(self, clock: Clock, *, retry_after_s: float) -> None:
        self._clock = clock
        self._retry_after_s = retry_after_s
        self._away_since_s: float | None = None
        self._retry_at_s = 0.0
        self._trying = False
        self._changes = 0

    @contextmanager
    def call(self, *, always: bool = False) -> Iterator[None]:
        """Around one call of the backend. ``always``: it is let through in an outage too, and its outcome counts.

        Raises:
            StoreUnavailable: the backend is not to be asked now; or what was called raised it.
        """
        tries = self._away_since_s is not None and not always
        if tries:
            self._admit()
        before = self._changes
        try:
            yield
        except StoreUnavailable as error:
            if before == self._changes:
                self._open(str(error))
            raise
        except StoreFull:
            if before == self._changes:
                self._close()
            raise
        else:
            if before == self._changes:
                self._close()
        finally:
            if tries:
                self._trying = False  # also of a call that was cancelled: the next one tries in its place

    def _admit(self) -> None:
        if self._trying or self._clock.monotonic_s() < self._retry_at_s:
            raise StoreUnavailable("the backend was away a moment ago")
        self._trying = True

    def _open(self, why: str) -> None:
        now_s = self._clock.monotonic_s()
        self._retry_at_s = now_s + self._retry_after_s
        if self._away_since_s is None:
            self._away_since_s = now_s
            self._changes += 1
            _log.warning("cache_backend_away", why=why)

    def _close(self) -> None:
        if self._away_since_s is not None:
            away_s = round(self._clock.monotonic_s() - self._away_since_s, 3)
            self._away_since_s = None
            self._changes += 1
            _log.info("cache_backend_back", away_s=away_s)


class GuardedStore:
    """An ``EntryStore`` over another, behind a ``Breaker``."""

    def __init__(self, store: EntryStore, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """See ``EntryStore``."""
        with self._breaker.call():
            return await self._store.find(address, epoch_names, clues, claim)

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """See ``EntryStore``."""
        with self._breaker.call():
            return await self._store.epochs(epoch_names)

    async def put(
        self,
        address: bytes,
        blob: bytes,
        *,
        ttl_s: int,
        epoch_names: Sequence[str],
        epochs: Sequence[int] = (),
        ending: Ending | None = None,
    ) -> Put:
        """See ``EntryStore``."""
        with self._breaker.call():
            return await self._store.put(
                address, blob, ttl_s=ttl_s, epoch_names=epoch_names, epochs=epochs, ending=ending
            )

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """See ``EntryStore``."""
        with self._breaker.call():
            await self._store.delete(address, epoch_names)

    async def raise_epoch(self, epoch_name: str) -> int:
        """See ``EntryStore``. Let through also in an outage: whoever purges wants it tried."""
        with self._breaker.call(always=True):
            return await self._store.raise_epoch(epoch_name)

    async def usage(self) -> StoreUsage:
        """See ``EntryStore``."""
        with self._breaker.call():
            return await self._store.usage()

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """See ``EntryStore``. Let through also in an outage: it is for a purge."""
        with self._breaker.call(always=True):
            return await self._store.under(prefix)

    async def held(self, org_id: str) -> Mapping[Group, Held] | None:
        """See ``EntryStore``."""
        with self._breaker.call():
            return await self._store.held(org_id)
