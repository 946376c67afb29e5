"""Flights in Redis, shared by all replicas.

A value is a random version and the record. A server that evicts, fails over or restarts may lose a record; see
``FlightStore``.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import cast

from cache_svc.service import Kept
from cache_svc.store.redis import away
from cache_svc.store.redis_commands import RedisCommands, Script

_FLIGHT = b"tallygate:cache:1:flight:"
_VERSION_BYTES = 16
_POLL_S = 0.05
"""How often a waiter looks. Whoever waits is a retry of a call that takes a second or more."""

_SWAP = Script(f"""
if redis.call('GETRANGE', KEYS[1], 0, {_VERSION_BYTES - 1}) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
""")


class RedisFlights:
    """A ``FlightStore`` in Redis. Does not own ``commands``."""

    def __init__(self, commands: RedisCommands) -> None:
        self._commands = commands

    async def load(self, name: bytes) -> Kept | None:
        """One GET."""
        with away():
            value = cast("bytes | None", await self._commands.run("GET", _FLIGHT + name))
        return None if value is None else Kept(value[:_VERSION_BYTES], value[_VERSION_BYTES:])

    async def swap(
        self, name: bytes, version: bytes | None, blob: bytes, *, ttl_s: int, pinned_until_ms: int = 0
    ) -> bool:
        """One script. The server knows no pins: under an evicting policy it may drop what is led."""
        del pinned_until_ms
        value = secrets.token_bytes(_VERSION_BYTES) + blob
        with away():
            return bool(await self._commands.run_script(_SWAP, [_FLIGHT + name], [version or b"", value, ttl_s]))

    async def changed(self, name: bytes, version: bytes, within_s: float) -> None:
        """After a moment: the caller looks again."""
        del name, version
        await asyncio.sleep(min(within_s, _POLL_S))
