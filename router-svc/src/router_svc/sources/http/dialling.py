"""Making connections: names resolved and remembered for a while, addresses raced (RFC 8305), TLS verified."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from router_svc.sources.http.connection import Connection

_NAMES_KEPT_S = 30.0
_MOST_NAMES = 1_000
_NEXT_ADDRESS_S = 0.25
"""How long an address has before the next is tried beside it."""


_STREAM: dict[str, Any] = {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections lead, and which requests may share them."""

    host: str
    port: int
    tls: bool


Make = Callable[[socket.socket], Connection]


class Dialler:
    """Opens connections. ``tls``: how sources over https prove who they are."""

    def __init__(self, tls: ssl.SSLContext, loop: asyncio.AbstractEventLoop) -> None:
        self._tls = tls
        self._loop = loop
        self._names: dict[Origin, tuple[float, list[AddrInfoType]]] = {}
        self._asking: dict[Origin, asyncio.Task[list[AddrInfoType]]] = {}

    async def open(self, origin: Origin, make: Make) -> Connection:
        """A new connection.

        Raises:
            OSError: none could be made.
        """
        addresses = await self._addresses(origin)
        try:
            sock = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=self._loop
            )
        except OSError:
            self._names.pop(origin, None)
            raise
        try:
            # A source that answers in small packets would else wait for ours, and we for its: 43 ms a stream elsewhere.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await self._loop.create_connection(
                lambda: make(sock),
                sock=sock,
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    async def aclose(self) -> None:
        """Stop asking for names."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _addresses(self, origin: Origin) -> list[AddrInfoType]:
        numeric = _numeric(origin)
        if numeric:
            return numeric
        known = self._names.get(origin)
        if known is not None and known[0] > self._loop.time():
            return known[1]
        task = self._asking.get(origin)
        if task is None:
            task = self._asking[origin] = asyncio.create_task(self._resolve(origin))
            task.add_done_callback(partial(self._asked, origin))
        # Another may wait for it still when this one's patience has ended.
        return await asyncio.shield(task)

    def _asked(self, origin: Origin, task: asyncio.Task[list[AddrInfoType]]) -> None:
        self._asking.pop(origin, None)
        if not task.cancelled():
            task.exception()  # whoever still waits is told; it is no news where nobody does

    async def _resolve(self, origin: Origin) -> list[AddrInfoType]:
        addresses: list[AddrInfoType] = list(
            await self._loop.getaddrinfo(origin.host, origin.port, **_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        self._names[origin] = (self._loop.time() + _NAMES_KEPT_S, addresses)
        return addresses


def _numeric(origin: Origin) -> list[AddrInfoType]:
    """The address, where the host is one; nothing is asked for that."""
    try:
        return list(socket.getaddrinfo(origin.host, origin.port, **_STREAM, flags=socket.AI_NUMERICHOST))
    except socket.gaierror:
        return []
