"""What is kept of an answer for whoever asks again: in the cache, and as the landing of a flight."""

from __future__ import annotations

import structlog

from meshkit.money import Provenance, Usage
from router_svc.domain.answer import Delivery
from router_svc.domain.errors import CacheUnavailable, RouterError
from router_svc.service.fill import Fill
from router_svc.service.ports import Cache, Charge, CompletionCall, FreshAnswer, Landing

_log = structlog.get_logger(__name__)


def landing_of(
    call: CompletionCall, delivery: Delivery, usage: Usage, charge: Charge, error: RouterError | None
) -> Landing:
    """The answer as it was handed on, whole or broken off by ``error``. Whatever the cache would think of it."""
    return Landing(
        request_id=call.request_id,
        receipt_id=charge.receipt_id,
        body=delivery.body,
        chunks=delivery.payloads,
        usage_chunk=delivery.usage_chunk,
        usage=usage,
        charged_nano_usd=charge.charged_nano_usd,
        trace_id=call.trace_id,
        broken_off=error,
    )


async def offer(
    cache: Cache, call: CompletionCall, delivery: Delivery, usage: Usage, charge: Charge, fill: Fill | None = None
) -> None:
    """Offer a complete answer to the cache, if the call has leave to, and the source said what it used, or it is to be
    recorded, or others wait for it, who are then told. Never raises for a cache that is away.
    """
    ticket = call.cache_ticket
    if ticket is None:
        return
    if usage.provenance is not Provenance.PROVIDER and fill is None and not ticket.record:
        return
    if fill is not None:
        await fill.flush()
    usage_chunks = [delivery.usage_chunk] if delivery.usage_chunk else []
    answer = FreshAnswer(
        body=delivery.body,
        chunks=() if delivery.body else (*delivery.payloads, *usage_chunks),
        usage=usage,
        price=delivery.candidate.price,
        receipt_id=charge.receipt_id,
        source_id=delivery.candidate.offer.source_id,
        upstream_model=delivery.candidate.offer.upstream_model,
        payloads=len(delivery.payloads),
    )
    try:
        await cache.store(call.principal, ticket, call.body, answer, fill.lead if fill else None)
    except CacheUnavailable as error:
        _log.warning("answer_not_stored", request_id=call.request_id, error=str(error))
        if fill is not None:
            await fill.lost()
