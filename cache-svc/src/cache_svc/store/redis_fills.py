"""Flights of identical requests in Redis, shared by all replicas.

Three keys: who leads, by the flight's name, with the lease as its time to live, so that only the server's clock counts;
who follows, and what was said, both by name and leader. Word of a change goes over one channel, which each process
listens to once; a follower looks again from time to time, so lost word only delays it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cache_svc.domain.fill import ALONE, Claim, Lead
from cache_svc.service.fills import Attended, Said
from cache_svc.store import redis_scripts as scripts
from cache_svc.store.redis import away
from cache_svc.store.redis_commands import RedisCommands, Script, Word
from cache_svc.store.redis_scripts import CHANNEL, FOLLOWED, LED, SAID, SAID_MS, word_of
from cache_svc.store.shared import Trips

_FOLLOWED_MS = 15 * 60_000
"""Longer than any answer takes."""
_PUSHED_AT_ONCE = 1_000
_RECONNECT_S = 1.0

_RENEW = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local followed = redis.call('GET', KEYS[2])
return {1, followed and 1 or 0, followed == '1' and 1 or 0}
""")
_FOLLOW = Script("""
if ARGV[1] == '1' then redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
else redis.call('SET', KEYS[1], '0', 'PX', ARGV[2], 'NX') end
redis.call('PUBLISH', ARGV[3], ARGV[4])
""")
_PUBLISH = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
""")
_READ = Script("return {redis.call('LRANGE', KEYS[1], ARGV[1], -1), redis.call('GET', KEYS[2])}")

_log = structlog.get_logger(__name__)


def subscriber(url: str, *, timeout_s: float) -> Redis:
    """A client that listens: as ``redis.connect``, but it waits for word as long as there is none."""
    return Redis.from_url(url, socket_connect_timeout=timeout_s)


class RedisFills:
    """A ``FillStore`` in Redis. Does not own ``commands``; owns ``listener``, which listens from the first watch on."""

    def __init__(self, commands: RedisCommands, listener: Redis) -> None:
        self._commands = commands
        self._listener = listener
        self._boards: Trips[str] = Trips()
        self._watchers: defaultdict[bytes, set[asyncio.Event]] = defaultdict(set)
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def aclose(self) -> None:
        """Listens no longer."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._listener.aclose()

    async def board(self, name: bytes, claim: Claim) -> str:
        """One script, for all who ask at once."""
        leader, _ = await self._boards.ask((name, claim.lease_s), partial(self._board, name, claim))
        return leader

    async def _board(self, name: bytes, claim: Claim) -> str:
        with away():
            leader = await self._commands.run_script(scripts.BOARD, [LED + name], [claim.token, _ms(claim.lease_s)])
        return cast("bytes", leader).decode()

    async def renew(self, lead: Lead, lease_s: float) -> Attended:
        """One script."""
        keys = [LED + lead.name, FOLLOWED + word_of(lead)]
        with away():
            leads, *follows = await self._commands.run_script(_RENEW, keys, [lead.token, _ms(lease_s)])
        return Attended(True, *map(bool, follows)) if leads else Attended(leads=False)

    async def follow(self, lead: Lead, *, live: bool) -> None:
        """One script."""
        word = word_of(lead)
        with away():
            await self._commands.run_script(_FOLLOW, [FOLLOWED + word], [int(live), _FOLLOWED_MS, CHANNEL, word])

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """A script for each thousand events. None is sent twice: followers would hear it twice."""
        word = word_of(lead)
        keys = [LED + lead.name, SAID + word]
        arguments: list[Word] = [lead.token, SAID_MS, CHANNEL, word]
        with away():
            for start in range(0, len(events), _PUSHED_AT_ONCE):
                pushed = [*arguments, *events[start : start + _PUSHED_AT_ONCE]]
                if not await self._commands.run_script(_PUBLISH, keys, pushed, again=False):
                    return False
        return True

    async def end(self, lead: Lead, event: bytes, *, alone_s: float) -> bool:
        """One script. The last is kept only where somebody follows."""
        arguments = (lead.token, _ms(alone_s), ALONE, *scripts.last_words(lead, event))
        with away():
            return bool(await self._commands.run_script(scripts.END, scripts.flight_keys(lead), arguments))

    async def read(self, lead: Lead, position: int) -> Said:
        """One script: who leads no longer has said its last before."""
        keys = [SAID + word_of(lead), LED + lead.name]
        with away():
            events, leader = await self._commands.run_script(_READ, keys, [position])
        return Said(cast("list[bytes]", events), leader == lead.token.encode())

    @asynccontextmanager
    async def watch(self, lead: Lead) -> AsyncIterator[asyncio.Event]:
        """Hears of what happens from when this has been entered."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="listen to flights")
        event, word = asyncio.Event(), word_of(lead)
        self._watchers[word].add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RECONNECT_S):  # then it is looked for, from time to time
                    await self._subscribed.wait()
            yield event
        finally:
            watching = self._watchers[word]
            watching.discard(event)
            if not watching:
                del self._watchers[word]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._listener.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._tell(message["data"])
                        else:
                            self._subscribed.set()
                            self._tell_all()  # of what was said while nobody listened
            except (RedisError, OSError) as error:
                self._subscribed.clear()
                _log.warning("flights_not_heard", why=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RECONNECT_S)

    def _tell(self, word: bytes) -> None:
        for event in self._watchers.get(word, ()):
            event.set()

    def _tell_all(self) -> None:
        for word in self._watchers:
            self._tell(word)


def _ms(seconds: float) -> int:
    return round(1_000 * seconds)
