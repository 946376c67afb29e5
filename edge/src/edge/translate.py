"""Between OpenAI's REST and the mesh: requests to the services, and their answers as headers and as the last chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from edge.exchange import Exchange
from edge.limits import Tokens
from edge.wire.cache_control import Controls, Mode, Tier, status_forward
from edge.wire.checks import ChatCall
from edge.wire.header_lines import Lines
from edge.wire.receipts import served_mode
from meshkit.answers import statement
from meshkit.digests import NewSalt, salted
from meshkit.money import format_usd
from meshkit.regions import RegionPolicy
from tallygate.cache.v1 import cache_pb2, flights_pb2
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1 import money_pb2, principal_pb2
from tallygate.ledger.v1 import ledger_pb2
from tallygate.router.v1 import router_pb2

ENDPOINT = "chat/completions"

_MODES = {
    Mode.DEFAULT: cache_pb2.CacheControls.MODE_DEFAULT,
    Mode.OFF: cache_pb2.CacheControls.MODE_OFF,
    Mode.REFRESH: cache_pb2.CacheControls.MODE_REFRESH,
    Mode.ONLY: cache_pb2.CacheControls.MODE_ONLY,
}
_TIERS = {
    Tier.EXACT: cache_pb2.REPLAY_TIER_EXACT,
    Tier.CANONICAL: cache_pb2.REPLAY_TIER_CANONICAL,
    Tier.SEMANTIC: cache_pb2.REPLAY_TIER_SEMANTIC,
}
_REGIONS = {
    RegionPolicy.ANY: ledger_pb2.REGION_POLICY_ANY,
    RegionPolicy.CN_ONLY: ledger_pb2.REGION_POLICY_CN_ONLY,
    RegionPolicy.OVERSEAS_ONLY: ledger_pb2.REGION_POLICY_OVERSEAS_ONLY,
}
_SERVED_BY_TIER = {
    cache_pb2.REPLAY_TIER_EXACT: ledger_pb2.SERVED_MODE_EXACT,
    cache_pb2.REPLAY_TIER_CANONICAL: ledger_pb2.SERVED_MODE_CANONICAL,
    cache_pb2.REPLAY_TIER_SEMANTIC: ledger_pb2.SERVED_MODE_SEMANTIC,
}
_NAME_BY_TIER = {tier: served_mode(mode) for tier, mode in _SERVED_BY_TIER.items()}
_FRESH = served_mode(ledger_pb2.SERVED_MODE_FRESH)
_FORWARDED = {  # RFC 9211, 2.2: why the request went on
    cache_pb2.Miss.REASON_NOT_STORED: "miss",
    cache_pb2.Miss.REASON_STALE: "stale",
    cache_pb2.Miss.REASON_NOT_ELIGIBLE: "bypass",
    cache_pb2.Miss.REASON_BYPASSED: "request",
    cache_pb2.Miss.REASON_UNAVAILABLE: "bypass",
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that has passed the edge's own checks."""

    exchange: Exchange
    principal: principal_pb2.Principal
    body: bytes
    """As the client sent it."""
    call: ChatCall
    model: catalog_pb2.Model
    """What the client's name stands for."""
    controls: Controls
    idempotency_key: str | None = None
    """One answer and one charge for all requests that have it."""
    tokens: Tokens = field(default_factory=Tokens)
    """What it has taken of its key's tokens by the minute."""
    region: RegionPolicy = RegionPolicy.ANY
    """Where it may be answered."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known when an answer is paid for."""

    receipt_id: str
    charged_nano_usd: int
    usage: money_pb2.Usage
    trace_id: str
    """Of the request that was charged."""


def lookup_request(request: Admitted, mode: Mode | None = None, *, lease_s: float = 0.0) -> cache_pb2.LookupRequest:
    """Asks for a stored answer; ``mode``: in place of the one that the request asks for. ``lease_s``: to lead identical
    requests for so long where there is none; 0: not to.
    """
    controls = request.controls
    # Field by field, as messages of this size are made at a third of what keyword arguments cost.
    asked = cache_pb2.LookupRequest()
    asked.principal.CopyFrom(request.principal)
    asked.endpoint = ENDPOINT
    asked.model = request.model.id
    asked.policy_epoch = request.model.policy_epoch
    asked.openai_body = request.body
    asked.completion_id = request.exchange.generation_id
    wanted = asked.controls
    wanted.mode = _MODES[mode or controls.mode]
    wanted.up_to = _TIERS[controls.up_to]
    wanted.allow_sampled = controls.allow_sampled
    wanted.ttl_s = controls.ttl_s
    wanted.share_in_org = controls.share_in_org
    wanted.record = controls.record and mode is None  # else it has been looked up, and recorded, before
    if controls.max_age_s is not None:
        wanted.max_age_s = controls.max_age_s
    if controls.max_error_ppm is not None:
        wanted.max_error_ppm = controls.max_error_ppm
    if lease_s:
        asked.claim.token = request.exchange.request_id
        asked.claim.lease_ms = round(1_000 * lease_s)
    return asked


def complete_request(
    request: Admitted, miss: cache_pb2.Miss, flight: flights_pb2.FlightPass | None
) -> router_pb2.CompleteRequest:
    """Asks for a fresh answer; without a ticket in the miss it is not stored. ``flight``: led, and handed over with it,
    as is the lead of identical requests.
    """
    exchange = request.exchange
    asked = router_pb2.CompleteRequest()
    asked.principal.CopyFrom(request.principal)
    asked.request_id = exchange.request_id
    asked.endpoint = ENDPOINT
    asked.model = request.model.id
    asked.openai_body = request.body
    asked.stream = request.call.stream
    asked.requested_model = request.call.model
    asked.region = _REGIONS[request.region]
    asked.started_at_ms = exchange.started_at_ms
    if miss.HasField("ticket"):
        asked.cache_ticket.CopyFrom(miss.ticket)
    if miss.HasField("lead"):
        asked.fill.CopyFrom(miss.lead)
    if flight is not None:
        asked.flight.CopyFrom(flight)
    if exchange.tags:
        asked.tags.update(exchange.tags)
    return asked


def charge_request(request: Admitted, hit: cache_pb2.Hit, new_salt: NewSalt) -> ledger_pb2.ChargeRequest:
    """Charges for a replay at the price of the answer's origin. The digests are of what is replayed, not of what its
    origin said: whoever compares the two receipts sees that it is the same.

    Raises:
        NoStatement: what the cache found is no answer.
    """
    said = statement.of_stream(hit.chunks) if request.call.stream else statement.of_body(hit.openai_body)
    return ledger_pb2.ChargeRequest(
        principal=request.principal,
        request_id=request.exchange.request_id,
        facts=_replay_facts(request, hit, new_salt, answer_digest=salted(said, new_salt())),
    )


def settle_request(
    request: Admitted, hit: cache_pb2.Hit, new_salt: NewSalt, outcome: ledger_pb2.Outcome.ValueType
) -> ledger_pb2.SettleRequest:
    """Charges for a replay that was held for, as ``charge_request``. The stream that it replays may be an odd one, as
    the router may have relayed it; then the receipt has no digest of it, as that of the router has none.
    """
    try:
        digest = salted(statement.of_stream(hit.chunks), new_salt())
    except statement.NoStatement:
        digest = ""
    facts = _replay_facts(request, hit, new_salt, answer_digest=digest)
    facts.outcome = outcome
    return ledger_pb2.SettleRequest(
        org_id=request.principal.org_id, request_id=request.exchange.request_id, facts=facts
    )


def _replay_facts(
    request: Admitted, hit: cache_pb2.Hit, new_salt: NewSalt, *, answer_digest: str
) -> ledger_pb2.ChargeFacts:
    return ledger_pb2.ChargeFacts(
        usage=hit.usage,
        price=hit.price,
        served_mode=_SERVED_BY_TIER[hit.tier],
        outcome=ledger_pb2.OUTCOME_COMPLETE,
        requested_model=request.call.model,
        model=request.model.id,
        source_id=hit.source_id,
        upstream_model=hit.upstream_model,
        origin_receipt_id=hit.origin_receipt_id,
        trace_id=request.exchange.trace_id,
        request_digest=salted(request.body, new_salt()),
        answer_digest=answer_digest,
        tags=request.exchange.tags,
        started_at_ms=request.exchange.started_at_ms,
    )


def landing_of(request: Admitted, hit: cache_pb2.Hit, receipt: ledger_pb2.Receipt) -> flights_pb2.Landing:
    """A replay, for whoever asks for it again."""
    return flights_pb2.Landing(
        request_id=request.exchange.request_id,
        openai_body=hit.openai_body,
        chunks=hit.chunks,
        usage_chunk=hit.usage_chunk,
        usage=hit.usage,
        charged_nano_usd=receipt.charged_nano_usd,
        receipt_id=receipt.receipt_id,
        tier=hit.tier,
        trace_id=request.exchange.trace_id,
    )


def mode_of(tier: cache_pb2.ReplayTier.ValueType) -> str:
    """The value of ``X-Served-Mode``; without a tier: fresh."""
    return _NAME_BY_TIER.get(tier, _FRESH)


def miss_status(miss: cache_pb2.Miss) -> str:
    """``Cache-Status`` of the fresh answer that follows a miss."""
    detail = "unavailable" if miss.reason == cache_pb2.Miss.REASON_UNAVAILABLE else miss.detail
    return status_forward(_FORWARDED.get(miss.reason, "miss"), detail)


def repeated_headers(exchange: Exchange) -> Lines:
    """Of an answer that was given before: of no interest to caches, and marked as Stripe marks it."""
    return [*_named(exchange), (b"idempotent-replayed", b"true")]


def begun_headers(exchange: Exchange, cache_status: str) -> Lines:
    """What is known when an answer begins."""
    return [*_named(exchange), (b"cache-status", cache_status.encode())]


def _named(exchange: Exchange) -> Lines:
    return [
        (b"x-generation-id", exchange.generation_id.encode()),
        (b"x-served-mode", exchange.served_mode.encode()),
    ]


def settled_headers(settled: Settled) -> Lines:
    """What is known when it is paid for."""
    usage = settled.usage
    return [
        (b"x-receipt-id", settled.receipt_id.encode()),
        (b"x-cost-usd", format_usd(settled.charged_nano_usd).encode()),
        (b"x-usage-input-tokens", b"%d" % prompt_tokens(usage)),
        (b"x-usage-output-tokens", b"%d" % answer_tokens(usage)),
    ]


def estimated_tokens(body: bytes, call: ChatCall) -> int:
    """What a request may use, before it is known: a token for four bytes of it, and the answer that it allows. OpenAI
    reckons alike: https://platform.openai.com/docs/guides/rate-limits
    """
    return -(-len(body) // 4) + call.max_answer_tokens


def prompt_tokens(usage: money_pb2.Usage) -> int:
    """Prompt tokens of all classes."""
    return usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens


def answer_tokens(usage: money_pb2.Usage) -> int:
    """Answer tokens, those spent on reasoning among them."""
    return usage.output_tokens + usage.reasoning_tokens


def usage_payload(request: Admitted, chunk: bytes, settled: Settled, *, now_s: int) -> bytes:
    """The usage chunk of a stream, ``chunk`` as its source sent it, with the extension field ``tallygate``.

    Where the source sent none, one is made of what was counted; ``usage`` is null where nothing is known.
    """
    payload: dict[str, Any] = orjson.loads(chunk) if chunk else _own_usage_chunk(request, settled.usage, now_s)
    exchange = request.exchange
    payload["tallygate"] = {
        "receipt_id": settled.receipt_id,
        "cost_usd": format_usd(settled.charged_nano_usd),
        "served_mode": exchange.served_mode,
        "generation_id": exchange.generation_id,
        "trace_id": settled.trace_id,
    }
    return orjson.dumps(payload)


def _own_usage_chunk(request: Admitted, usage: money_pb2.Usage, now_s: int) -> dict[str, Any]:
    return {
        "id": request.exchange.generation_id,
        "object": "chat.completion.chunk",
        "created": now_s,
        "model": request.model.id,
        "choices": [],
        "usage": None if usage.provenance == money_pb2.USAGE_PROVENANCE_NONE else _openai_usage(usage),
    }


def _openai_usage(usage: money_pb2.Usage) -> dict[str, Any]:
    """https://platform.openai.com/docs/api-reference/chat/object: totals, with the details inside them."""
    return {
        "prompt_tokens": prompt_tokens(usage),
        "completion_tokens": answer_tokens(usage),
        "total_tokens": prompt_tokens(usage) + answer_tokens(usage),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
