"""Records in Redis, shared by all replicas: a stream for each organisation.

Each entry has its record and the total of bytes up to it, so that the stream alone tells how much it holds, whatever of
it the server evicts. What is older than its time is given to nobody; its bytes go with the next record, or at the
latest with the whole stream, as long after its newest record.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

from redis.asyncio import Redis

from cache_svc.service import Held, KeptRecord, RecordBounds, StoreFull
from cache_svc.store.record_position import position_of
from cache_svc.store.redis import away
from meshkit.clock import Clock

_RECORDS = b"tallygate:cache:1:recordings:"
_FORGOTTEN_FOR_MS = 24 * 3_600_000
"""Longer than any request is under way."""

# KEYS: the stream, and when it was last forgotten. ARGV: now, when it was asked, the record, the most records, the most
# bytes, the TTL; times in milliseconds.
_APPEND = """
local now, ttl = tonumber(ARGV[1]), tonumber(ARGV[6])
local forgotten = redis.call('GET', KEYS[2])
if forgotten and tonumber(ARGV[2]) <= tonumber(forgotten) then return 0 end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local total = #ARGV[3] + (newest and tonumber(newest[2][2]) or 0)
local entry = {'total', string.format('%.0f', total), 'record', ARGV[3]}
local added = redis.pcall('XADD', KEYS[1], ARGV[1] .. '-*', unpack(entry))
if type(added) == 'table' and added.err then
  -- the clock went back, or another replica's is ahead: it stands behind the newest all the same
  redis.call('XADD', KEYS[1], '*', unpack(entry))
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', math.max(0, now - ttl)))
while true do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local held = total - tonumber(oldest[2][2]) + #oldest[2][4]
  if redis.call('XLEN', KEYS[1]) <= tonumber(ARGV[4]) and held <= tonumber(ARGV[5]) then break end
  redis.call('XDEL', KEYS[1], oldest[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1
"""

_FORGET = """
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local records = redis.call('XLEN', KEYS[1])
redis.call('DEL', KEYS[1])
return records
"""


class RedisRecords:
    """A ``RecordStore`` in Redis 7 or Valkey. Does not own ``client``."""

    def __init__(self, client: Redis, bounds: RecordBounds, *, clock: Clock) -> None:
        self._client = client
        self._bounds = bounds
        self._clock = clock

    async def append(self, org_id: str, blob: bytes, *, asked_at_ms: int) -> bool:
        """One script."""
        bounds = self._bounds
        if len(blob) > bounds.max_bytes:
            raise StoreFull(f"a record of {len(blob)} bytes does not fit")
        arguments = (asked_at_ms, blob, bounds.max_records, bounds.max_bytes, bounds.ttl_s * 1_000)
        return bool(await self._run(_APPEND, org_id, self._clock.now_ms(), *arguments))

    async def read(self, org_id: str, *, after: str, from_ms: int, limit: int) -> list[KeptRecord]:
        """One XRANGE."""
        since_ms = max(from_ms, self._too_old_ms())
        begin = str(since_ms)
        if after and position_of(after) >= (since_ms, 0):
            begin = f"({after}"
        with away():
            found = await self._client.xrange(_stream(org_id), min=begin, count=limit)
        return [KeptRecord(position.decode(), fields[b"record"]) for position, fields in cast("_Entries", found)]

    async def held(self, org_id: str) -> Held:
        """What is not too old; the rest goes."""
        stream = _stream(org_id)
        with away():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.xtrim(stream, minid=str(self._too_old_ms()), approximate=False)
                pipe.xlen(stream)
                pipe.xrange(stream, count=1)
                pipe.xrevrange(stream, count=1)
                _, records, oldest, newest = await pipe.execute()
        if not records:
            return Held()
        (first, first_fields), (last, last_fields) = oldest[0], newest[0]
        held_bytes = int(last_fields[b"total"]) - int(first_fields[b"total"]) + len(first_fields[b"record"])
        return Held(records, held_bytes, position_of(first.decode())[0], position_of(last.decode())[0])

    async def forget(self, org_id: str, *, grace_ms: int = 0) -> int:
        """One script."""
        return int(await self._run(_FORGET, org_id, self._clock.now_ms() + grace_ms, _FORGOTTEN_FOR_MS))

    async def _run(self, script: str, org_id: str, *arguments: str | int | bytes) -> int:
        stream = _stream(org_id)
        with away():
            call = self._client.eval(script, 2, stream, stream + b":forgotten", *cast("Any", arguments))
            return await cast("Awaitable[int]", call)

    def _too_old_ms(self) -> int:
        return max(0, self._clock.now_ms() - self._bounds.ttl_s * 1_000)


_Entries = list[tuple[bytes, dict[bytes, bytes]]]


def _stream(org_id: str) -> bytes:
    # In braces: both keys of an organisation lie on one node of a cluster.
    return _RECORDS + b"{" + org_id.encode() + b"}"
