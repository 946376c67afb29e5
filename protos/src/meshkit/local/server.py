"""The server of one ``local://NAME``: takes generated servicers and server interceptors as ``grpc.aio.Server`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from meshkit.local.dispatch import Dispatcher
from meshkit.local.rpc import Outcome, Rpc

GOING_AWAY = Outcome(grpc.StatusCode.UNAVAILABLE, "the server is going away")


class Switchboard(Protocol):
    """Where servers are found by name."""

    def connect(self, name: str, server: LocalServer) -> None:
        """``server`` takes the calls to ``name`` from now on."""

    def disconnect(self, name: str) -> None:
        """Nobody takes the calls to ``name`` any more."""


class LocalServer(grpc.aio.Server):
    """Serves calls of the same event loop, each in a task of its own."""

    def __init__(
        self,
        name: str,
        switchboard: Switchboard,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
    ) -> None:
        self._name = name
        self._peer = f"local:{name}"
        self._switchboard = switchboard
        self._dispatcher = Dispatcher(interceptors, maximum_concurrent_rpcs)
        self._serving = False
        self._stopped = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers; asked in order, after the registered ones."""
        self._dispatcher.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the handlers of a service, by method."""
        self._dispatcher.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Not here."""
        raise NotImplementedError("a local server has a name, not a port")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Not here."""
        raise NotImplementedError("a local server has a name, not a port")

    async def start(self) -> None:
        """Takes calls from now on.

        Raises:
            RuntimeError: the name is served already.
        """
        # As on a socket, a handler does not see the context variables of its caller, but those of whoever started the
        # server.
        self._dispatcher.start()
        self._switchboard.connect(self._name, self)
        self._serving = True

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls; those running have ``grace`` seconds, then they are cancelled."""
        if not self._serving:
            return
        self._serving = False
        self._switchboard.disconnect(self._name)
        await self._dispatcher.stop(grace, GOING_AWAY)
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits for the end of ``stop``. True when ``timeout`` seconds passed before."""
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def accept(self, rpc: Rpc) -> None:
        """Begins to work on a call."""
        self._dispatcher.accept(rpc, self._peer)
