"""``CacheService`` of the contract: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from cache_svc.domain.canonical import NotCanonical
from cache_svc.domain.flight import AnotherContent
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.service import (
    BadRequest,
    CacheService,
    FillService,
    Leave,
    Recorder,
    Recordings,
    StoreFull,
    StoreUnavailable,
)
from cache_svc.servicer.drafts import answered, leave_to_record, replayed
from cache_svc.servicer.wire import ended_with, lead_of, lead_to, lease_s, require
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
_MILLION = 1_000_000


@maps_errors(ERRORS)
class CacheServicer(cache_pb2_grpc.CacheServiceServicer):
    """The cache over gRPC."""

    def __init__(self, service: CacheService, fills: FillService, recorder: Recorder, recordings: Recordings) -> None:
        self._service = service
        self._fills = fills
        self._recorder = recorder
        self._recordings = recordings

    async def Lookup(
        self,
        request: cache_pb2.LookupRequest,
        context: ServicerContext[cache_pb2.LookupRequest, cache_pb2.LookupResponse],
    ) -> cache_pb2.LookupResponse:
        """A verified answer, or leave to store one."""
        controls = request.controls
        subject = _subject(request.principal, request, request.openai_body, share_in_org=controls.share_in_org)
        if not request.completion_id:
            raise BadRequest("completion_id is missing")
        claim = None
        if request.HasField("claim"):
            require(len(request.claim.token) > 1, "claim.token")
            claim = self._fills.claim(request.claim.token, lease_s(request.claim.lease_ms))
        outcome = await self._service.lookup(subject, _controls(controls), request.completion_id, claim)
        if isinstance(outcome, Hit):
            if controls.record:
                self._recorder.note(replayed(subject, controls, outcome, self._recorder.now_ms()))
            return cache_pb2.LookupResponse(hit=_hit(outcome))
        miss = _miss(outcome, subject, controls, round(1_000 * claim.lease_s) if claim else 0)
        if controls.record:
            leave_to_record(miss, outcome, subject, controls, self._recorder.now_ms())
        return cache_pb2.LookupResponse(miss=miss)

    async def Store(
        self,
        request: cache_pb2.StoreRequest,
        context: ServicerContext[cache_pb2.StoreRequest, cache_pb2.StoreResponse],
    ) -> cache_pb2.StoreResponse:
        """Keeps an answer, or says why not; and ends the flight of those who wait for it."""
        ticket = request.ticket
        lead = lead_of(request.lead) if request.HasField("lead") else None
        subject = _subject(request.principal, ticket, request.openai_body, share_in_org=ticket.share_in_org)
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
        if ticket.record and not ticket.key:
            refusal, ended = ticket.asked.why_not_stored, False
        else:
            leave = Leave(_ttl_s(ticket.ttl_s), _tier(ticket.up_to), ticket.lesson, tuple(ticket.epochs))
            ending = self._fills.ending(lead, ended_with(request, stored=True)) if lead is not None else None
            stored = await self._service.store_and_end(subject, ticket.key, fresh, leave, ending)
            refusal, ended = stored.refusal, stored.ended
        if ticket.record:
            self._recorder.note(answered(subject, ticket.asked, fresh, refusal))
        if lead is not None and not ended:
            await self._fills.end(lead, ended_with(request, stored=not refusal), shared=not refusal)
        return cache_pb2.StoreResponse(stored=not refusal, reason=refusal)

    async def Purge(
        self,
        request: cache_pb2.PurgeRequest,
        context: ServicerContext[cache_pb2.PurgeRequest, cache_pb2.PurgeResponse],
    ) -> cache_pb2.PurgeResponse:
        """Forgets answers at once."""
        if request.key_prefix:
            if request.project_id or request.model:
                raise BadRequest("a purge names a project, a model or a key prefix, not two of them")
            forgotten = await self._service.purge_prefix(request.org_id, request.key_prefix)
            return cache_pb2.PurgeResponse(forgotten=forgotten)
        epoch = await self._service.purge(request.org_id, project_id=request.project_id, model=request.model)
        if request == cache_pb2.PurgeRequest(org_id=request.org_id):
            await self._recordings.forget(request.org_id)
        return cache_pb2.PurgeResponse(epoch=epoch)

    async def GetStats(
        self,
        request: cache_pb2.GetStatsRequest,
        context: ServicerContext[cache_pb2.GetStatsRequest, cache_pb2.GetStatsResponse],
    ) -> cache_pb2.GetStatsResponse:
        """The counters of this process, or of one organisation in it."""
        if request.org_id:
            return await self._stats_of(request.org_id)
        counters, usage = self._service.counters, await self._service.usage()
        return cache_pb2.GetStatsResponse(
            hits=counters.hits,
            misses=counters.misses,
            stores=counters.stores,
            store_refusals=counters.store_refusals,
            evictions=usage.evictions,
            bytes=usage.held_bytes,
            poisoned=counters.poisoned,
            canonical_hits=counters.hits_by_tier[Tier.CANONICAL],
            semantic=cache_pb2.SemanticStats(
                replayed=counters.hits_by_tier[Tier.SEMANTIC],
                explored=counters.semantic.explored,
                agreed=counters.semantic.agreed,
                disagreed=counters.semantic.disagreed,
                guarded=counters.semantic.guarded,
            ),
            entries=usage.entries,
        )

    async def _stats_of(self, org_id: str) -> cache_pb2.GetStatsResponse:
        found, known = await self._service.statistics(org_id)
        groups = [
            cache_pb2.GroupStats(
                project_id=group.project_id,
                model=group.model,
                hits=tally.hits,
                misses=tally.misses,
                stores=tally.stores,
                entries=held.entries,
                bytes=held.held_bytes,
                evictions=held.evictions,
            )
            for group, (tally, held) in found.items()
        ]
        sums = {name: sum(getattr(group, name) for group in groups) for name in _SUMMED}
        return cache_pb2.GetStatsResponse(groups=groups, holdings_known=known, **sums)


_SUMMED = ("hits", "misses", "stores", "entries", "bytes", "evictions")


def _subject(
    principal: PrincipalMessage, named: cache_pb2.LookupRequest | cache_pb2.Ticket, body: bytes, *, share_in_org: bool
) -> Subject:
    # Without them, requests of two tenants or for two models would have one key.
    for name, value in (
        ("principal.org_id", principal.org_id),
        ("principal.project_id", principal.project_id),
        ("endpoint", named.endpoint),
        ("model", named.model),
    ):
        if not value:
            raise BadRequest(f"{name} is missing")
    return Subject(principal_from_proto(principal), named.endpoint, named.model, named.policy_epoch, body, share_in_org)


def _ttl_s(ttl_s: int) -> int:
    if ttl_s < 0:
        raise BadRequest(f"ttl_s is {ttl_s}, below 0")
    return ttl_s


def _controls(message: cache_pb2.CacheControls) -> Controls:
    if message.mode not in _MODES:
        raise BadRequest(f"cache mode {message.mode} is not known")
    bounded = message.HasField("max_error_ppm")
    if bounded and not 1 <= message.max_error_ppm <= _MILLION:
        raise BadRequest(f"max_error_ppm is {message.max_error_ppm}, not 1 to {_MILLION}")
    return Controls(
        mode=_MODES[message.mode],
        max_age_s=message.max_age_s if message.HasField("max_age_s") else None,
        allow_sampled=message.allow_sampled,
        up_to=_tier(message.up_to),
        max_error=message.max_error_ppm / _MILLION if bounded else None,
        ttl_s=_ttl_s(message.ttl_s),
    )


def _tier(number: cache_pb2.ReplayTier.ValueType) -> Tier:
    if number not in _TIERS:
        raise BadRequest(f"cache tier {number} is not known")
    return _TIERS[number]


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
        similarity_ppm=round(hit.similarity * _MILLION),
    )


def _miss(miss: Miss, subject: Subject, controls: cache_pb2.CacheControls, lease_ms: int) -> cache_pb2.Miss:
    message = cache_pb2.Miss(reason=_REASONS[miss.reason], detail=miss.detail)
    if miss.key:
        message.ticket.CopyFrom(
            cache_pb2.Ticket(
                key=miss.key,
                endpoint=subject.endpoint,
                model=subject.model,
                policy_epoch=subject.policy_epoch,
                up_to=controls.up_to,
                lesson=miss.lesson,
                ttl_s=controls.ttl_s,
                share_in_org=controls.share_in_org,
                record=controls.record,
                epochs=miss.epochs,
            )
        )
    if miss.lead is not None:
        message.lead.CopyFrom(lead_to(miss.lead, lease_ms))
    if miss.underway is not None:
        message.underway.CopyFrom(lead_to(miss.underway))
    return message
