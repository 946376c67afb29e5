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
from cache_svc.domain.request import Group, epoch_name, group_of
from cache_svc.domain.statistics import Held
from cache_svc.service import Ending, Found, NewEpoch, Put, StoreFull, StoreUnavailable, StoreUsage
from cache_svc.store import redis_scripts as scripts
from cache_svc.store.redis_commands import RedisCommands, Word

_EPOCH_TTL_S = 30 * 24 * 3600
_SCAN_KEYS = 1_000
"""Keys that the server looks at in one step, about: half a millisecond."""
_COUNTED_KEYS = 1_000
_COUNTED_MOST = 100_000
"""Entries of one group that are looked at when they are counted; past them, bytes are in proportion."""
_GLOB = re.compile(rb"[*?\[\]\\^-]")
"""What means something in a pattern of SCAN."""


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
    """An ``EntryStore`` in Redis. Owns ``commands``."""

    def __init__(self, commands: RedisCommands, *, new_epoch: NewEpoch) -> None:
        self._commands = commands
        self._client = commands.client
        self._new_epoch = new_epoch

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._commands.aclose()

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        """One MGET, or one script; a second round trip only where an epoch is not there yet."""
        keys = [scripts.ENTRY + address, *(scripts.ENTRY + clue for clue in clues), *_epoch_keys(epoch_names)]
        leader: bytes | None = None
        with away():
            if claim is None or clues:
                answers = await self._commands.run("MGET", *keys)
            else:
                arguments = (scripts.LED + address, claim.token, round(1_000 * claim.lease_s))
                leader, *answers = await self._commands.run_script(scripts.FIND_OR_LEAD, keys, arguments)
            blob, read, epochs = answers[0], tuple(answers[1 : 1 + len(clues)]), answers[1 + len(clues) :]
            if None in epochs:
                return Found(await self.epochs(epoch_names), blob, read)
            led_by = leader.decode() if leader else ""
            return Found(tuple(map(int, epochs)), blob, read, led_by, leads=claim is not None and led_by == claim.token)

    async def epochs(self, epoch_names: Sequence[str]) -> tuple[int, ...]:
        """The epochs in force; those that are not there are begun."""
        begun = [_EPOCH_TTL_S, *(self._new_epoch() for _ in epoch_names)]
        with away():
            values = await self._commands.run_script(scripts.BEGIN_EPOCHS, _epoch_keys(epoch_names), begun)
            if None in values:
                raise StoreUnavailable("an epoch was evicted as soon as it was set")
            return tuple(map(int, values))

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
        """One script: keeps ``blob``, and its epochs for longer than that, counts it, and ends the flight."""
        group = _field_of(epoch_names)
        keys = [scripts.ENTRY + address, scripts.HELD + group, _groups_key(epoch_names), *_epoch_keys(epoch_names)]
        arguments: list[Word] = [blob, 1_000 * ttl_s, 1_000 * max(_EPOCH_TTL_S, 2 * ttl_s), address, group]
        arguments += (len(epoch_names), len(epochs), *epochs)
        if ending is not None:
            keys += scripts.flight_keys(ending.lead)
            arguments += (ending.lead.token, *scripts.last_words(ending.lead, ending.event))
        with away():
            kept, ended = await self._commands.run_script(scripts.PUT, keys, arguments)
        return Put(bool(kept), bool(ended))

    async def delete(self, address: bytes, epoch_names: Sequence[str] = ()) -> None:
        """Forgets what is at ``address``."""
        keys = [scripts.ENTRY + address, scripts.HELD + _field_of(epoch_names)]
        with away():
            await self._commands.run_script(scripts.DELETE, keys, [address])

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
        pattern = scripts.ENTRY + _GLOB.sub(rb"\\\g<0>", whole_bytes) + b"*"
        found: dict[bytes, bytes] = {}  # SCAN may give a key more than once
        with away():
            async for key in self._client.scan_iter(match=pattern, count=_SCAN_KEYS):
                address = cast("bytes", key)[len(scripts.ENTRY) :]
                if address.hex().startswith(prefix):
                    blob = cast("bytes | None", await self._client.get(key))
                    if blob is not None:
                        found[address] = blob
        return list(found.items())

    async def usage(self) -> StoreUsage:
        """Nothing: the server counts its bytes for all its users together, and entries are counted by organisation."""
        return StoreUsage(0, 0)

    async def held(self, org_id: str) -> dict[Group, Held]:
        """What is there of each group, looked at entry by entry up to 100,000 of them; see ``EntryStore``."""
        found = {}
        groups = _groups_key([epoch_name(org_id)])
        with away():
            listed = await self._commands.run("HKEYS", groups)
            for group in cast("list[bytes]", listed):
                found[group_of(group.decode().split(_BETWEEN))] = await self._counted(groups, group)
        return found

    async def _counted(self, groups: bytes, group: bytes) -> Held:
        entries, held_bytes, rank, evictions = 0, 0, 0, 0
        while rank < _COUNTED_MOST:
            looked, there, size, all_entries, evictions = await self._commands.run_script(
                scripts.COUNT, [scripts.HELD + group, groups], [scripts.ENTRY, group, rank, _COUNTED_KEYS]
            )
            entries, held_bytes, rank = entries + there, held_bytes + size, rank + there
            if looked < _COUNTED_KEYS:
                break
            if rank >= _COUNTED_MOST:
                return Held(all_entries, held_bytes * all_entries // entries, evictions)
        return Held(entries, held_bytes, evictions)


_BETWEEN = "\n"
"""Stands between the names of a group's epochs; in none of them, as they are JSON."""


def _field_of(epoch_names: Sequence[str]) -> bytes:
    return _BETWEEN.join(epoch_names).encode()


def _groups_key(epoch_names: Sequence[str]) -> bytes:
    return scripts.GROUPS + epoch_names[0].encode() if epoch_names else scripts.GROUPS


def _epoch_keys(names: Sequence[str]) -> list[bytes]:
    return [scripts.EPOCH + name.encode() for name in names]


@contextmanager
def away() -> Iterator[None]:
    """Raises ``StoreUnavailable`` or ``StoreFull`` for what the client raises inside."""
    try:
        yield
    except OutOfMemoryError as error:
        raise StoreFull(str(error)) from error
    except (RedisError, OSError, TimeoutError, ValueError) as error:  # ValueError: what lies there is no number
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
