"""What is recorded of a lookup and of a store, from their messages."""

from __future__ import annotations

from cache_svc.domain.recording import Asked, Draft, RecordedControls
from cache_svc.domain.replay import FreshAnswer, Hit, Miss, MissReason, Mode, Subject, Tier
from cache_svc.service import BadRequest
from tallygate.cache.v1 import cache_pb2

_WHY_NO_KEY = {
    MissReason.BYPASSED: "the cache was off",
    MissReason.UNAVAILABLE: "the cache's backend was away",
}


def replayed(subject: Subject, controls: cache_pb2.CacheControls, hit: Hit, now_ms: int) -> Draft:
    """A request that the cache answered."""
    entry, who = hit.entry, subject.principal
    return Draft(
        org_id=who.org_id,
        project_id=who.project_id,
        endpoint=subject.endpoint,
        model=subject.model,
        policy_epoch=subject.policy_epoch,
        body=subject.body,
        asked=Asked(now_ms, _recorded(controls)),
        usage=entry.usage,
        price=entry.price,
        answer=entry.answer,
        tier=hit.tier,
        age_ms=hit.age_ms,
        origin_receipt_id=entry.receipt_id,
        source_id=entry.source_id,
    )


def answered(subject: Subject, asked: cache_pb2.Asked, fresh: FreshAnswer, refusal: str) -> Draft:
    """A request that a source answered; ``refusal``: why the answer was not kept.

    Raises:
        BadRequest: the ticket is not one that a lookup gave.
    """
    who = subject.principal
    try:
        controls = _recorded(asked.controls)
    except ValueError as error:
        raise BadRequest(f"ticket.asked: {error}") from error
    return Draft(
        org_id=who.org_id,
        project_id=who.project_id,
        endpoint=subject.endpoint,
        model=subject.model,
        policy_epoch=subject.policy_epoch,
        body=subject.body,
        asked=Asked(asked.at_ms, controls, refusal),
        usage=fresh.usage,
        price=fresh.price,
        answer=fresh.body,
        chunks=fresh.chunks,
        receipt_id=fresh.receipt_id,
        source_id=fresh.source_id,
    )


def leave_to_record(
    message: cache_pb2.Miss, miss: Miss, subject: Subject, controls: cache_pb2.CacheControls, now_ms: int
) -> None:
    """Adds to a miss's message the ticket by which the answer is recorded; one that only reads the cache gets none."""
    if controls.mode == cache_pb2.CacheControls.MODE_ONLY:
        return
    ticket = message.ticket
    ticket.endpoint, ticket.model, ticket.policy_epoch = subject.endpoint, subject.model, subject.policy_epoch
    ticket.record = True
    ticket.asked.at_ms = now_ms
    ticket.asked.controls.CopyFrom(controls)
    if not miss.key:
        ticket.asked.why_not_stored = miss.detail or _WHY_NO_KEY.get(miss.reason, "the cache gave no leave to store it")


def controls_of(controls: RecordedControls) -> cache_pb2.CacheControls:
    """Of a record."""
    return cache_pb2.CacheControls(
        mode=cache_pb2.CacheControls.Mode.ValueType(controls.mode.value),
        max_age_s=controls.max_age_s,
        allow_sampled=controls.allow_sampled,
        up_to=cache_pb2.ReplayTier.ValueType(controls.up_to.value),
        max_error_ppm=controls.max_error_ppm,
        ttl_s=controls.ttl_s,
        share_in_org=controls.share_in_org,
        record=True,
    )


def _recorded(message: cache_pb2.CacheControls) -> RecordedControls:
    return RecordedControls(
        mode=Mode(message.mode or Mode.DEFAULT.value),  # the numbers of the contract
        max_age_s=message.max_age_s if message.HasField("max_age_s") else None,
        allow_sampled=message.allow_sampled,
        up_to=Tier(message.up_to or Tier.EXACT.value),
        max_error_ppm=message.max_error_ppm if message.HasField("max_error_ppm") else None,
        ttl_s=message.ttl_s,
        share_in_org=message.share_in_org,
    )
