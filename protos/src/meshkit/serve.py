"""Serving: from a ``Register`` and an address to a running server, with health, reflection and a graceful end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meshkit import addresses
from meshkit.exchange.servicer import ExchangeServicer
from meshkit.heap import settle_heap
from meshkit.incoming import Incoming
from meshkit.local import LocalNetwork
from meshkit.local.dispatch import Dispatcher
from meshkit.telemetry import Telemetry
from meshkit.transport import MAX_CONCURRENT_RPCS, SERVER_OPTIONS
from tallygate.mesh.v1.exchange_pb2_grpc import add_ExchangeServiceServicer_to_server

Register = Callable[[grpc.aio.Server], None]
"""Adds the servicers of a service to a server."""

_UNWIND_S = 5.0
"""What a handler that was cancelled has to clean up in, before the server ends without it."""


_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running(
    register: Register,
    address: str,
    telemetry: Telemetry,
    *,
    local: LocalNetwork | None = None,
    drain_s: float = 30.0,
) -> AsyncIterator[str]:
    """Serves at ``address`` inside the block; gives the address as bound, with the port that was free for port 0.

    On leaving: health says NOT_SERVING, watches end, no call is accepted any more, and those running have ``drain_s``
    seconds to finish before they are cancelled and end with UNAVAILABLE.

    Raises:
        ValueError: not an address, or a local one without a local network.
        RuntimeError: the address can't be bound.
    """
    scheme, rest = addresses.parse(address)
    incoming = Incoming(telemetry.tracer)
    server: grpc.aio.Server
    commands = Dispatcher([incoming], MAX_CONCURRENT_RPCS)
    exchange = ExchangeServicer(commands)
    if scheme == addresses.LOCAL:
        if local is None:
            raise ValueError(f"{address} needs a local network, and none was given")
        server = local.server(rest, interceptors=[incoming], maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS)
    else:
        server = grpc.aio.server(
            interceptors=[incoming], options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS
        )
        add_ExchangeServiceServicer_to_server(exchange, server)
    services = _NamedServices(server, commands)
    register(services)
    healthy = await _add_infrastructure(services)
    if scheme != addresses.LOCAL:
        address = _bind(server, scheme, rest)
    commands.start()
    await server.start()
    _log.info("serving", address=address, service=telemetry.service_name)
    try:
        yield address
    finally:
        await healthy.enter_graceful_shutdown()
        await _drain(server, incoming, exchange, drain_s)
        _log.info("stopped", address=address, service=telemetry.service_name)


async def serve(register: Register, address: str, telemetry: Telemetry, *, drain_s: float = 30.0) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal ends the process in the usual way."""
    async with running(register, address, telemetry, drain_s=drain_s):
        settle_heap()
        await until_signalled()


async def until_signalled() -> None:
    """Returns at the first SIGTERM or SIGINT. From then on they do again what they did before."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    try:
        await signalled.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _bind(server: grpc.aio.Server, scheme: str, rest: str) -> str:
    """Binds the server to a socket; gives the address as bound."""
    if scheme == addresses.UNIX:
        if _is_served(rest):
            raise RuntimeError(f"failed to bind unix://{rest}: it is served already")
        server.add_insecure_port(addresses.target(scheme, rest))
        return f"unix://{rest}"
    port = server.add_insecure_port(addresses.target(scheme, rest))
    return f"grpc://{rest.rpartition(':')[0]}:{port}"


def _is_served(path: str) -> bool:
    """Whether someone listens at ``path``: grpc would take a socket's file away from a server that runs."""
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(path) == 0


async def _drain(server: grpc.aio.Server, incoming: Incoming, exchange: ExchangeServicer, drain_s: float) -> None:
    """Stops accepting at once; ends what is still running after ``drain_s`` with a status that says why."""
    incoming.end_watches()
    exchange.leave()
    stopping = asyncio.create_task(server.stop(drain_s + _UNWIND_S))
    await asyncio.wait({stopping}, timeout=drain_s)
    if not stopping.done():
        incoming.end_work()
    await stopping
    await exchange.unwound(_UNWIND_S)


async def _add_infrastructure(services: _NamedServices) -> Any:
    names = list(services.names)
    healthy: Any = health.aio.HealthServicer()
    for name in names:
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, services)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], services)
    return healthy


class _NamedServices(grpc.aio.Server):
    """Passes registrations on to a server, and to what serves the commands that reach it, and keeps the names of the
    services.
    """

    def __init__(self, server: grpc.aio.Server, commands: Dispatcher) -> None:
        self._server = server
        self._commands = commands
        self.names: dict[str, None] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.names[handler.service_name()] = None
        self._server.add_generic_rpc_handlers(handlers)
        self._commands.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        self.names[service_name] = None
        self._server.add_registered_method_handlers(service_name, method_handlers)
        self._commands.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        raise NotImplementedError("a Register adds servicers, not ports")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise NotImplementedError("a Register adds servicers, not ports")

    async def start(self) -> None:
        raise NotImplementedError("a Register does not start the server")

    async def stop(self, grace: float | None) -> None:
        raise NotImplementedError("a Register does not stop the server")

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        raise NotImplementedError("a Register does not wait for the server")
