"""tallygate.router.v1.RouterService: decode, call the service, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from meshkit.codec import price_to_proto, principal_from_proto, region_from_proto, usage_to_proto
from meshkit.errors import ErrorTable, maps_errors
from meshkit.regions import RegionPolicy
from meshkit.telemetry import current_trace_id
from router_svc.domain import errors
from router_svc.domain.plan import Candidate, Rejection
from router_svc.service.pipe import ChunksEvent, Event, RouteEvent
from router_svc.service.ports import CacheTicket, CompletionCall, FillLead, FlightPass
from router_svc.service.router import RouterService
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.router.v1 import router_pb2
from tallygate.router.v1.router_pb2_grpc import RouterServiceServicer

if TYPE_CHECKING:
    from typing import Any

    Context = grpc.aio.ServicerContext[Any, Any]

ENDPOINT = "chat/completions"

ERRORS: ErrorTable = {
    errors.InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    errors.ModelNotFound: (grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND),
    errors.PriceUnknown: (grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_PRICE_UNKNOWN),
    errors.NoSource: (grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_NO_SOURCE),
    errors.CatalogUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.RouterBusy: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.DuplicateRequest: (grpc.StatusCode.ABORTED, ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE),
    errors.FlightLost: (grpc.StatusCode.ABORTED, ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE),
    errors.CacheUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.UpstreamFailed: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UPSTREAM_ERROR),
    errors.UpstreamRejected: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_UPSTREAM_REJECTED),
    errors.ProviderKeyRejected: (
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_UPSTREAM_KEY_REJECTED,
    ),
    errors.UpstreamRateLimited: (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    ),
    errors.DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
    errors.ClientStalled: (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
    errors.LedgerUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
}


@maps_errors(ERRORS)
class RouterServicer(RouterServiceServicer):
    """The router's RPCs."""

    def __init__(self, service: RouterService) -> None:
        self._service = service

    async def Complete(
        self, request: router_pb2.CompleteRequest, context: Context
    ) -> AsyncIterator[router_pb2.CompleteResponse]:
        """A fresh call. When this RPC ends early the call goes on."""
        _check_endpoint(request.endpoint)
        handle = await self._service.complete(_call(request))
        # Not only ``finally``: a cancelled RPC may leave this generator suspended until it is collected.
        context.add_done_callback(lambda _: handle.leave())  # type: ignore[arg-type] # the stub's type is a class
        try:
            async for event in handle.events():
                yield _event(event)
        except errors.LedgerRefused as error:
            raise error.refusal from error
        finally:
            handle.leave()

    async def Plan(self, request: router_pb2.PlanRequest, context: Context) -> router_pb2.PlanResponse:
        """What Complete would do."""
        _check_endpoint(request.endpoint)
        plan = await self._service.plan(
            request.principal.org_id, request.model, request.openai_body, _region(request.region)
        )
        return router_pb2.PlanResponse(
            candidates=[_candidate(candidate) for candidate in plan.candidates],
            rejections=[_rejection(rejection) for rejection in plan.rejections],
            hold_nano_usd=plan.hold_nano_usd,
            catalog_revision=plan.catalog_revision,
        )


def _check_endpoint(endpoint: str) -> None:
    if endpoint != ENDPOINT:
        raise errors.InvalidRequest(f"the router knows {ENDPOINT}, not {endpoint!r}")


def _call(request: router_pb2.CompleteRequest) -> CompletionCall:
    ticket, flight, fill = request.cache_ticket, request.flight, request.fill
    return CompletionCall(
        principal=principal_from_proto(request.principal),
        request_id=request.request_id,
        model=request.model,
        requested_model=request.requested_model or request.model,
        body=request.openai_body,
        stream=request.stream,
        cache_ticket=CacheTicket(ticket.SerializeToString(), ticket.record)
        if request.HasField("cache_ticket")
        else None,
        trace_id=current_trace_id(),
        tags=dict(request.tags),
        started_at_ms=request.started_at_ms,
        flight=FlightPass(flight.name, flight.token, flight.run, flight.fingerprint)
        if request.HasField("flight")
        else None,
        region=_region(request.region),
        # Without leave to store there is nothing that the others could be given.
        fill=FillLead(fill.name, fill.token, max(0.001, fill.lease_ms / 1_000))
        if request.HasField("fill") and request.HasField("cache_ticket")
        else None,
    )


def _region(number: int) -> RegionPolicy:
    try:
        return region_from_proto(number)
    except ValueError as error:
        raise errors.InvalidRequest(str(error), "region") from error


def _event(event: Event) -> router_pb2.CompleteResponse:
    if isinstance(event, ChunksEvent):
        return router_pb2.CompleteResponse(chunks=router_pb2.Chunks(payloads=event.payloads))
    if isinstance(event, RouteEvent):
        return router_pb2.CompleteResponse(
            route=router_pb2.Route(
                source_id=event.source_id,
                offer_id=event.offer_id,
                upstream_model=event.upstream_model,
                failed_attempts=event.failed_attempts,
                held_nano_usd=event.held_nano_usd,
            )
        )
    return router_pb2.CompleteResponse(
        final=router_pb2.Final(
            openai_body=event.body,
            usage_chunk=event.usage_chunk,
            usage=usage_to_proto(event.usage),
            charged_nano_usd=event.charged_nano_usd,
            receipt_id=event.receipt_id,
        )
    )


def _candidate(candidate: Candidate) -> router_pb2.Candidate:
    return router_pb2.Candidate(
        offer_id=candidate.offer.offer_id,
        source_id=candidate.offer.source_id,
        worst_case_nano_usd=candidate.worst_case_nano_usd,
        price=price_to_proto(candidate.price),
        upstream_model=candidate.offer.upstream_model,
        provider_key_id=candidate.own_key.provider_key_id if candidate.own_key else "",
    )


def _rejection(rejection: Rejection) -> router_pb2.Rejection:
    return router_pb2.Rejection(
        offer_id=rejection.offer_id,
        reason=router_pb2.Rejection.Reason.ValueType(rejection.reason.value),
        detail=rejection.detail,
    )
