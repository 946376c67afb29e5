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
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cache_svc.domain.fill import ALONE, Claim, Lead
from cache_svc.service.fills import Attended, Said
from cache_svc.store.redis import BOARD, LED, away

_SAID = b"tallygate:cache:1:fill-said:"
_FOLLOWED = b"tallygate:cache:1:fill-followed:"
_CHANNEL = b"tallygate:cache:1:fills"
_SAID_MS = 60_000
"""What was said is kept so long after the last of it: longer than a lease, and than a follower may lag behind."""
_FOLLOWED_MS = 15 * 60_000
"""Longer than any answer takes."""
_PUSHED_AT_ONCE = 1_000
_RECONNECT_S = 1.0

_ONLY_BOARD = BOARD + "return board(KEYS[1], ARGV[1], ARGV[2])"
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local followed = redis.call('GET', KEYS[2])
return {1, followed and 1 or 0, followed == '1' and 1 or 0}
"""
_FOLLOW = """
if ARGV[1] == '1' then redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
else redis.call('SET', KEYS[1], '0', 'PX', ARGV[2], 'NX') end
redis.call('PUBLISH', ARGV[3], ARGV[4])
"""
_PUBLISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
_END = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[6] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[7], 'PX', ARGV[6]) end
if redis.call('DEL', KEYS[3]) == 0 then return 1 end
redis.call('RPUSH', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""

_log = structlog.get_logger(__name__)


def subscriber(url: str, *, timeout_s: float) -> Redis:
    """A client that listens: as ``redis.connect``, but it waits for word as long as there is none."""
    return Redis.from_url(url, socket_connect_timeout=timeout_s)


class RedisFills:
    """A ``FillStore`` in Redis. Does not own ``client``; owns ``listener``, which listens from the first watch on."""

    def __init__(self, client: Redis, listener: Redis) -> None:
        self._client = client
        self._listener = listener
        self._board = client.register_script(_ONLY_BOARD)
        self._renew = client.register_script(_RENEW)
        self._follow = client.register_script(_FOLLOW)
        self._publish = client.register_script(_PUBLISH)
        self._end = client.register_script(_END)
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
        """One script."""
        with away():
            leader = await self._board([LED + name], [claim.token, _ms(claim.lease_s)])
        return cast("bytes", leader).decode()

    async def renew(self, lead: Lead, lease_s: float) -> Attended:
        """One script."""
        with away():
            leads, *follows = await self._renew([LED + lead.name, _followed(lead)], [lead.token, _ms(lease_s)])
        return Attended(True, *map(bool, follows)) if leads else Attended(leads=False)

    async def follow(self, lead: Lead, *, live: bool) -> None:
        """One script."""
        with away():
            await self._follow([_followed(lead)], [int(live), _FOLLOWED_MS, _CHANNEL, _word(lead)])

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """A script for each thousand events."""
        keys = [LED + lead.name, _said(lead)]
        arguments: list[bytes | str | int] = [lead.token, _SAID_MS, _CHANNEL, _word(lead)]
        with away():
            for start in range(0, len(events), _PUSHED_AT_ONCE):
                if not await self._publish(keys, [*arguments, *events[start : start + _PUSHED_AT_ONCE]]):
                    return False
        return True

    async def end(self, lead: Lead, event: bytes, *, alone_s: float) -> bool:
        """One script. The last is kept only where somebody follows."""
        keys = [LED + lead.name, _said(lead), _followed(lead)]
        arguments: list[bytes | str | int] = [lead.token, _SAID_MS, _CHANNEL, _word(lead), event, _ms(alone_s), ALONE]
        with away():
            return bool(await self._end(keys, arguments))

    async def read(self, lead: Lead, position: int) -> Said:
        """One transaction: who leads no longer has said its last before."""
        with away():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.lrange(_said(lead), position, -1)
                pipe.get(LED + lead.name)
                events, leader = await pipe.execute()
        return Said(cast("list[bytes]", events), leader == lead.token.encode())

    @asynccontextmanager
    async def watch(self, lead: Lead) -> AsyncIterator[asyncio.Event]:
        """Hears of what happens from when this has been entered."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="listen to flights")
        event, word = asyncio.Event(), _word(lead)
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
                    await channel.subscribe(_CHANNEL)
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


def _word(lead: Lead) -> bytes:
    return lead.name + b"|" + lead.token.encode()


def _said(lead: Lead) -> bytes:
    return _SAID + _word(lead)


def _followed(lead: Lead) -> bytes:
    return _FOLLOWED + _word(lead)
