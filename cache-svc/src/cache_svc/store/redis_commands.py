"""The Redis commands of all callers, on one connection.

What is asked in one turn of the loop goes out as one write, and answers come back in the order of the commands
(https://redis.io/docs/latest/develop/using-commands/pipelining/). A command so costs a tenth of one that borrows a
connection, and a burst waits for nothing but the server. What is rare, or takes its time at the server, goes over the
pool of ``client``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

Word = bytes | str | int
Reply = Any
"""Bytes, an int, None, or a list of such; OK and the like are bytes."""

_pack = cast("Callable[[Sequence[Word]], bytes]", hiredis.pack_command)
_MORE = object()
_ERRORS: dict[str, type[ResponseError]] = {"OOM": OutOfMemoryError, "NOSCRIPT": NoScriptError}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which the server is sent once and then knows by its digest."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class RedisCommands:
    """Commands to the server of ``client``, under its bounds of time: an answer, or a part of one, comes within
    ``timeout_s`` of the one before it, and every command is answered within ``queue_s`` and that. Their number is
    bounded by the calls that the process takes.

    A command that a lost connection may have carried out is sent once more unless its caller says otherwise. Every
    method may raise what ``redis`` raises.
    """

    def __init__(self, client: Redis) -> None:
        """Owns ``client``. It connects with the first command."""
        pool: Any = client.connection_pool
        self.client = client
        self._where: Any = pool.make_connection()  # never connected: it is the URL, read
        self._queue_s: float = pool.timeout
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._link is not None:
            await self._link.aclose()
            self._link = None
        await self.client.aclose()

    async def run(self, *words: Word, again: bool = True) -> Reply:
        """The answer to one command. ``again``: it may be carried out twice."""
        packed = _pack(words)
        link = self._link
        try:
            if link is None or link.lost:
                link = await self._linked()
            return await link.ask(packed)
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            # After a restart of the server the first command meets a dead connection.
            if isinstance(error, Overdue) or not again:
                raise
        return await (await self._linked()).ask(packed)

    async def run_script(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Word], *, again: bool = True
    ) -> Reply:
        """What ``script`` returns."""
        try:
            return await self.run("EVALSHA", script.digest, len(keys), *keys, *arguments, again=again)
        except NoScriptError:
            return await self.run("EVAL", script.text, len(keys), *keys, *arguments, again=again)

    async def _linked(self) -> _Link:
        """The connection, made once for all who wait for it."""
        if self._link is not None and not self._link.lost:
            return self._link
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="connect to Redis")
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[_Link]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._link = task.result()

    async def _connect(self) -> _Link:
        loop, where = asyncio.get_running_loop(), self._where
        link = _Link(loop, where.socket_timeout, self._queue_s)
        try:
            async with asyncio.timeout(where.socket_connect_timeout):
                if hasattr(where, "path"):
                    await loop.create_unix_connection(lambda: link, where.path)
                else:
                    secure: Any = getattr(where, "ssl_context", None)
                    context = secure.get() if secure is not None else None
                    await loop.create_connection(lambda: link, where.host, where.port, ssl=context)
                await self._introduce(link)
        except TimeoutError as error:
            link.lose(RedisTimeoutError("connecting took too long"))
            raise RedisTimeoutError("connecting took too long") from error
        except BaseException:
            link.lose(RedisConnectionError("not connected"))
            raise
        return link

    async def _introduce(self, link: _Link) -> None:
        where = self._where
        if where.password:
            names = [where.username] if where.username else []
            await link.ask(_pack(("AUTH", *names, where.password)))
        if where.db:
            await link.ask(_pack(("SELECT", where.db)))


class Overdue(RedisTimeoutError):
    """The server answers, and not fast enough for all that it is asked."""


class _Link(asyncio.Protocol):
    """One connection. Answers go to the commands in their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, queue_s: float) -> None:
        self.lost = False
        self._loop = loop
        self._timeout_s = timeout_s
        self._longest_s = queue_s + timeout_s
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=_MORE)
        self._asked: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._outgoing: list[bytes] = []
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._gone = loop.create_future()

    def ask(self, packed: bytes) -> asyncio.Future[Reply]:
        """The answer to one command."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        now_s = self._loop.time()
        if not self._asked:
            self._heard_s = now_s  # an idle server owes nothing
        self._asked.append((now_s, answer))
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        if self._timer is None:
            self._timer = self._loop.call_at(now_s + self._timeout_s, self._look)
        return answer

    async def aclose(self) -> None:
        self.lose(RedisConnectionError("closed"))
        await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE:
                _, answer = self._asked.popleft()
                if answer.done():
                    continue  # its caller is gone, or was told that it took too long
                if isinstance(reply, RedisError):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.lose(RedisConnectionError(f"no answer to what was asked: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(RedisConnectionError(f"the connection was lost: {exc}"))
        if not self._gone.done():
            self._gone.set_result(None)

    def lose(self, error: RedisError) -> None:
        """Fails what is asked; nothing more is."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is None:
            if not self._gone.done():
                self._gone.set_result(None)
        else:
            self._transport.abort()
        while self._asked:
            _, answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(error)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.lost or self._transport is None:
            return
        self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def _look(self) -> None:
        """Whether the server owes something. One timer for the connection, not one a command."""
        self._timer = None
        if not self._asked:
            return
        if self._loop.time() >= self._heard_s + self._timeout_s:
            # Where it was this process that stood still, what came meanwhile is read within the next turn.
            self._loop.call_soon(self._loop.call_soon, self._give_up, self._heard_s)
            return
        self._tell_overdue()
        self._timer = self._loop.call_at(self._heard_s + self._timeout_s, self._look)

    def _give_up(self, heard_s: float) -> None:
        if self._asked and self._heard_s == heard_s:
            self.lose(RedisTimeoutError("the server does not answer"))
        elif self._asked and self._timer is None:
            self._timer = self._loop.call_at(self._heard_s + self._timeout_s, self._look)

    def _tell_overdue(self) -> None:
        before_s = self._loop.time() - self._longest_s
        for asked_s, answer in self._asked:
            if asked_s > before_s:
                break
            if not answer.done():
                answer.set_exception(Overdue("too much is asked of the server"))


def _error(text: str) -> ResponseError:
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(text)
