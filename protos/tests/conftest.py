"""A service whose methods each test writes itself, reachable over every transport."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import settings

from meshkit.exchange.channel import ExchangeChannel
from meshkit.exchange.servicer import ExchangeServicer
from meshkit.incoming import EXCHANGE
from meshkit.local import LocalNetwork
from meshkit.local.dispatch import Dispatcher
from meshkit.serve import Register
from meshkit.testing import TRANSPORTS, linked
from tallygate.mesh.v1.exchange_pb2_grpc import add_ExchangeServiceServicer_to_server

# How long an example takes says more of the machine's load than of the code.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")

SERVICE = "test.Probe"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Handler = Callable[..., Any]


@dataclass
class Probe:
    """A client of the service: one callable for each kind of method; ``call(NAME)`` for one by its name."""

    channel: grpc.aio.Channel

    def __getattr__(self, kind: str) -> Any:
        return self.call(kind, kind)

    def call(self, method: str, kind: str = "unary_unary") -> Any:
        make = getattr(self.channel, kind)
        return make(f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString)


def register(**handlers: Handler) -> Callable[[Any], None]:
    """Methods named as their kind, or ``NAME__KIND``."""
    methods = {}
    for key, handler in handlers.items():
        name, _, kind = key.rpartition("__")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        methods[name or kind] = make(handler, StringValue.FromString, StringValue.SerializeToString)

    def add(server: Any) -> None:
        # Both ways in, as the generated code does.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        server.add_registered_method_handlers(SERVICE, methods)

    return add


class _SparesTheExchange(grpc.aio.ServerInterceptor):
    """A command passes the interceptors by itself, so the stream that it comes on does not."""

    def __init__(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        self._interceptor = interceptor

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if handler_call_details.method == EXCHANGE:
            return await continuation(handler_call_details)
        return await self._interceptor.intercept_service(continuation, handler_call_details)


Served = Callable[..., AbstractAsyncContextManager[Probe]]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def served(transport: str) -> Served:
    """``async with served(unary_unary=handler) as probe``: the service in the mesh, with all that the mesh adds."""

    @asynccontextmanager
    async def serve(drain_s: float = 5.0, **handlers: Handler) -> AsyncIterator[Probe]:
        async with linked(register(**handlers), transport, drain_s=drain_s) as channel:
            yield Probe(channel)

    return serve


@pytest.fixture
def bare(transport: str) -> Served:
    """The same without what the mesh adds: what the transport itself does."""

    @asynccontextmanager
    async def serve(
        server_interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        client_interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
        **handlers: Handler,
    ) -> AsyncIterator[Probe]:
        network = LocalNetwork()
        with tempfile.TemporaryDirectory(prefix="bare-") as folder:
            server: grpc.aio.Server
            channel: grpc.aio.Channel
            if transport == "local":
                server = network.server(
                    "probe", interceptors=server_interceptors, maximum_concurrent_rpcs=maximum_concurrent_rpcs
                )
                channel = network.channel("probe", interceptors=client_interceptors)
            else:
                own_interceptors = [_SparesTheExchange(interceptor) for interceptor in server_interceptors]
                server = grpc.aio.server(interceptors=own_interceptors, maximum_concurrent_rpcs=maximum_concurrent_rpcs)
                if transport == "exchange":
                    commands = Dispatcher(server_interceptors, maximum_concurrent_rpcs)
                    register(**handlers)(commands)
                    commands.start()
                    add_ExchangeServiceServicer_to_server(ExchangeServicer(commands), server)
                target = f"unix:{folder}/s" if transport == "unix" else "127.0.0.1:0"
                port = server.add_insecure_port(target)
                target = target if transport == "unix" else f"127.0.0.1:{port}"
                channel = grpc.aio.insecure_channel(target, interceptors=client_interceptors)
                if transport == "exchange":
                    assert not client_interceptors, "the exchange takes none"
                    channel = ExchangeChannel(channel)
            register(**handlers)(server)
            await server.start()
            try:
                async with channel:
                    if transport == "exchange":
                        await channel.channel_ready()
                    yield Probe(channel)
            finally:
                await server.stop(0)

    return serve


@pytest.fixture(autouse=True)
def captured_logs() -> Iterator[list[Any]]:
    """What structlog would have printed."""
    with structlog.testing.capture_logs() as logs:
        yield logs


@pytest.fixture
def registering() -> Callable[..., Register]:
    return register
