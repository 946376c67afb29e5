"""The four services joined over one transport, with a scripted source behind them: what a contract case runs on."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from cache_svc.settings import CacheSettings
from catalog_svc.settings import CatalogSettings
from ledger_svc.settings import LedgerSettings
from meshkit.money import NANO_PER_USD
from meshkit.telemetry import Telemetry
from meshkit.testing import address_on
from router_svc.settings import RouterSettings
from tallygate.cache.v1 import cache_pb2_grpc, fills_pb2_grpc, flights_pb2_grpc, recordings_pb2_grpc
from tallygate.catalog.v1 import catalog_pb2_grpc
from tallygate.common.v1 import principal_pb2
from tallygate.ledger.v1 import (
    account_pb2_grpc,
    audit_pb2_grpc,
    billing_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    provider_keys_pb2_grpc,
    usage_pb2_grpc,
    webhooks_pb2_grpc,
)
from tallygate.router.v1 import router_pb2_grpc
from tallygate_deploy.composition import Addresses, Composition, ServiceSettings
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream, scripted_upstream
from tests.webhooks.receiver import LOOPBACK


@dataclass(frozen=True, slots=True)
class World:
    """Typed clients of every service, an organisation with credit, and the source."""

    ledger: ledger_pb2_grpc.LedgerServiceAsyncStub
    accounts: account_pb2_grpc.AccountServiceAsyncStub
    audit: audit_pb2_grpc.AuditServiceAsyncStub
    provider_keys: provider_keys_pb2_grpc.ProviderKeyServiceAsyncStub
    webhooks: webhooks_pb2_grpc.WebhookServiceAsyncStub
    billing: billing_pb2_grpc.BillingServiceAsyncStub
    usage: usage_pb2_grpc.UsageServiceAsyncStub
    cache: cache_pb2_grpc.CacheServiceAsyncStub
    flights: flights_pb2_grpc.FlightServiceAsyncStub
    recordings: recordings_pb2_grpc.RecordingServiceAsyncStub
    fills: fills_pb2_grpc.FillServiceAsyncStub
    router: router_pb2_grpc.RouterServiceAsyncStub
    catalog: catalog_pb2_grpc.CatalogServiceAsyncStub
    upstream: ScriptedUpstream
    org_id: str
    project_id: str
    principal: principal_pb2.Principal
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def request_id(self) -> str:
        """One that no other case uses."""
        return f"req_contract{next(self._numbers)}"


@asynccontextmanager
async def world_over(transport: str) -> AsyncIterator[World]:
    """Everything, up and running, over one of ``TRANSPORTS``."""
    async with AsyncExitStack() as stack:
        # Short, because a unix socket's path has room for 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-")))
        upstream = await stack.enter_async_context(scripted_upstream())
        overlay = upstream.write_overlay(folder / "overlay.yaml")
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        for name, secret in API_KEYS.items():
            patched.setenv(name, secret)
        composition = await stack.enter_async_context(Composition(Telemetry.off, exchange=transport == "exchange"))
        found = await composition.serve_four(_settings(folder, overlay), _addresses(transport, folder))
        dial, _ = await composition.node("caller")
        ledger = ledger_pb2_grpc.LedgerServiceStub(dial(found.ledger))
        org = await ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name="contract"), timeout=10)
        project = await ledger.CreateProject(
            ledger_pb2.CreateProjectRequest(org_id=org.org_id, name="contract"), timeout=10
        )
        key = await ledger.CreateKey(
            ledger_pb2.CreateKeyRequest(org_id=org.org_id, project_id=project.project_id, name="contract"), timeout=10
        )
        credit = ledger_pb2.AddCreditRequest(
            org_id=org.org_id,
            amount_nano_usd=1_000 * NANO_PER_USD,
            idempotency_key="contract",
            kind=ledger_pb2.CREDIT_KIND_PAID,
        )
        await ledger.AddCredit(credit, timeout=10)
        yield World(
            ledger=ledger,
            accounts=account_pb2_grpc.AccountServiceStub(dial(found.ledger)),
            audit=audit_pb2_grpc.AuditServiceStub(dial(found.ledger)),
            provider_keys=provider_keys_pb2_grpc.ProviderKeyServiceStub(dial(found.ledger)),
            webhooks=webhooks_pb2_grpc.WebhookServiceStub(dial(found.ledger)),
            billing=billing_pb2_grpc.BillingServiceStub(dial(found.ledger)),
            usage=usage_pb2_grpc.UsageServiceStub(dial(found.ledger)),
            cache=cache_pb2_grpc.CacheServiceStub(dial(found.cache)),
            flights=flights_pb2_grpc.FlightServiceStub(dial(found.cache)),
            recordings=recordings_pb2_grpc.RecordingServiceStub(dial(found.cache)),
            fills=fills_pb2_grpc.FillServiceStub(dial(found.cache)),
            router=router_pb2_grpc.RouterServiceStub(dial(found.router)),
            catalog=catalog_pb2_grpc.CatalogServiceStub(dial(found.catalog)),
            upstream=upstream,
            org_id=org.org_id,
            project_id=project.project_id,
            principal=principal_pb2.Principal(org_id=org.org_id, project_id=project.project_id, key_id=key.key.key_id),
        )


def _addresses(transport: str, folder: Path) -> Addresses:
    return Addresses(**{name: address_on(transport, name, folder) for name in ("catalog", "ledger", "cache", "router")})


def _settings(folder: Path, overlay: Path) -> ServiceSettings:
    return ServiceSettings(
        catalog=CatalogSettings(overlays=[overlay]),
        ledger=LedgerSettings(
            database_url=f"sqlite+aiosqlite:///{folder}/ledger.db",
            peppers={1: SecretStr("a pepper for contract tests")},
            signing_keys={"contract": SecretStr("b25l" * 10 + "b24")},
            secrets_keys={"2026-11": SecretStr("c2Vj" * 10 + "c2U")},
            webhook_allow_private=LOOPBACK,
            billing_provider="local",
        ),
        cache=CacheSettings(url="memory://"),
        router=RouterSettings(),
    )
