"""The services that the router calls, as real servicers with scripted answers, and the router wired among them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from router_rig import (
    PRINCIPAL,
    price,
)

from meshkit.codec import price_to_proto, principal_to_proto
from meshkit.errors import MeshError
from meshkit.local import LocalNetwork
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from meshkit.testing import SpanCollector, address_on, dialer_on
from router_svc.settings import RouterSettings
from router_svc.wiring import build
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    provider_keys_pb2,
    provider_keys_pb2_grpc,
)
from tallygate.router.v1 import router_pb2
from tallygate.router.v1.router_pb2_grpc import RouterServiceStub

if TYPE_CHECKING:
    from tallygate.router.v1.router_pb2_grpc import RouterServiceAsyncStub


def snapshot_of(base_url: str, revision: str = "rev1", **source_fields: Any) -> catalog_pb2.Snapshot:
    return catalog_pb2.Snapshot(
        revision=revision,
        models=[
            catalog_pb2.Model(id="m", context_tokens=8_000, max_output_tokens=1_000),
            catalog_pb2.Model(id="unpriced", context_tokens=8_000, max_output_tokens=1_000),
        ],
        sources=[
            catalog_pb2.Source(id="a", base_url=base_url, wire_format=catalog_pb2.WIRE_FORMAT_OPENAI, **source_fields),
            catalog_pb2.Source(
                id="keyless",
                base_url=base_url,
                wire_format=catalog_pb2.WIRE_FORMAT_OPENAI,
                api_key_env="TALLYGATE_TEST_UNSET_KEY",
            ),
        ],
        offers=[
            catalog_pb2.Offer(
                id="a/m", model_id="m", source_id="a", upstream_model="up", price=price_to_proto(price("a/m"))
            ),
            catalog_pb2.Offer(id="keyless/m", model_id="m", source_id="keyless", price=price_to_proto(price("x/m"))),
            catalog_pb2.Offer(id="a/unpriced", model_id="unpriced", source_id="a"),
        ],
    )


@dataclass
class Neighbours(
    catalog_pb2_grpc.CatalogServiceServicer,
    ledger_pb2_grpc.LedgerServiceServicer,
    cache_pb2_grpc.CacheServiceServicer,
    audit_pb2_grpc.AuditServiceServicer,
    provider_keys_pb2_grpc.ProviderKeyServiceServicer,
):
    """Catalog, ledger and cache in one, as scripted."""

    snapshots: asyncio.Queue[catalog_pb2.Snapshot] = field(default_factory=asyncio.Queue)
    watches: list[str] = field(default_factory=list)
    reserved: list[ledger_pb2.ReserveRequest] = field(default_factory=list)
    settled: list[ledger_pb2.SettleRequest] = field(default_factory=list)
    released: list[ledger_pb2.ReleaseRequest] = field(default_factory=list)
    stored: list[cache_pb2.StoreRequest] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Queue[audit_pb2.RecordCatalogRevisionRequest] = field(default_factory=asyncio.Queue)
    sent: dict[str, catalog_pb2.Snapshot] = field(default_factory=dict)
    refuse_reserve: bool = False
    settle_failures: int = 0
    secrets: dict[str, list[provider_keys_pb2.ProviderSecret]] = field(default_factory=dict)
    """By organisation."""
    secrets_asked: list[str] = field(default_factory=list)
    secrets_away: bool = False
    answering: asyncio.Event | None = None
    """Secrets are read at once, and told when it is set."""
    key_changes: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    """None ends the watch."""

    def register(self, server: grpc.aio.Server) -> None:
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self, server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(self, server)
        provider_keys_pb2_grpc.add_ProviderKeyServiceServicer_to_server(self, server)
        cache_pb2_grpc.add_CacheServiceServicer_to_server(self, server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(self, server)

    async def GetSnapshot(self, request: Any, context: Any) -> catalog_pb2.GetSnapshotResponse:
        if not self.sent:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "none yet")
        return catalog_pb2.GetSnapshotResponse(snapshot=self.sent[request.revision or list(self.sent)[-1]])

    async def RecordCatalogRevision(
        self, request: audit_pb2.RecordCatalogRevisionRequest, context: Any
    ) -> audit_pb2.RecordCatalogRevisionResponse:
        self.told.put_nowait(request)
        return audit_pb2.RecordCatalogRevisionResponse(revision=request.revision)

    async def ListProviderSecrets(
        self, request: provider_keys_pb2.ListProviderSecretsRequest, context: Any
    ) -> provider_keys_pb2.ListProviderSecretsResponse:
        self.secrets_asked.append(request.org_id)
        if self.secrets_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        answer = provider_keys_pb2.ListProviderSecretsResponse(secrets=self.secrets.get(request.org_id, []))
        if self.answering is not None:
            await self.answering.wait()
        return answer

    async def WatchProviderKeys(
        self, request: Any, context: Any
    ) -> AsyncIterator[provider_keys_pb2.WatchProviderKeysResponse]:
        yield provider_keys_pb2.WatchProviderKeysResponse()
        while (org_id := await self.key_changes.get()) is not None:
            yield provider_keys_pb2.WatchProviderKeysResponse(org_id=org_id)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going")

    async def WatchSnapshot(self, request: Any, context: Any) -> AsyncIterator[catalog_pb2.WatchSnapshotResponse]:
        self.watches.append(request.known_revision)
        while True:
            snapshot = await self.snapshots.get()
            if not snapshot.revision:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going")
            self.sent[snapshot.revision] = snapshot
            yield catalog_pb2.WatchSnapshotResponse(snapshot=snapshot)

    async def Reserve(self, request: ledger_pb2.ReserveRequest, context: Any) -> ledger_pb2.ReserveResponse:
        self.reserved.append(request)
        if self.refuse_reserve:
            from meshkit.errors import abort

            error = MeshError(
                ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
                "too little",
                status=grpc.StatusCode.FAILED_PRECONDITION,
                metadata={"available_usd": "0.1"},
            )
            await abort(context, error, {})
        return ledger_pb2.ReserveResponse(hold_id="hold_1", amount_nano_usd=request.amount_nano_usd)

    async def Settle(self, request: ledger_pb2.SettleRequest, context: Any) -> ledger_pb2.SettleResponse:
        if self.settle_failures:
            self.settle_failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        self.settled.append(request)
        self.ended.set()
        return ledger_pb2.SettleResponse(receipt=ledger_pb2.Receipt(receipt_id="rcpt_1", charged_nano_usd=7))

    async def Release(self, request: ledger_pb2.ReleaseRequest, context: Any) -> ledger_pb2.ReleaseResponse:
        self.released.append(request)
        self.ended.set()
        return ledger_pb2.ReleaseResponse()

    async def Store(self, request: cache_pb2.StoreRequest, context: Any) -> cache_pb2.StoreResponse:
        self.stored.append(request)
        return cache_pb2.StoreResponse(stored=True)


def neighbours_at_rest() -> Neighbours:
    return Neighbours()  # type: ignore[abstract] # only what the router calls


@asynccontextmanager
async def meshed(
    neighbours: Neighbours, transport: str = "local", *, spans: SpanCollector | None = None, **settings: Any
) -> AsyncIterator[RouterServiceAsyncStub]:
    network = LocalNetwork()
    off = Telemetry.off()
    telemetry = spans.telemetry("router") if spans else off
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        addresses = [address_on(transport, name, folder) for name in ("neighbours", "router")]
        async with (
            dialer_on(transport, telemetry, network) as dial,
            dialer_on(transport, spans.telemetry("client") if spans else off, network) as client_dial,
            running(neighbours.register, addresses[0], off, local=network, drain_s=0.1) as near,
        ):
            configured = RouterSettings(
                listen=addresses[1], catalog_addr=near, ledger_addr=near, cache_addr=near, drain_s=5.0, **settings
            )
            async with (
                build(configured, dial, telemetry) as register,
                running(register, configured.listen, telemetry, local=network, drain_s=1.0) as bound,
            ):
                yield RouterServiceStub(client_dial(bound))


def request_of(**fields: Any) -> router_pb2.CompleteRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": fields.get("stream", True)}
    given = {
        "principal": principal_to_proto(PRINCIPAL),
        "request_id": "req_1",
        "endpoint": "chat/completions",
        "model": "m",
        "requested_model": "alias",
        "openai_body": orjson.dumps(body),
        "stream": True,
    }
    return router_pb2.CompleteRequest(**{**given, **fields})
