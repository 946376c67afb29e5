"""Entries in Redis, or any server that speaks its protocol; shared by all replicas.

A key's name has the version of the entry's form in it, so that two builds never read each other's entries. Entries
leave by their TTL and by the server's own eviction, under any ``maxmemory-policy``: an epoch that was evicted comes
back with a new value, and what was stored under the old one is never found again. After a backup was restored, or a
replica took over that lagged behind, the purges since its state are to be made again; see ``EntryStore``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from cache_svc.domain.fill import Claim
from cache_svc.service import Found, NewEpoch, StoreFull, StoreUnavailable, StoreUsage

_ENTRY = b"tallygate:cache:1:entry:"
_EPOCH = b"tallygate:cache:1:epoch:"
_EPOCH_TTL_S = 30 * 24 * 3600
_SCAN_KEYS = 1_000
"""Keys that the server looks at in one step, about: half a millisecond."""
_GLOB = re.compile(rb"[*?\[\]\\^-]")
"""What means something in a pattern of SCAN."""

LED = b"tallygate:cache:1:fill:"
"""Before the name of a flight: the key that says who leads it."""
BOARD = """
local function board(key, token, lease_ms)
    local leader = redis.call('GET', key)
    if not leader then
        redis.call('SET', key, token, 'PX', lease_ms)
        leader = token
    end
    return leader
end
"""
"""A function for scripts: who leads, the caller where nobody did."""
_FIND_OR_LEAD = (
    BOARD
    + """
local found = redis.call('MGET', unpack(KEYS))
local name = ARGV[1]
for i = 2, #KEYS do
    if not found[i] then return {false, unpack(found, 1, #KEYS)} end
    name = name .. '|' .. found[i]
end
if found[1] then return {false, unpack(found, 1, #KEYS)} end
return {board(name, ARGV[2], ARGV[3]), unpack(found, 1, #KEYS)}
"""
)
"""What MGET gives, after who leads the flight of a request without an entry. The name is that of domain.fill."""


def connect(url: str, *, timeout_s: float, max_connections: int, queue_s: float = 1.5) -> Redis:
    """A client of ``redis://``, ``rediss://`` or ``unix://``. It connects with the first call.

    ``timeout_s`` bounds connecting and each answer. ``queue_s`` bounds waiting for one of ``max_connections``, which
    says nothing about the server: a burst of calls queues here, in this process.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=queue_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # Once, at once: after a restart of the server every pooled connection fails its first call.
        retry=Retry(NoBackoff(), 1),
    )
    return Redis.from_pool(pool)


class RedisStore:
    """An ``EntryStore`` in Redis. Owns ``client``."""

    def __init__(self, client: Redis, *, new_epoch: NewEpoch) -> None:
        self._client = client
        self._new_epoch = new_epoch
        self._find_or_lead = client.register_script(_FIND_OR_LEAD)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """One MGET, or one script; a second round trip only where an epoch is not there yet."""
        keys = [_ENTRY + address, *(_ENTRY + clue for clue in clues), *_epoch_keys(epoch_names)]
        with away():
            if claim is None or clues:
                answers = [None, *await self._client.mget(keys)]
            else:
                lease_ms = round(1_000 * claim.lease_s)
                answers = await self._find_or_lead(keys, [LED + address, claim.token, lease_ms])
            # Bytes, because the client decodes nothing.
            leader, blob, *rest = cast("list[bytes | None]", answers)
            read, epochs = tuple(rest[: len(clues)]), rest[len(clues) :]
            known = [int(epoch) for epoch in epochs if epoch is not None]
        if len(known) < len(epochs):
            return Found(await self.epochs(epoch_names), blob, read)
        return Found(tuple(known), blob, read, leader.decode() if leader else "")

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force; those that are not there are begun."""
        keys = _epoch_keys(epoch_names)
        with away():
            async with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.set(key, self._new_epoch(), nx=True, ex=_EPOCH_TTL_S)
                pipe.mget(keys)
                *_, values = await pipe.execute()
            if None in values:
                raise StoreUnavailable("an epoch was evicted as soon as it was set")
            return tuple(int(value) for value in values)

    async def put(self, address: bytes, blob: bytes, *, ttl_s: int, epoch_names: Sequence[str]) -> None:
        """Keeps ``blob``, and its epochs for longer than that."""
        with away():
            async with self._client.pipeline(transaction=False) as pipe:
                for key in _epoch_keys(epoch_names):
                    pipe.expire(key, max(_EPOCH_TTL_S, 2 * ttl_s))
                pipe.set(_ENTRY + address, blob, ex=ttl_s)
                await pipe.execute()

    async def delete(self, address: bytes) -> None:
        """Forgets what is at ``address``."""
        with away():
            await self._client.delete(_ENTRY + address)

    async def raise_epoch(self, epoch_name: str) -> int:
        """Sets a new value, above the last one.

        Not the last one plus one: after a restored backup that may be a value which the epoch had once before.
        """
        (key,) = _epoch_keys([epoch_name])

        async def write_next(pipe: Pipeline) -> int:
            last = cast("bytes | None", await pipe.get(key))
            epoch = max(int(last or 0) + 1, self._new_epoch())
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.set(key, epoch, ex=_EPOCH_TTL_S)
            return epoch

        with away():
            return cast("int", await self._client.transaction(write_next, key, value_from_callable=True))

    async def under(self, prefix: str) -> list[tuple[bytes, bytes]]:
        """SCAN over all that the server holds, many small steps between which it serves others."""
        whole_bytes = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
        pattern = _ENTRY + _GLOB.sub(rb"\\\g<0>", whole_bytes) + b"*"
        found: dict[bytes, bytes] = {}  # SCAN may give a key more than once
        with away():
            async for key in self._client.scan_iter(match=pattern, count=_SCAN_KEYS):
                address = cast("bytes", key)[len(_ENTRY) :]
                if address.hex().startswith(prefix):
                    blob = cast("bytes | None", await self._client.get(key))
                    if blob is not None:
                        found[address] = blob
        return list(found.items())

    async def usage(self) -> StoreUsage:
        """Nothing: the server counts its bytes for all its users together."""
        return StoreUsage(0, 0)

    async def held(self, org_id: str) -> None:
        """Not known, for the same reason."""


def _epoch_keys(names: Sequence[str]) -> list[bytes]:
    return [_EPOCH + name.encode() for name in names]


@contextmanager
def away() -> Iterator[None]:
    """Raises ``StoreUnavailable`` or ``StoreFull`` for what the client raises inside."""
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull(str(error)) from error
    except (RedisError, OSError, TimeoutError, ValueError) as error:  # ValueError: what lies there is no number
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
