"""A receipt as JSON.

Amounts and prices are decimal strings of USD, so that no client parses a float. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from meshkit.money import USAGE_CLASSES, format_usd
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import ledger_pb2

_RATE_OF_CLASS = {
    "input_tokens": "input_pico_usd",
    "cached_input_tokens": "cached_input_pico_usd",
    "cache_write_tokens": "cache_write_pico_usd",
    "output_tokens": "output_pico_usd",
    "reasoning_tokens": "reasoning_pico_usd",
    "images": "image_pico_usd",
    "seconds": "second_pico_usd",
    "calls": "call_pico_usd",
}


def receipt_json(receipt: ledger_pb2.Receipt) -> dict[str, Any]:
    """Every field of a receipt."""
    facts = receipt.facts
    return {
        "object": "receipt",
        "receipt_id": receipt.receipt_id,
        "request_id": receipt.request_id,
        "trace_id": facts.trace_id,
        "org_id": receipt.org_id,
        "project_id": receipt.project_id,
        "key_id": receipt.key_id,
        "created_at": _iso(receipt.created_at_ms),
        "started_at": _iso(facts.started_at_ms) if facts.started_at_ms else None,
        "served_mode": served_mode(facts.served_mode),
        "outcome": _name(ledger_pb2.Outcome, "OUTCOME_", facts.outcome),
        "requested_model": facts.requested_model,
        "model": facts.model,
        "source_id": facts.source_id,
        "upstream_model": facts.upstream_model or None,
        "origin_receipt_id": facts.origin_receipt_id or None,
        "request_digest": facts.request_digest or None,
        "answer_digest": facts.answer_digest or None,
        "tags": dict(facts.tags),
        "usage": usage_json(facts.usage),
        "price": price_json(facts.price),
        "held_usd": format_usd(receipt.held_nano_usd),
        "charged_usd": format_usd(receipt.charged_nano_usd),
        "saved_usd": format_usd(receipt.saved_nano_usd),
        "absorbed_usd": format_usd(receipt.absorbed_nano_usd),
        "attempts": [_attempt_json(attempt) for attempt in receipt.attempts],
    }


def usage_json(usage: money_pb2.Usage) -> dict[str, Any]:
    """Usage by disjoint class, and where the numbers came from."""
    provenance = _name(money_pb2.UsageProvenance, "USAGE_PROVENANCE_", usage.provenance)
    return {name: getattr(usage, name) for name in USAGE_CLASSES} | {"provenance": provenance}


def price_json(price: money_pb2.PriceSnapshot) -> dict[str, Any]:
    """The price snapshot; rates in USD per million units of each usage class, exact."""
    return {
        "offer_id": price.offer_id,
        "tier": _name(money_pb2.BillingTier, "BILLING_TIER_", price.tier),
        "rate_tiers": [
            {
                "above_input_tokens": tier.above_input_tokens,
                "usd_per_million": {
                    unit: _usd_per_million(getattr(tier.rates, rate)) for unit, rate in _RATE_OF_CLASS.items()
                },
            }
            for tier in price.rate_tiers
        ],
        "markup_bps": price.markup_bps,
        "replay_bps": price.replay_bps,
        "price_source": price.price_source,
        "price_version": price.price_version,
        "price_date": price.price_date,
        "catalog_revision": price.catalog_revision,
    }


def served_mode(mode: ledger_pb2.ServedMode.ValueType) -> str:
    """ "fresh", "exact", "canonical" or "semantic": the value of ``X-Served-Mode``."""
    return _name(ledger_pb2.ServedMode, "SERVED_MODE_", mode)


def _attempt_json(attempt: ledger_pb2.Attempt) -> dict[str, Any]:
    return {
        "offer_id": attempt.offer_id,
        "started_at": _iso(attempt.started_at_ms),
        "duration_ms": attempt.duration_ms,
        "http_status": attempt.http_status or None,
        "won": attempt.won,
        "failure": attempt.failure or None,
    }


def _usd_per_million(pico_usd: int) -> str:
    return format_usd(pico_usd * 1_000)  # 10^6 units of 10^-12 USD are 10^3 nano-USD


def _name(enum: Any, prefix: str, value: int) -> str:
    """The name of an enum's value as JSON has it; "unknown" for one of a newer contract."""
    return enum.Name(value).removeprefix(prefix).lower() if value in enum.values() else "unknown"


def _iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
