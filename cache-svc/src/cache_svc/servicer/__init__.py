"""``CacheService`` and ``FlightService`` of the contract: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from cache_svc.domain.canonical import NotCanonical
from cache_svc.domain.flight import AnotherContent, Ending, Pass, flight_name
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.service import BadRequest, CacheService, FillService, FlightService, StoreFull, StoreUnavailable
from cache_svc.service.flights import Landed, Lead, Remembered
from cache_svc.servicer.wire import answered, lead_of, lead_to
from meshkit.codec import (
    price_from_proto,
    price_to_proto,
    principal_from_proto,
    usage_from_proto,
    usage_to_proto,
)
from meshkit.errors import ErrorTable, maps_errors
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc, flights_pb2, flights_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.common.v1.principal_pb2 import Principal as PrincipalMessage

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

ERRORS: ErrorTable = {
    NotCanonical: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    BadRequest: (grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    StoreFull: (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    AnotherContent: (grpc.StatusCode.ALREADY_EXISTS, ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT),
}

_MODES = {
    cache_pb2.CacheControls.MODE_UNSPECIFIED: Mode.DEFAULT,
    cache_pb2.CacheControls.MODE_DEFAULT: Mode.DEFAULT,
    cache_pb2.CacheControls.MODE_OFF: Mode.OFF,
    cache_pb2.CacheControls.MODE_REFRESH: Mode.REFRESH,
    cache_pb2.CacheControls.MODE_ONLY: Mode.ONLY,
}
_TIERS = {
    cache_pb2.REPLAY_TIER_UNSPECIFIED: Tier.EXACT,
    cache_pb2.REPLAY_TIER_EXACT: Tier.EXACT,
    cache_pb2.REPLAY_TIER_CANONICAL: Tier.CANONICAL,
    cache_pb2.REPLAY_TIER_SEMANTIC: Tier.SEMANTIC,
}
_TIER_NUMBERS = {tier: number for number, tier in _TIERS.items()}
_REASONS = {
    MissReason.NOT_STORED: cache_pb2.Miss.REASON_NOT_STORED,
    MissReason.STALE: cache_pb2.Miss.REASON_STALE,
    MissReason.NOT_ELIGIBLE: cache_pb2.Miss.REASON_NOT_ELIGIBLE,
    MissReason.BYPASSED: cache_pb2.Miss.REASON_BYPASSED,
    MissReason.UNAVAILABLE: cache_pb2.Miss.REASON_UNAVAILABLE,
}
_ENDINGS = {
    flights_pb2.AbandonRequest.ENDING_NOTHING_HELD: Ending.NOTHING_HELD,
    flights_pb2.AbandonRequest.ENDING_RELEASED: Ending.RELEASED,
    flights_pb2.AbandonRequest.ENDING_UNKNOWN: Ending.UNKNOWN,
}
_KEPT = {
    Remembered.WHOLE: flights_pb2.LandResponse.KEPT_WHOLE,
    Remembered.WITHOUT_ANSWER: flights_pb2.LandResponse.KEPT_WITHOUT_ANSWER,
    Remembered.NOTHING: flights_pb2.LandResponse.KEPT_NOTHING,
}
_FINGERPRINT_BYTES, _NAME_BYTES, _KEY_CHARS_MAX = 32, 32, 255
_MILLION = 1_000_000


@maps_errors(ERRORS)
class CacheServicer(cache_pb2_grpc.CacheServiceServicer):
    """The cache over gRPC."""

    def __init__(self, service: CacheService, fills: FillService) -> None:
        self._service = service
        self._fills = fills

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
        claim = None
        if request.HasField("claim"):
            _require(len(request.claim.token) > 1, "claim.token")
            claim = self._fills.claim(request.claim.token, _lease_s(request.claim.lease_ms))
        outcome = await self._service.lookup(subject, _controls(request.controls), request.completion_id, claim)
        if isinstance(outcome, Hit):
            return cache_pb2.LookupResponse(hit=_hit(outcome))
        return cache_pb2.LookupResponse(miss=_miss(outcome, subject, round(1_000 * claim.lease_s) if claim else 0))

    async def Store(
        self,
        request: cache_pb2.StoreRequest,
        context: ServicerContext[cache_pb2.StoreRequest, cache_pb2.StoreResponse],
    ) -> cache_pb2.StoreResponse:
        """Keeps an answer, or says why not; and ends the flight of those who wait for it."""
        ticket = request.ticket
        lead = lead_of(request.lead) if request.HasField("lead") else None
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
        if lead is not None:
            await self._fills.end(lead, answered(request, stored=not refusal), shared=not refusal)
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


@maps_errors(ERRORS)
class FlightServicer(flights_pb2_grpc.FlightServiceServicer):
    """Flights over gRPC. A landing is opaque to the service; only here is it known what of it may be left out."""

    def __init__(self, service: FlightService) -> None:
        self._service = service

    async def Board(
        self,
        request: flights_pb2.BoardRequest,
        context: ServicerContext[flights_pb2.BoardRequest, flights_pb2.BoardResponse],
    ) -> flights_pb2.BoardResponse:
        """Leads, gets the landing, or waits."""
        _require(request.token, "token")
        _require(len(request.fingerprint) == _FINGERPRINT_BYTES, "fingerprint, a SHA-256,")
        outcome = await self._service.board(
            _name(request),
            token=request.token,
            fingerprint=request.fingerprint,
            lease_s=_lease_s(request.lease_ms),
            wait_s=max(0, request.wait_ms) / 1_000,
        )
        if isinstance(outcome, Lead):
            return flights_pb2.BoardResponse(lead=_pass(outcome.ticket))
        if isinstance(outcome, Landed):
            return flights_pb2.BoardResponse(landed=flights_pb2.Landing.FromString(outcome.landing))
        return flights_pb2.BoardResponse(underway=flights_pb2.Underway())

    async def Renew(
        self,
        request: flights_pb2.RenewRequest,
        context: ServicerContext[flights_pb2.RenewRequest, flights_pb2.RenewResponse],
    ) -> flights_pb2.RenewResponse:
        """Prolongs the lease."""
        ticket = _ticket(request.ticket)
        return flights_pb2.RenewResponse(leads=await self._service.renew(ticket, _lease_s(request.lease_ms)))

    async def Land(
        self,
        request: flights_pb2.LandRequest,
        context: ServicerContext[flights_pb2.LandRequest, flights_pb2.LandResponse],
    ) -> flights_pb2.LandResponse:
        """Ends the flight with its answer."""
        landing = request.landing
        _require(landing.receipt_id, "landing.receipt_id")
        _require(landing.request_id, "landing.request_id")
        bare = flights_pb2.Landing(request_id=landing.request_id, receipt_id=landing.receipt_id, answer_gone=True)
        kept = await self._service.land(_ticket(request.ticket), landing.SerializeToString(), bare.SerializeToString())
        return flights_pb2.LandResponse(kept=_KEPT[kept])

    async def Abandon(
        self,
        request: flights_pb2.AbandonRequest,
        context: ServicerContext[flights_pb2.AbandonRequest, flights_pb2.AbandonResponse],
    ) -> flights_pb2.AbandonResponse:
        """Ends the lead without one."""
        if request.ending not in _ENDINGS:
            raise BadRequest(f"ending {request.ending} is not known")
        ended = await self._service.abandon(_ticket(request.ticket), _ENDINGS[request.ending])
        return flights_pb2.AbandonResponse(abandoned=ended)


def _require(present: object, name: str) -> None:
    if not present:
        raise BadRequest(f"{name} is missing")


def _lease_s(lease_ms: int) -> float:
    if lease_ms <= 0:
        raise BadRequest("lease_ms must be above 0")
    return lease_ms / 1_000


def _name(request: flights_pb2.BoardRequest) -> bytes:
    """The scope of each kind. Without one of its parts, two callers would share a flight."""
    payer = request.principal
    if request.kind != flights_pb2.FLIGHT_KIND_IDEMPOTENT_REQUEST:
        raise BadRequest(f"flight kind {request.kind} is not known")
    _require(payer.org_id, "principal.org_id")
    _require(payer.key_id, "principal.key_id")
    if not 1 <= len(request.key) <= _KEY_CHARS_MAX:
        raise BadRequest(f"key has 1 to {_KEY_CHARS_MAX} characters")
    return flight_name("idempotent_request", payer.org_id, payer.key_id, request.key)


def _ticket(message: flights_pb2.FlightPass) -> Pass:
    if len(message.name) != _NAME_BYTES or not message.token or len(message.fingerprint) != _FINGERPRINT_BYTES:
        raise BadRequest("ticket is not one that Board gave")
    return Pass(message.name, message.token, message.run, message.fingerprint)


def _pass(ticket: Pass) -> flights_pb2.FlightPass:
    return flights_pb2.FlightPass(name=ticket.name, token=ticket.token, run=ticket.run, fingerprint=ticket.fingerprint)


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
    if message.up_to not in _TIERS:
        raise BadRequest(f"cache tier {message.up_to} is not known")
    bounded = message.HasField("max_error_ppm")
    if bounded and not 1 <= message.max_error_ppm <= _MILLION:
        raise BadRequest(f"max_error_ppm is {message.max_error_ppm}, not 1 to {_MILLION}")
    return Controls(
        mode=_MODES[message.mode],
        max_age_s=message.max_age_s if message.HasField("max_age_s") else None,
        allow_sampled=message.allow_sampled,
        up_to=_TIERS[message.up_to],
        max_error=message.max_error_ppm / _MILLION if bounded else None,
    )


def _hit(hit: Hit) -> cache_pb2.Hit:
    entry = hit.entry
    return cache_pb2.Hit(
        tier=_TIER_NUMBERS[hit.tier],
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


def _miss(miss: Miss, subject: Subject, lease_ms: int) -> cache_pb2.Miss:
    message = cache_pb2.Miss(reason=_REASONS[miss.reason], detail=miss.detail)
    if miss.key:
        message.ticket.CopyFrom(
            cache_pb2.Ticket(
                key=miss.key, endpoint=subject.endpoint, model=subject.model, policy_epoch=subject.policy_epoch
            )
        )
    if miss.lead is not None:
        message.lead.CopyFrom(lead_to(miss.lead, lease_ms))
    if miss.underway is not None:
        message.underway.CopyFrom(lead_to(miss.underway))
    return message
