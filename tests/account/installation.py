"""The whole of Tallygate in this process, on SQLite, asked over HTTP as a client asks."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import edge.wiring
from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from edge.front import Front
from edge.settings import EdgeSettings
from ledger_svc.settings import LedgerSettings
from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database
from meshkit.money import NANO_PER_USD
from meshkit.telemetry import Telemetry
from router_svc.settings import RouterSettings
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.composition import Addresses, Composition, MakeTelemetry, ServiceSettings
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream, scripted_upstream

TIMEOUT_S = 20.0
MODEL = "test/ok"
"""A model of the scripted upstream that answers."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation with 1,000 USD, and clients of its own."""

    org_id: str
    project_id: str
    inference_key: str
    """The id of a key that calls models."""
    http: httpx.AsyncClient
    """With an account key that may change all."""
    reading: httpx.AsyncClient
    """With an account key that only reads."""
    chatting: httpx.AsyncClient
    """With the inference key."""

    async def chat(self, text: str = "hello", **fields: Any) -> httpx.Response:
        """One completion; ``temperature`` 0, so that it is replayed the second time."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
        return await self.chatting.post("/v1/chat/completions", json=body | fields)


@dataclass(frozen=True, slots=True)
class Installation:
    """A running gateway, and its ledger as the operator reaches it."""

    ledger: ledger_pb2_grpc.LedgerServiceAsyncStub
    ledger_channel: Any
    upstream: ScriptedUpstream
    app: Any
    stack: AsyncExitStack
    folder: Path
    """With the ledger's SQLite file."""

    async def tenant(self, name: str = "Acme") -> Tenant:
        """A new organisation."""
        org = await self.ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name=name), timeout=TIMEOUT_S)
        project = await self.ledger.CreateProject(
            ledger_pb2.CreateProjectRequest(org_id=org.org_id, name="default"), timeout=TIMEOUT_S
        )
        credit = ledger_pb2.AddCreditRequest(
            org_id=org.org_id,
            amount_nano_usd=1_000 * NANO_PER_USD,
            idempotency_key="tenant",
            kind=ledger_pb2.CREDIT_KIND_PAID,
        )
        await self.ledger.AddCredit(credit, timeout=TIMEOUT_S)
        account = ledger_pb2.KeyPolicy(scope=ledger_pb2.KEY_SCOPE_ACCOUNT)
        reader = ledger_pb2.KeyPolicy(scope=ledger_pb2.KEY_SCOPE_ACCOUNT, read_only=True)
        calling = ledger_pb2.KeyPolicy(requests_per_minute=0)  # a test sends more than the default lets through
        keys = [
            await self.ledger.CreateKey(
                ledger_pb2.CreateKeyRequest(org_id=org.org_id, project_id=project.project_id, name=name, policy=policy),
                timeout=TIMEOUT_S,
            )
            for name, policy in (("chat", calling), ("admin", account), ("reader", reader))
        ]
        chatting, http, reading = [await self.client(key.secret) for key in keys]
        return Tenant(org.org_id, project.project_id, keys[0].key.key_id, http, reading, chatting)

    async def key(self, tenant: Tenant, **fields: Any) -> tuple[dict[str, Any], httpx.AsyncClient]:
        """A new key of an organisation, as its administrator makes it, and a client with it."""
        made = await tenant.http.post("/v1/keys", json={"name": "key"} | fields)
        assert made.status_code == 201, made.text
        return made.json(), await self.client(made.json()["secret"])

    async def client(self, secret: str = "") -> httpx.AsyncClient:
        """A client of its own, with a key or without."""
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        transport = httpx.ASGITransport(self.app)
        return await self.stack.enter_async_context(
            httpx.AsyncClient(
                transport=transport,
                base_url="http://edge",
                headers=headers,
                timeout=TIMEOUT_S,
                event_hooks={"response": [refuse_floats]},
            )
        )


async def refuse_floats(response: httpx.Response) -> None:
    """Fails a test whose gateway sends money, or anything else of an account, as a float."""
    if response.headers.get("content-type") != "application/json" or _MAY_HAVE_FLOATS.search(response.url.path):
        return

    def refuse(number: str) -> float:
        raise AssertionError(f"{response.request.method} {response.url.path} answers with the float {number}")

    json.loads(await response.aread(), parse_float=refuse, parse_constant=refuse)


_MAY_HAVE_FLOATS = re.compile("/(chat|embeddings|models|rerank)")


_templates: list[Path] = []


async def _migrated() -> Path:
    """A ledger's database that was migrated once, to be copied: each test would take a third of a second for it."""
    if not _templates:
        folder = tempfile.mkdtemp(prefix="tg-template-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        database = open_database(f"sqlite:///{folder}/ledger.db", connections=1, wait_s=20)
        try:
            await migrate(database)
        finally:
            await database.close()
        _templates.append(Path(folder) / "ledger.db")
    return _templates[0]


@asynccontextmanager
async def installed(
    ledger_settings: Mapping[str, Any] | None = None,
    *,
    overlay: str = "",
    make_telemetry: MakeTelemetry = Telemetry.off,
    semantic: bool = False,
    **edge_settings: Any,
) -> AsyncIterator[Installation]:
    """A gateway of its own, inside the block. ``overlay``: of the catalog, on top of the scripted upstream's.
    ``semantic``: the cache has its semantic tier. ``edge_settings``: of the edge, beside addresses.
    ``ledger_settings``: of the ledger, beside what it needs.
    """
    async with AsyncExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        for name, secret in API_KEYS.items():
            patched.setenv(name, secret)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        shutil.copyfile(await _migrated(), folder / "ledger.db")
        upstream = await stack.enter_async_context(scripted_upstream())
        overlays = [upstream.write_overlay(folder / "overlay.yaml")]
        if overlay:
            overlays.append(folder / "more.yaml")
            overlays[-1].write_text(overlay, encoding="utf-8")
        settings = ServiceSettings(
            catalog=CatalogSettings(overlays=overlays),
            ledger=LedgerSettings(
                database_url=f"sqlite+aiosqlite:///{folder}/ledger.db",
                peppers={1: SecretStr("a pepper for account tests")},
                signing_keys={"account": SecretStr("b25l" * 10 + "b24")},
                **{"secrets_keys": {"2026-11": SecretStr("c2Vj" * 10 + "c2U")}} | dict(ledger_settings or {}),
            ),
            cache=CacheSettings(url="memory://", semantic=semantic),
            router=RouterSettings(),
        )
        composition = await stack.enter_async_context(Composition(make_telemetry))
        found = await composition.serve_four(settings, Addresses())
        dial, telemetry = await composition.node("edge")
        addresses: dict[str, Any] = {
            "ledger_addr": found.ledger,
            "cache_addr": found.cache,
            "router_addr": found.router,
            "catalog_addr": found.catalog,
            "account_requests_per_minute": 0,
        }
        made = EdgeSettings(**addresses | edge_settings)
        app = await stack.enter_async_context(edge.wiring.build(made, dial, telemetry))
        assert isinstance(app, Front)
        await stack.enter_async_context(app.routed.router.lifespan_context(app.routed))
        channel = dial(found.ledger)
        await _until_ready(app)
        yield Installation(ledger_pb2_grpc.LedgerServiceStub(channel), channel, upstream, app, stack, folder)


async def _until_ready(app: Front) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as client:
        while (await client.get("/readyz")).status_code != 200:
            pass
