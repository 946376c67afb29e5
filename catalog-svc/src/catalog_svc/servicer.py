"""The contract: decode, call the service, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from catalog_svc.domain import BillingPolicy, Model, Offer, RevisionNotFound, Snapshot, Source, StoreUnavailable
from catalog_svc.service import CatalogService
from meshkit.codec import price_to_proto, rates_to_proto
from meshkit.errors import ErrorTable, maps_errors
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    GetContext = grpc.aio.ServicerContext[catalog_pb2.GetSnapshotRequest, catalog_pb2.GetSnapshotResponse]
    WatchContext = grpc.aio.ServicerContext[catalog_pb2.WatchSnapshotRequest, catalog_pb2.WatchSnapshotResponse]

ERRORS: ErrorTable = {
    RevisionNotFound: (grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_NOT_FOUND),
    StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
}


@maps_errors(ERRORS)
class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Serves ``CatalogService``."""

    def __init__(self, service: CatalogService) -> None:
        self._service = service
        self._encoded = catalog_pb2.Snapshot()

    async def GetSnapshot(
        self, request: catalog_pb2.GetSnapshotRequest, context: GetContext
    ) -> catalog_pb2.GetSnapshotResponse:
        """One whole revision."""
        return catalog_pb2.GetSnapshotResponse(snapshot=self._encode(await self._service.snapshot(request.revision)))

    async def WatchSnapshot(
        self, request: catalog_pb2.WatchSnapshotRequest, context: WatchContext
    ) -> AsyncIterator[catalog_pb2.WatchSnapshotResponse]:
        """The current revision and each new one."""
        async for snapshot in self._service.watch(request.known_revision):
            yield catalog_pb2.WatchSnapshotResponse(snapshot=self._encode(snapshot))

    def _encode(self, snapshot: Snapshot) -> catalog_pb2.Snapshot:
        if self._encoded.revision != snapshot.revision:
            self._encoded = snapshot_to_proto(snapshot)
        return self._encoded


def snapshot_to_proto(snapshot: Snapshot) -> catalog_pb2.Snapshot:
    """Encode a revision."""
    return catalog_pb2.Snapshot(
        revision=snapshot.revision,
        created_at_ms=snapshot.created_at_ms,
        models=[_model(model) for model in snapshot.models],
        sources=[_source(source) for source in snapshot.sources],
        offers=[_offer(offer) for offer in snapshot.offers],
        aliases=[catalog_pb2.Alias(name=alias.name, model_id=alias.model_id) for alias in snapshot.aliases],
        billing=_billing(snapshot.billing),
    )


def _billing(billing: BillingPolicy) -> catalog_pb2.BillingPolicy:
    return catalog_pb2.BillingPolicy(
        markup_bps=billing.markup_bps,
        replay_bps=billing.replay_bps,
        flat_rates=rates_to_proto(billing.flat_rates),
        byok_fee_bps=billing.byok_fee_bps,
        byok_fee_per_call_pico_usd=billing.byok_fee_per_call_pico_usd,
    )


def _model(model: Model) -> catalog_pb2.Model:
    capabilities = model.capabilities
    return catalog_pb2.Model(
        id=model.id,
        display_name=model.display_name,
        owned_by=model.owned_by,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        capabilities=catalog_pb2.Capabilities(
            tools=capabilities.tools,
            vision=capabilities.vision,
            json_object=capabilities.json_object,
            json_schema=capabilities.json_schema,
            reasoning=capabilities.reasoning,
        ),
        policy_epoch=model.policy_epoch,
        released_at_s=model.released_at_s,
    )


def _source(source: Source) -> catalog_pb2.Source:
    return catalog_pb2.Source(
        id=source.id,
        display_name=source.display_name,
        base_url=source.base_url,
        wire_format=catalog_pb2.WireFormat.ValueType(source.wire_format.value),
        api_key_env=source.api_key_env,
        cancel_stops_billing=source.cancel_stops_billing,
        region=source.region,
        cached_tokens=catalog_pb2.CachedTokenAccounting.ValueType(source.cached_tokens.value),
    )


def _offer(offer: Offer) -> catalog_pb2.Offer:
    return catalog_pb2.Offer(
        id=offer.id,
        model_id=offer.model_id,
        source_id=offer.source_id,
        upstream_model=offer.upstream_model,
        price=None if offer.price is None else price_to_proto(offer.price),
        byok_price=None if offer.byok_price is None else price_to_proto(offer.byok_price),
        context_tokens=offer.context_tokens,
        max_output_tokens=offer.max_output_tokens,
    )
