"""A store of which identical questions of one process share the trips.

A question joins a trip only before it begins. So it sees every purge and every answer that was there when it was asked,
as if it had gone by itself: a trip under way began before it and is not for it, whoever purged meanwhile, in whichever
process. For each question at most one trip is under way and one waits for its end, however many ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from cache_svc.domain.fill import Claim
from cache_svc.domain.request import Group
from cache_svc.domain.statistics import Held
from cache_svc.service import Ending, EntryStore, Found, Put, StoreUsage

T = TypeVar("T")
Going = Callable[[], Coroutine[Any, Any, T]]


class Trips(Generic[T]):
    """Trips for questions that are the same where their names are."""

    def __init__(self) -> None:
        # By name, where a trip is under way: who asked after it had begun.
        self._waiting: dict[Hashable, list[tuple[asyncio.Future[tuple[T, bool]], Going[T]]]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    async def ask(self, name: Hashable, going: Going[T]) -> tuple[T, bool]:
        """What ``going`` gives, by this caller or by another; and whether the caller is the first of those who are
        told: what only one may have is for that one. Raises what ``going`` raises.
        """
        waiting = self._waiting.get(name)
        if waiting is not None:
            told: asyncio.Future[tuple[T, bool]] = asyncio.get_running_loop().create_future()
            waiting.append((told, going))
            return await told
        self._waiting[name] = []
        try:
            return await going(), True
        finally:
            self._next(name)

    def _next(self, name: Hashable) -> None:
        waiting = [one for one in self._waiting[name] if not one[0].done()]
        if not waiting:
            del self._waiting[name]
            return
        self._waiting[name] = []
        # A task of its own: whoever leaves takes nobody's answer along.
        task = asyncio.create_task(waiting[0][1](), name="a shared trip")
        self._tasks.add(task)
        task.add_done_callback(partial(self._arrived, name, [told for told, _ in waiting]))

    def _arrived(self, name: Hashable, all_told: list[asyncio.Future[tuple[T, bool]]], trip: asyncio.Task[T]) -> None:
        self._tasks.discard(trip)
        error = asyncio.CancelledError() if trip.cancelled() else trip.exception()
        first = True
        for told in all_told:
            if told.done():
                continue
            if error is not None:
                told.set_exception(error)
            else:
                told.set_result((trip.result(), first))
            first = False
        self._next(name)


class SharedStore:
    """An ``EntryStore`` over another."""

    def __init__(self, store: EntryStore) -> None:
        self._store = store
        self._finds: Trips[Found] = Trips()

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """See ``EntryStore``. Of those who share a trip with a claim, who is told first leads, if anybody does: whoever
        made the claim may be gone.
        """
        lease_s = claim.lease_s if claim is not None else 0.0
        name = (address, tuple(epoch_names), tuple(clues), lease_s)
        found, first = await self._finds.ask(name, partial(self._find, address, epoch_names, clues, claim))
        return found if first or not found.leads else replace(found, leads=False)

    async def _find(
        self, address: bytes, epoch_names: Sequence[str], clues: Sequence[bytes], claim: Claim | None
    ) -> Found:
        return await self._store.find(address, epoch_names, clues, claim)

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """See ``EntryStore``."""
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
        return await self._store.put(address, blob, ttl_s=ttl_s, epoch_names=epoch_names, epochs=epochs, ending=ending)

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """See ``EntryStore``."""
        await self._store.delete(address, epoch_names)

    async def raise_epoch(self, epoch_name: str) -> int:
        """See ``EntryStore``."""
        return await self._store.raise_epoch(epoch_name)

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """See ``EntryStore``."""
        return await self._store.under(prefix)

    async def usage(self) -> StoreUsage:
        """See ``EntryStore``."""
        return await self._store.usage()

    async def held(self, org_id: str) -> Mapping[Group, Held] | None:
        """See ``EntryStore``."""
        return await self._store.held(org_id)
