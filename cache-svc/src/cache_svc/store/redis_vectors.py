"""Vectors and comparisons in Redis, shared by all replicas.

Vectors need the vector sets of Redis 8 (VADD, VSIM); Valkey and older servers have none, and then each replica keeps
its own vectors in its process. Comparisons are plain counters, on any server.
"""

from __future__ import annotations

from typing import Any, cast

import structlog
from redis.asyncio import Redis

from cache_svc.domain.trust import Comparisons
from cache_svc.service.semantic import Vector, VectorIndex
from cache_svc.store.redis import away

_log = structlog.get_logger(__name__)

# A vector set has one length of vectors, and vectors of two models say nothing about each other.
_VECTORS = b"tallygate:cache:1:vectors:wordllama256:"
_COMPARISONS = b"tallygate:cache:1:comparisons:"
_RIGHT, _WRONG = b"r", b"w"
MAX_BUCKET_VECTORS = 100_000
"""Vectors of one bucket; past it one goes, whichever."""


class RedisVectors:
    """A ``VectorIndex`` in vector sets, one for each bucket: approximate (HNSW), rounded to 8 bits."""

    def __init__(self, client: Redis, *, max_bucket_vectors: int = MAX_BUCKET_VECTORS) -> None:
        self._client = client
        self._max_bucket_vectors = max_bucket_vectors

    async def nearest(self, bucket: bytes, vector: Vector, most: int) -> list[bytes]:
        """See ``VectorIndex``."""
        with away():
            found = await _call(self._client, "VSIM", _VECTORS + bucket, "FP32", _fp32(vector), "COUNT", most)
        return cast("list[bytes]", found)

    async def add(self, bucket: bytes, address: bytes, vector: Vector, *, ttl_s: int) -> None:
        """A vector leaves with the longest TTL of its bucket, or when its entry is found to be gone."""
        key = _VECTORS + bucket
        with away():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.execute_command("VADD", key, "FP32", _fp32(vector), address)
                pipe.expire(key, ttl_s, nx=True)
                pipe.expire(key, ttl_s, gt=True)
                pipe.execute_command("VCARD", key)
                *_, held = await pipe.execute()
            if held > self._max_bucket_vectors:
                some = await _call(self._client, "VRANDMEMBER", key)
                await _call(self._client, "VREM", key, some)

    async def remove(self, bucket: bytes, address: bytes) -> None:
        """See ``VectorIndex``."""
        with away():
            await _call(self._client, "VREM", _VECTORS + bucket, address)


class DetectedVectors:
    """A ``VectorIndex``: in Redis where it has vector sets, else ``otherwise``. Asked at first use, and again until
    Redis has answered: a server that is away when the process starts must not decide how it is used afterwards.
    """

    def __init__(self, client: Redis, otherwise: VectorIndex) -> None:
        self._client = client
        self._otherwise = otherwise
        self._chosen: VectorIndex | None = None

    async def nearest(self, bucket: bytes, vector: Vector, most: int) -> list[bytes]:
        """See ``VectorIndex``."""
        return await (await self._index()).nearest(bucket, vector, most)

    async def add(self, bucket: bytes, address: bytes, vector: Vector, *, ttl_s: int) -> None:
        """See ``VectorIndex``."""
        await (await self._index()).add(bucket, address, vector, ttl_s=ttl_s)

    async def remove(self, bucket: bytes, address: bytes) -> None:
        """See ``VectorIndex``."""
        await (await self._index()).remove(bucket, address)

    async def _index(self) -> VectorIndex:
        if self._chosen is None:
            shared = await has_vector_sets(self._client)
            self._chosen = RedisVectors(self._client) if shared else self._otherwise
            _log.info("semantic_index_chosen", index="redis vector sets" if shared else "this process alone")
        return self._chosen


async def has_vector_sets(client: Redis) -> bool:
    """Whether the server has VADD and VSIM.

    Raises:
        StoreUnavailable: it is away.
    """
    with away():
        # One word, so that the client's reader of COMMAND does not see the answer: it breaks at a command not there.
        described = await _call(client, "COMMAND INFO", "VADD", "VSIM")
    return None not in described and len(described) == 2


class RedisComparisons:
    """A ``ComparisonStore`` in hashes of counters, so that replicas that learn at the same time lose nothing."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def read(self, name: bytes) -> Comparisons:
        """See ``ComparisonStore``."""
        with away():
            counts = await self._client.hgetall(_COMPARISONS + name)
            by_field = {cast("bytes", field): int(count) for field, count in counts.items()}
            return Comparisons(_side(by_field, _RIGHT), _side(by_field, _WRONG))

    async def record(self, name: bytes, step: int, *, right: bool, ttl_s: int) -> None:
        """See ``ComparisonStore``."""
        key, side = _COMPARISONS + name, _RIGHT if right else _WRONG
        with away():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hincrby(key, f"{side.decode()}{step}", 1)
                pipe.ttl(key)
                _, expires_in_s = await pipe.execute()
            if expires_in_s < 0:
                await self._client.expire(key, ttl_s)


async def _call(client: Redis, *words: bytes | str | int) -> Any:
    """A command that the client has no method for, or none with types."""
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]


def _side(counts: dict[bytes, int], side: bytes) -> dict[int, int]:
    return {int(field[1:]): count for field, count in counts.items() if field[:1] == side}


def _fp32(vector: Vector) -> bytes:
    return vector.astype("<f4").tobytes()
