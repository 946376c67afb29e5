"""A connection of the own client without a network: its transport and its clock are a test's."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from router_svc.sources.http.connection import Connection
from router_svc.sources.http.dialling import Make


class FakeTransport:
    """Remembers what was done to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.done: list[str] = []
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")

    def abort(self) -> None:
        self.done.append("abort")

    def is_closing(self) -> bool:
        return "abort" in self.done

    def get_write_buffer_size(self) -> int:
        return self.unsent


class FakeLoop:
    """A clock that stands, and timers that are run by moving it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Any, FakeTimer]] = []
        self.set = 0

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def call_at(self, when: float, callback: Any) -> FakeTimer:
        self.set += 1
        timer = FakeTimer()
        self.timers.append((when, callback, timer))
        return timer

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback, timer in due:
            if not timer.cancelled:
                callback()


class FakeTimer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Rig:
    """A connection; ``make``: its maker."""

    def __init__(self, make: Make | None = None) -> None:
        self.loop, self.transport = FakeLoop(), FakeTransport()
        self.freed: list[Connection] = []
        self.lost: list[Connection] = []
        self.near, self.far = socket.socketpair()
        self.connection = (make or self._make)(self.near)
        self.connection.connection_made(cast(asyncio.Transport, self.transport))

    def feed(self, *reads: bytes) -> Connection:
        for read in reads:
            self.connection.data_received(read)
        return self.connection

    async def body(self) -> bytes:
        parts = []
        while part := await self.connection.read(self.loop.now + 10):
            parts.append(part)
        return b"".join(parts)

    def _make(self, sock: socket.socket) -> Connection:
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        return Connection(sock, loop, on_free=self.freed.append, on_lost=self.lost.append)
