"""The catalog over gRPC: a watch in the background that keeps the newest snapshot."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Literal

import grpc
import structlog

from meshkit.codec import price_from_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.money import PriceSnapshot
from router_svc.domain.catalog import Capabilities, CatalogSnapshot, Model, Offer, Source, WireFormat
from router_svc.domain.errors import CatalogUnavailable
from tallygate.catalog.v1 import catalog_pb2
from tallygate.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from tallygate.common.v1.errors_pb2 import ErrorReason

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_REVISION_TIMEOUT_S = 30.0

_log = structlog.get_logger(__name__)


class WatchedCatalog:
    """As the Protocols ``Catalog`` and ``Revisions``. ``watch`` is the task that feeds it.

    ``wait_s``: how long a request waits for the first snapshot.
    ``watch_s``: how long one watch stands.
    """

    def __init__(self, channel: grpc.aio.Channel, *, wait_s: float, watch_s: float) -> None:
        self._stub = CatalogServiceStub(channel)
        self._wait_s = wait_s
        self._watch_s = watch_s
        self._newest: CatalogSnapshot | None = None
        self._first = asyncio.Event()
        self._changed = asyncio.Event()

    async def snapshot(self) -> CatalogSnapshot:
        """As Catalog.snapshot."""
        if self._newest is None:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._first.wait()
            except TimeoutError:
                raise CatalogUnavailable("the catalog has not been read yet") from None
        assert self._newest is not None, "the event is set after the snapshot"
        return self._newest

    async def next_revision(self, seen: str) -> str:
        """As Revisions.next_revision."""
        while self._newest is None or self._newest.revision == seen:
            await self._changed.wait()
        return self._newest.revision

    async def revision(self, name: str) -> CatalogSnapshot | None:
        """As Revisions.revision."""
        request = catalog_pb2.GetSnapshotRequest(revision=name)
        try:
            with deadline(_REVISION_TIMEOUT_S, detached=True), mesh_errors():
                response = await self._stub.GetSnapshot(request, timeout=_REVISION_TIMEOUT_S)
        except MeshError as error:
            if error.reason == ErrorReason.ERROR_REASON_NOT_FOUND:
                return None
            raise CatalogUnavailable(f"a revision of the catalog can't be read: {error.message}") from error
        return snapshot_from_proto(response.snapshot)

    async def watch(self) -> None:
        """Follow the catalog for ever; what was seen last stays in force while it is away."""
        failures = 0
        while True:
            try:
                await self._follow()
                failures = 0
            except grpc.RpcError as error:
                stood = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self._newest is not None
                failures = 0 if stood else failures + 1
                if failures:
                    _log.warning("catalog_away", code=str(error.code()), failures=failures)
            except Exception:  # noqa: BLE001 - a revision that can't be read must not end the watch for good
                failures += 1
                _log.exception("catalog_not_read")
            await asyncio.sleep(min(_FIRST_PAUSE_S * 2 ** min(failures, 16), _LONGEST_PAUSE_S))

    async def _follow(self) -> None:
        """One watch, until the catalog ends it."""
        known = self._newest.revision if self._newest else ""
        with deadline(self._watch_s, detached=True):
            request = catalog_pb2.WatchSnapshotRequest(known_revision=known)
            async for response in self._stub.WatchSnapshot(request, timeout=self._watch_s):
                self._newest = snapshot_from_proto(response.snapshot)
                self._first.set()
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()
                _log.info("catalog_revision", revision=self._newest.revision, models=len(self._newest.models))


def snapshot_from_proto(message: catalog_pb2.Snapshot) -> CatalogSnapshot:
    """Decode and index one revision. An offer whose price is not well-formed has none."""
    offers: defaultdict[str, list[Offer]] = defaultdict(list)
    for offer in message.offers:
        offers[offer.model_id].append(_offer(offer))
    return CatalogSnapshot(
        revision=message.revision,
        models={model.id: _model(model) for model in message.models},
        sources={source.id: _source(source) for source in message.sources},
        offers={model_id: tuple(of_model) for model_id, of_model in offers.items()},
    )


def _model(message: catalog_pb2.Model) -> Model:
    able = message.capabilities
    return Model(
        model_id=message.id,
        context_tokens=message.context_tokens,
        max_output_tokens=message.max_output_tokens,
        capabilities=Capabilities(able.tools, able.vision, able.json_object, able.json_schema, able.reasoning),
    )


def _source(message: catalog_pb2.Source) -> Source:
    try:
        wire_format = WireFormat(message.wire_format)
    except ValueError:
        wire_format = WireFormat.UNKNOWN
    return Source(
        source_id=message.id,
        base_url=message.base_url.rstrip("/"),
        wire_format=wire_format,
        api_key_env=message.api_key_env,
        cancel_stops_billing=message.cancel_stops_billing,
        cached_beside_prompt=message.cached_tokens == catalog_pb2.CACHED_TOKEN_ACCOUNTING_BESIDE_PROMPT,
        region=message.region,
    )


def _offer(message: catalog_pb2.Offer) -> Offer:
    return Offer(
        offer_id=message.id,
        model_id=message.model_id,
        source_id=message.source_id,
        upstream_model=message.upstream_model,
        price=_price(message, "price"),
        byok_price=_price(message, "byok_price"),
        context_tokens=message.context_tokens,
        max_output_tokens=message.max_output_tokens,
    )


def _price(message: catalog_pb2.Offer, name: Literal["price", "byok_price"]) -> PriceSnapshot | None:
    if not message.HasField(name):
        return None
    try:
        return price_from_proto(getattr(message, name))
    except ValueError as error:
        _log.warning("price_not_well_formed", offer_id=message.id, error=str(error))
        return None
