"""The circuit breaker before a backend: while it is away nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import structlog

from cache_svc.domain.fill import Claim, Lead
from cache_svc.service import Ending, Found, Put, StoreUnavailable, StoreUsage
from cache_svc.store.guarded import Breaker, GuardedStore
from cache_svc.store.guarded_fills import GuardedFills
from cache_svc.store.memory_fills import MemoryFills
from meshkit.testing import FakeClock

NAMES = ('["org","org_a"]', '["project","org_a","prj_a"]', '["model","org_a","m"]')
ADDRESS = b"\1" * 32


class Flaky:
    """A store that is away as told, and counts who asks."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.slow: asyncio.Event | None = None

    async def _answer(self) -> None:
        self.asked += 1
        if self.slow is not None:
            await self.slow.wait()
        if self.away:
            raise StoreUnavailable("told so")

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        await self._answer()
        return Found((1,), None)

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        await self._answer()
        return (1,)

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
        await self._answer()
        return Put(kept=True)

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        await self._answer()

    async def raise_epoch(self, epoch_name: str) -> int:
        await self._answer()
        return 2

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        await self._answer()
        return []

    async def usage(self) -> StoreUsage:
        await self._answer()
        return StoreUsage(0, 0)

    async def held(self, org_id: str) -> None:
        await self._answer()


async def test_while_a_backend_is_away_one_call_in_each_interval_tries_it(clock: FakeClock) -> None:
    flaky = Flaky()
    guarded = GuardedStore(flaky, Breaker(clock, retry_after_s=2))

    async def fails() -> None:
        with pytest.raises(StoreUnavailable):
            await guarded.find(ADDRESS, NAMES)

    flaky.away = True
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            await fails()
        assert flaky.asked == 1
        clock.advance(1_999)
        await fails()
        assert flaky.asked == 1
        clock.advance(1)
        for _ in range(5):
            await fails()
        assert flaky.asked == 2
        flaky.away = False
        clock.advance(2_000)
        await guarded.find(ADDRESS, NAMES)
        await guarded.put(ADDRESS, b"", ttl_s=1, epoch_names=NAMES)
        await guarded.delete(ADDRESS)
        await guarded.epochs(NAMES)
        await guarded.usage()
    assert flaky.asked == 7
    assert [(line["event"], line.get("away_s")) for line in logs] == [
        ("cache_backend_away", None),
        ("cache_backend_back", 4.0),
    ]


async def test_while_one_call_tries_the_others_do_not_wait_for_it(clock: FakeClock) -> None:
    flaky = Flaky()
    guarded = GuardedStore(flaky, Breaker(clock, retry_after_s=2))
    flaky.away = True
    with pytest.raises(StoreUnavailable):
        await guarded.find(ADDRESS, NAMES)
    clock.advance(2_000)
    flaky.away, flaky.slow = False, asyncio.Event()
    trying = asyncio.create_task(guarded.find(ADDRESS, NAMES))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await guarded.find(ADDRESS, NAMES)
    flaky.slow.set()
    assert (await trying).epochs == (1,)
    assert (await guarded.find(ADDRESS, NAMES)).epochs == (1,)


async def test_a_call_that_tries_is_the_only_one_however_long_it_takes(clock: FakeClock) -> None:
    flaky = Flaky()
    guarded = GuardedStore(flaky, Breaker(clock, retry_after_s=2))
    flaky.away = True
    with pytest.raises(StoreUnavailable):
        await guarded.find(ADDRESS, NAMES)
    clock.advance(2_000)
    flaky.slow = asyncio.Event()
    for tries in (1, 2):
        calls = [asyncio.create_task(guarded.find(ADDRESS, NAMES)) for _ in range(50)]
        await asyncio.sleep(0)
        clock.advance(60_000)
        others = await asyncio.gather(*(guarded.epochs(NAMES) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(other, StoreUnavailable) for other in others)
        assert flaky.asked == 1 + tries
        # Whoever tried is gone before it knew: the next one tries in its place.
        waiting = [call for call in calls if not call.done()]
        assert len(waiting) == 1
        waiting[0].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    flaky.slow, flaky.away = None, False
    assert (await guarded.find(ADDRESS, NAMES)).epochs == (1,)


async def test_a_call_from_before_the_outage_says_nothing_about_it(clock: FakeClock) -> None:
    """Neither its late success ends the outage, nor its late failure begins another one."""
    flaky = Flaky()
    guarded = GuardedStore(flaky, Breaker(clock, retry_after_s=2))
    flaky.slow = slow = asyncio.Event()
    late = asyncio.create_task(guarded.find(ADDRESS, NAMES))
    await asyncio.sleep(0)
    flaky.slow, flaky.away = None, True
    with pytest.raises(StoreUnavailable):
        await guarded.find(ADDRESS, NAMES)
    flaky.away = False
    slow.set()
    assert (await late).epochs == (1,)
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        await guarded.find(ADDRESS, NAMES)
    clock.advance(2_000)
    flaky.slow = slow = asyncio.Event()
    late = asyncio.create_task(guarded.find(ADDRESS, NAMES))  # tries, and is overtaken by a purge that succeeds
    await asyncio.sleep(0)
    flaky.slow = None
    await guarded.raise_epoch(NAMES[0])
    flaky.away = True
    slow.set()
    with pytest.raises(StoreUnavailable):
        await late
    flaky.away = False
    assert (await guarded.find(ADDRESS, NAMES)).epochs == (1,)


async def test_a_purge_is_tried_also_in_an_outage(clock: FakeClock) -> None:
    flaky = Flaky()
    guarded = GuardedStore(flaky, Breaker(clock, retry_after_s=2))
    flaky.away = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await guarded.raise_epoch(NAMES[0])
        with pytest.raises(StoreUnavailable):
            await guarded.under("0" * 8)
    assert flaky.asked == 4
    flaky.away = False
    assert await guarded.raise_epoch(NAMES[0]) == 2
    assert (await guarded.find(ADDRESS, NAMES)).epochs == (1,), "and its success ends the outage"


async def test_flights_do_not_wait_for_a_backend_that_is_away_either(clock: FakeClock) -> None:
    flaky = Flaky()
    breaker = Breaker(clock, retry_after_s=2)
    guarded, fills = GuardedStore(flaky, breaker), GuardedFills(MemoryFills(clock), breaker)
    lead = Lead(b"name", "token")
    assert await fills.board(b"name", Claim("token", 5.0)) == "token"
    flaky.away = True
    with pytest.raises(StoreUnavailable):
        await guarded.find(ADDRESS, NAMES)
    for call in (
        fills.board(b"name", Claim("other", 5.0)),
        fills.renew(lead, 5.0),
        fills.follow(lead, live=True),
        fills.publish(lead, [b"one"]),
        fills.read(lead, 0),
        fills.end(lead, b"last", alone_s=0.0),
    ):
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            await call
    clock.advance(2_000)
    assert (await fills.renew(lead, 5.0)).leads, "which tries, and ends the outage"
    assert await fills.publish(lead, [b"one"])
