"""A key that is revoked, changed or rotated is so at every edge in under a second, and no request asks the ledger for
it.

Real sockets and real time: two replicas of the ledger on one database, and an edge that knows only one of them each.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import catalog_svc.wiring
import edge.clients
import edge.wiring
import ledger_svc.wiring
from catalog_svc.settings import CatalogSettings
from edge.serving import running_http
from edge.settings import EdgeSettings
from ledger_svc.settings import LedgerSettings
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1 import account_pb2, account_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.composition import Composition

TIMEOUT_S = 20.0
WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two edges, and the writer of the two ledgers."""

    urls: tuple[str, str]
    ledger: ledger_pb2_grpc.LedgerServiceAsyncStub
    accounts: account_pb2_grpc.AccountServiceAsyncStub
    org_id: str
    project_id: str
    asked: Counter[str]
    """How often each secret was asked about, by both edges."""
    http: httpx.AsyncClient

    async def key(self) -> ledger_pb2.CreateKeyResponse:
        request = ledger_pb2.CreateKeyRequest(org_id=self.org_id, project_id=self.project_id, name="key")
        return await self.ledger.CreateKey(request, timeout=TIMEOUT_S)

    async def status(self, number: int, secret: str) -> int:
        headers = {"authorization": f"Bearer {secret}"}
        # A path that any key may read, and that asks the ledger for nothing but the key.
        return (await self.http.get(f"{self.urls[number]}/v1/models/none", headers=headers)).status_code

    async def refused_after_s(self, number: int, secret: str, status: int) -> float:
        """How long it takes until an edge answers so, asked all the time."""
        began = time.monotonic()
        while await self.status(number, secret) != status:  # noqa: ASYNC110 - it is what a client sees that counts
            await asyncio.sleep(0.005)
        return time.monotonic() - began


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    asked: Counter[str] = Counter()
    authenticate = edge.clients.GrpcLedger.authenticate

    async def counted(ledger: Any, secret: str) -> ledger_pb2.AuthenticateResponse:
        asked[secret] += 1
        return await authenticate(ledger, secret)

    monkeypatch.setattr(edge.clients.GrpcLedger, "authenticate", counted)
    async with AsyncExitStack() as stack:
        # Short, because a unix socket's path has room for 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        composition = await stack.enter_async_context(Composition(Telemetry.off))
        (catalog_at,) = await composition.serve(
            "catalog", catalog_svc.wiring.build, CatalogSettings(), f"unix://{folder}/c", drain_s=0
        )
        settings = LedgerSettings(
            database_url=f"sqlite+aiosqlite:///{folder}/ledger.db",
            peppers={1: SecretStr("a pepper for two ledgers")},
            signing_keys={"pair": SecretStr("b25l" * 10 + "b24")},
            valid_for_ms=60_000,  # so that only what is told can end what an edge keeps
        )
        ledgers = [
            (await composition.serve("ledger", ledger_svc.wiring.build, settings, f"unix://{folder}/{n}", drain_s=0))[0]
            for n in (0, 1)
        ]
        urls = [await _edge(stack, composition, ledger_at, catalog_at) for ledger_at in ledgers]
        dial, _ = await composition.node("caller")
        writer = dial(ledgers[0])
        ledger = ledger_pb2_grpc.LedgerServiceStub(writer)
        org = await ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name="Pair"), timeout=TIMEOUT_S)
        project = await ledger.CreateProject(
            ledger_pb2.CreateProjectRequest(org_id=org.org_id, name="web"), timeout=TIMEOUT_S
        )
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT_S))
        accounts = account_pb2_grpc.AccountServiceStub(writer)
        yield Pair((urls[0], urls[1]), ledger, accounts, org.org_id, project.project_id, asked, http)


async def _edge(stack: AsyncExitStack, composition: Composition, ledger_at: str, catalog_at: str) -> str:
    dial, telemetry = await composition.node("edge")
    addresses: dict[str, Any] = {"ledger_addr": ledger_at, "catalog_addr": catalog_at}
    away: dict[str, Any] = {"router_addr": ledger_at, "cache_addr": ledger_at}  # nothing here calls a model
    app = await stack.enter_async_context(edge.wiring.build(EdgeSettings(**addresses | away), dial, telemetry))
    return await stack.enter_async_context(running_http(app, "127.0.0.1", 0, drain_s=0))


Change = Callable[[Pair, str], Awaitable[Any]]


async def revoke(pair: Pair, key_id: str) -> None:
    await pair.ledger.RevokeKey(ledger_pb2.RevokeKeyRequest(key_id=key_id), timeout=TIMEOUT_S)


async def bind_elsewhere(pair: Pair, key_id: str) -> None:
    cidrs = account_pb2.TextList(values=["192.0.2.0/24"])
    request = account_pb2.UpdateKeyRequest(key_id=key_id, allowed_cidrs=cidrs)
    await pair.accounts.UpdateKey(request, timeout=TIMEOUT_S)


async def rotate_at_once(pair: Pair, key_id: str) -> None:
    await pair.accounts.RotateKey(account_pb2.RotateKeyRequest(key_id=key_id), timeout=TIMEOUT_S)


@pytest.mark.parametrize(("change", "status"), [(revoke, 401), (bind_elsewhere, 403), (rotate_at_once, 401)])
async def test_a_change_is_in_force_at_every_edge_in_under_a_second(pair: Pair, change: Change, status: int) -> None:
    made, other = await pair.key(), await pair.key()
    for key in (made, other):
        for number in (0, 1):
            while await pair.status(number, key.secret) != 404:  # noqa: ASYNC110 - until it knows the catalog
                await asyncio.sleep(0.02)
    kept = pair.asked.copy()
    for _ in range(50):
        for number in (0, 1):
            assert await pair.status(number, made.secret) == 404
    # Once more at each edge at most, where its watch has begun since.
    assert pair.asked[made.secret] - kept[made.secret] <= 2, "an edge does not ask for each request"
    began = time.monotonic()
    await change(pair, made.key.key_id)
    await asyncio.gather(*(pair.refused_after_s(number, made.secret, status) for number in (0, 1)))
    assert time.monotonic() - began < WITHIN_S
    for number in (0, 1):
        for _ in range(20):
            assert await pair.status(number, made.secret) == status
            assert await pair.status(number, other.secret) == 404
    assert pair.asked[other.secret] - kept[other.secret] <= 2, "another key's answer is kept"


async def test_a_cache_policy_is_in_force_at_every_edge_in_under_a_second(pair: Pair) -> None:
    """Of a project: each edge asks anew for its keys."""
    made = await pair.key()
    for number in (0, 1):
        while await pair.status(number, made.secret) != 404:  # noqa: ASYNC110 - until it knows the catalog
            await asyncio.sleep(0.02)
    asked = pair.asked[made.secret]
    request = account_pb2.UpdateCachePolicyRequest(org_id=pair.org_id, project_id=pair.project_id)
    request.change.values.ttl_s = 60
    request.change.fields.paths.append("ttl_s")
    began = time.monotonic()
    await pair.accounts.UpdateCachePolicy(request, timeout=TIMEOUT_S)
    while pair.asked[made.secret] < asked + 2:
        for number in (0, 1):
            await pair.status(number, made.secret)
        await asyncio.sleep(0.005)
    assert time.monotonic() - began < WITHIN_S
