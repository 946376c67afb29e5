"""Which names are served in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from meshkit.local.channel import LocalChannel
from meshkit.local.server import LocalServer


class LocalNetwork:
    """The servers of one process by name: ``ledger`` for ``local://ledger``. Belongs to one event loop."""

    def __init__(self) -> None:
        self._servers: dict[str, LocalServer] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def server(
        self,
        name: str,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
    ) -> LocalServer:
        """A server that takes the calls to ``name`` once it is started."""
        return LocalServer(name, self, interceptors, maximum_concurrent_rpcs)

    def channel(self, name: str, *, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> LocalChannel:
        """A channel to whoever serves ``name`` at the time of a call."""
        return LocalChannel(self, name, interceptors)

    def find(self, name: str) -> LocalServer | None:
        """Who serves ``name`` now."""
        return self._servers.get(name)

    def connect(self, name: str, server: LocalServer) -> None:
        """``server`` takes the calls to ``name`` from now on.

        Raises:
            RuntimeError: another does so already.
        """
        if name in self._servers:
            raise RuntimeError(f"local://{name} is served already")
        self._servers[name] = server
        self._changed()

    def disconnect(self, name: str) -> None:
        """Nobody takes the calls to ``name`` any more."""
        del self._servers[name]
        self._changed()

    def next_change(self) -> asyncio.Future[None]:
        """Done when a server comes or goes."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
