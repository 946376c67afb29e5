"""What a call is settled for, once its sources have ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from meshkit.answers.statement import NoStatement
from meshkit.digests import NewSalt, salted
from meshkit.money import Usage
from router_svc.domain.answer import Delivery, Outcome
from router_svc.domain.digest import answer_digest
from router_svc.domain.errors import RouterError
from router_svc.domain.estimate import at_least, estimate_usage
from router_svc.domain.request import ChatRequest
from router_svc.domain.tokenizer import CountTokens
from router_svc.service.ports import CompletionCall, SettleFacts

_LONG_STREAM_BYTES = 256 * 1024
"""From here on a stream is folded in a thread, which keeps the others going."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the calls of sources ended. ``delivery`` None: none began to answer."""

    delivery: Delivery | None
    client_gone: bool
    error: RouterError | None


async def usage_of(ended: Ended, request: ChatRequest, count_tokens: CountTokens) -> Usage | None:
    """The source's numbers, else an estimate; None where there is nothing to charge for."""
    delivery = ended.delivery
    if delivery is None:
        return None
    told, complete = delivery.usage, delivery.is_complete(request.choices)
    if told is not None and (complete or delivery.usage_is_current):
        return told
    visible, reasoning = delivery.texts()
    # A source that broke off without a word is owed nothing; one that its client left has read the prompt.
    if told is None and not visible and not reasoning and not complete and not ended.client_gone:
        return None
    estimate = await asyncio.to_thread(
        estimate_usage, request.fields, delivery.candidate, visible, reasoning, count_tokens
    )
    return estimate if told is None else at_least(told, estimate)


def outcome_of(ended: Ended, delivery: Delivery, usage: Usage, request: ChatRequest) -> Outcome:
    """How the answer ended, for the charge."""
    if delivery.is_complete(request.choices) and delivery.came_to_nothing(usage):
        return Outcome.INTERRUPTED  # whatever its form: nobody pays for an answer that never came
    if ended.client_gone:
        return Outcome.CLIENT_GONE
    return Outcome.INTERRUPTED if ended.error else Outcome.COMPLETE


async def facts_of(
    call: CompletionCall, delivery: Delivery, usage: Usage, outcome: Outcome, new_salt: NewSalt
) -> SettleFacts:
    """Everything that the receipt is to say of the call, but its attempts."""
    offer = delivery.candidate.offer
    return SettleFacts(
        usage=usage,
        price=delivery.candidate.price,
        outcome=outcome,
        requested_model=call.requested_model,
        model=call.model,
        source_id=offer.source_id,
        upstream_model=offer.upstream_model,
        trace_id=call.trace_id,
        tags=call.tags,
        started_at_ms=call.started_at_ms,
        request_digest=salted(call.body, new_salt()),
        answer_digest=await _answer_digest(call, delivery, new_salt()),
    )


async def _answer_digest(call: CompletionCall, delivery: Delivery, salt: bytes) -> str:
    try:
        if delivery.received_bytes < _LONG_STREAM_BYTES:
            return answer_digest(delivery, salt)
        return await asyncio.to_thread(answer_digest, delivery, salt)
    except NoStatement as error:
        # The reason is about its form, and names fields at most.
        _log.warning("answer_without_digest", request_id=call.request_id, why=str(error)[:200])
        return ""
