"""``CacheService`` of the contract: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from cache_svc.domain.canonical import NotCanonical
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject
from cache_svc.service import BadRequest, CacheService, StoreUnavailable
from meshkit.codec import (
    price_from_proto,
    price_to_proto,
    principal_from_proto,
    usage_from_proto,
    usage_to_proto,
)
from meshkit.errors import ErrorTable, maps_errors
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.common.v1.principal_pb2 import Principal as PrincipalMessage

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

ERRORS: ErrorTable = {
    NotCanonical: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    BadRequest: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
}

_MODES = {
    cache_pb2.CacheControls.MODE_UNSPECIFIED: Mode.DEFAULT,
    cache_pb2.CacheControls.MODE_DEFAULT: Mode.DEFAULT,
    cache_pb2.CacheControls.MODE_OFF: Mode.OFF,
    cache_pb2.CacheControls.MODE_REFRESH: Mode.REFRESH,
    cache_pb2.CacheControls.MODE_ONLY: Mode.ONLY,
}
_REASONS = {
    MissReason.NOT_STORED: cache_pb2.Miss.REASON_NOT_STORED,
    MissReason.STALE: cache_pb2.Miss.REASON_STALE,
    MissReason.NOT_ELIGIBLE: cache_pb2.Miss.REASON_NOT_ELIGIBLE,
    MissReason.BYPASSED: cache_pb2.Miss.REASON_BYPASSED,
    MissReason.UNAVAILABLE: cache_pb2.Miss.REASON_UNAVAILABLE,
}


@maps_errors(ERRORS)
class CacheServicer(cache_pb2_grpc.CacheServiceServicer):
    """The cache over gRPC."""

    def __init__(self, service: CacheService) -> None:
        self._service = service

    async def Lookup(
        self,
        request: cache_pb2.LookupRequest,
        context: ServicerContext[cache_pb2.LookupRequest, cache_pb2.LookupResponse],
    ) -> cache_pb2.LookupResponse:
        """A verified answer, or leave to store one."""
        subject = _subject(
            request.principal, request.endpoint, request.model, request.policy_epoch, request.openai_body
        )
        if not request.completion_id:
            raise BadRequest("completion_id is missing")
        outcome = await self._service.lookup(subject, _controls(request.controls), request.completion_id)
        if isinstance(outcome, Hit):
            return cache_pb2.LookupResponse(hit=_hit(outcome))
        return cache_pb2.LookupResponse(miss=_miss(outcome, subject))

    async def Store(
        self,
        request: cache_pb2.StoreRequest,
        context: ServicerContext[cache_pb2.StoreRequest, cache_pb2.StoreResponse],
    ) -> cache_pb2.StoreResponse:
        """Keeps an answer, or says why not."""
        ticket = request.ticket
        subject = _subject(request.principal, ticket.endpoint, ticket.model, ticket.policy_epoch, request.openai_body)
        try:
            fresh = FreshAnswer(
                usage=usage_from_proto(request.usage),
                price=price_from_proto(request.price),
                receipt_id=request.receipt_id,
                source_id=request.source_id,
                upstream_model=request.upstream_model,
                body=request.answer_body,
                chunks=list(request.answer_chunks),
            )
        except ValueError as error:
            raise BadRequest(f"usage or price: {error}") from error
        refusal = await self._service.store(subject, ticket.key, fresh)
        return cache_pb2.StoreResponse(stored=not refusal, reason=refusal)

    async def Purge(
        self,
        request: cache_pb2.PurgeRequest,
        context: ServicerContext[cache_pb2.PurgeRequest, cache_pb2.PurgeResponse],
    ) -> cache_pb2.PurgeResponse:
        """Forgets answers at once."""
        epoch = await self._service.purge(request.org_id, project_id=request.project_id, model=request.model)
        return cache_pb2.PurgeResponse(epoch=epoch)

    async def GetStats(
        self,
        request: cache_pb2.GetStatsRequest,
        context: ServicerContext[cache_pb2.GetStatsRequest, cache_pb2.GetStatsResponse],
    ) -> cache_pb2.GetStatsResponse:
        """The counters of this process."""
        counters, usage = self._service.counters, await self._service.usage()
        return cache_pb2.GetStatsResponse(
            hits=counters.hits,
            misses=counters.misses,
            stores=counters.stores,
            store_refusals=counters.store_refusals,
            evictions=usage.evictions,
            bytes=usage.held_bytes,
            poisoned=counters.poisoned,
        )


def _subject(principal: PrincipalMessage, endpoint: str, model: str, policy_epoch: str, body: bytes) -> Subject:
    # Without them, requests of two tenants or for two models would have one key.
    for name, value in (
        ("principal.org_id", principal.org_id),
        ("principal.project_id", principal.project_id),
        ("endpoint", endpoint),
        ("model", model),
    ):
        if not value:
            raise BadRequest(f"{name} is missing")
    return Subject(principal_from_proto(principal), endpoint, model, policy_epoch, body)


def _controls(message: cache_pb2.CacheControls) -> Controls:
    if message.mode not in _MODES:
        raise BadRequest(f"cache mode {message.mode} is not known")
    return Controls(
        mode=_MODES[message.mode],
        max_age_s=message.max_age_s if message.HasField("max_age_s") else None,
        allow_sampled=message.allow_sampled,
    )


def _hit(hit: Hit) -> cache_pb2.Hit:
    entry = hit.entry
    return cache_pb2.Hit(
        tier=cache_pb2.REPLAY_TIER_EXACT,
        openai_body=hit.body,
        chunks=hit.chunks,
        usage_chunk=hit.usage_chunk,
        usage=usage_to_proto(entry.usage),
        price=price_to_proto(entry.price),
        origin_receipt_id=entry.receipt_id,
        source_id=entry.source_id,
        upstream_model=entry.upstream_model,
        age_ms=hit.age_ms,
        key_digest=hit.key_digest,
    )


def _miss(miss: Miss, subject: Subject) -> cache_pb2.Miss:
    message = cache_pb2.Miss(reason=_REASONS[miss.reason], detail=miss.detail)
    if miss.key:
        message.ticket.CopyFrom(
            cache_pb2.Ticket(
                key=miss.key, endpoint=subject.endpoint, model=subject.model, policy_epoch=subject.policy_epoch
            )
        )
    return message
