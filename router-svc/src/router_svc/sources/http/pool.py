"""Connections kept for the next request, over all sources no more than a bound; who finds none free waits in line."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from router_svc.sources.http.connection import Connection
from router_svc.sources.http.dialling import Dialler, Origin

_BEFORE_THE_SOURCE_S = 1.0
"""A connection is given up so long before its source said it would: what is sent then could cross its end."""


class Pool:
    """``most``: connections at once, those kept idle among them. ``idle_s``: how long an idle one is kept."""

    def __init__(self, dialler: Dialler, loop: asyncio.AbstractEventLoop, *, most: int, idle_s: float) -> None:
        self._dialler = dialler
        self._loop = loop
        self._most = most
        self._idle_s = idle_s
        self._open: dict[Connection, Origin] = {}
        self._opening = 0
        self._idle: dict[Origin, deque[Connection]] = {}
        self._line: deque[tuple[Origin, asyncio.Future[Connection | None]]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._ended = False

    def idle(self, origin: Origin) -> Connection | None:
        """A connection that may be asked at once, the one that was used last."""
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.idle_until > self._loop.time() and connection.is_usable:
                return connection
            self.drop(connection)
        return None

    async def open(self, origin: Origin) -> Connection:
        """A connection where ``idle`` had none: a new one, or in its turn one that has become free.

        Raises:
            OSError: none could be made.
        """
        if self._ended:
            raise OSError("the pool is closed")
        while True:
            if self._has_place() or self._evict():
                self._opening += 1
                break
            connection = await self._turn(origin)
            if connection is None:
                break  # a place, already counted
            if connection.is_usable:
                return connection
            self.drop(connection)  # closed since it was given
        try:
            connection = await self._dialler.open(origin, self._make)
        except BaseException:
            self._opening -= 1
            self._next()
            raise
        self._opening -= 1
        self._open[connection] = origin
        if self._ended or not connection.is_usable:
            self.drop(connection)
            raise OSError("closed before anything was asked")
        return connection

    def give_back(self, connection: Connection) -> None:
        """The exchange is over, or its caller has left it."""
        origin = self._open.get(connection)
        if origin is None or not connection.is_reusable or self._ended:
            self.drop(connection)
            return
        connection.release()
        while self._line:
            wanted, turn = self._line[0]
            if turn.done():
                self._line.popleft()
            elif wanted == origin and connection.is_usable:
                self._line.popleft()
                turn.set_result(connection)
                return
            else:
                self.drop(connection)
                return
        self._keep(connection, origin)

    def drop(self, connection: Connection) -> None:
        """Close it."""
        connection.close()
        self._forget(connection)

    async def aclose(self) -> None:
        """Close all. Who stands in line is refused."""
        self._ended = True
        if self._sweep is not None:
            self._sweep.cancel()
        for _, turn in self._line:
            if not turn.done():
                turn.set_exception(OSError("the pool is closed"))
        self._line.clear()
        self._idle.clear()
        for connection in list(self._open):
            self.drop(connection)
        await self._dialler.aclose()
        await asyncio.sleep(0)  # the loop lets go of sockets in its next round

    def _make(self, sock: socket.socket) -> Connection:
        return Connection(sock, self._loop, on_free=self.give_back, on_lost=self._forget)

    def _has_place(self) -> bool:
        return len(self._open) + self._opening < self._most

    def _evict(self) -> bool:
        """Close the connection that is idle for longest at some source: another source needs its place."""
        for kept in self._idle.values():
            if kept:
                connection = kept.popleft()
                connection.close()
                self._open.pop(connection, None)
                return True
        return False

    def _keep(self, connection: Connection, origin: Origin) -> None:
        kept_s = self._idle_s
        if connection.kept_s is not None:
            kept_s = min(kept_s, connection.kept_s - _BEFORE_THE_SOURCE_S)
        if kept_s <= 0:
            self.drop(connection)
            return
        connection.idle_until = self._loop.time() + kept_s
        kept = self._idle.get(origin)
        if kept is None:
            kept = self._idle[origin] = deque()
        kept.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_s, self._close_expired)

    def _close_expired(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for origin, kept in list(self._idle.items()):
            for connection in [one for one in kept if one.idle_until <= now]:
                kept.remove(connection)
                self.drop(connection)
            if not kept:
                del self._idle[origin]
        if self._idle and self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_s / 2, self._close_expired)

    async def _turn(self, origin: Origin) -> Connection | None:
        """Wait in line for a free connection, or for the place to open one."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._line.append((origin, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(turn.result())
            raise

    def _pass_on(self, given: Connection | None) -> None:
        """Give what one can't use any more to who is next."""
        if given is None:
            self._opening -= 1
            self._next()
        elif given in self._open:
            self.give_back(given)

    def _next(self) -> None:
        """A place is free: let the first in line open a connection."""
        while self._line and self._has_place():
            _, turn = self._line.popleft()
            if not turn.done():
                self._opening += 1
                turn.set_result(None)

    def _forget(self, connection: Connection) -> None:
        origin = self._open.pop(connection, None)
        if origin is None:
            return
        kept = self._idle.get(origin)
        if kept and connection in kept:
            kept.remove(connection)
        self._next()
