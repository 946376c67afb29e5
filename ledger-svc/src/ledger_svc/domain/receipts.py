"""A receipt: what one request cost and why. Never changed once written.

Its document is what is signed and logged: RFC 8785 canonical JSON, amounts in decimal USD strings, unit prices in
pico-USD as strings (JSON numbers are exact only to 2^53), counts and times as numbers. No prompt and no answer. Its
fields are described in receipt-3.schema.json of this distribution. Documents of version 2 lack the tags and the time of
arrival; those of version 1, from before there was a log, the price's hash and the digests, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from operator import attrgetter
from typing import Any

import orjson

from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.values import OfEach, value
from meshkit.money import (
    USAGE_CLASSES,
    BillingTier,
    PriceSnapshot,
    Provenance,
    Rates,
    RateTier,
    Usage,
    format_usd,
    parse_usd,
)

DOCUMENT_VERSION = 3

_PROVENANCES = {provenance: provenance.name.lower() for provenance in Provenance}

_PRICE_TEXTS = ("offer_id", "price_source", "price_version", "price_date", "catalog_revision")
_DIGESTS = ("request_digest", "answer_digest")
_FACT_TEXTS = ("requested_model", "model", "source_id", "upstream_model", "origin_receipt_id", "trace_id")
_RATE_NAMES = tuple(f.name for f in fields(Rates))

_NEW_IN = {2: (*_DIGESTS, "price_sha256"), 3: ("tags", "started_at_ms")}
"""What documents of a version have that those before lack."""

_rate_values = attrgetter(*_RATE_NAMES)


@value(frozen=True, slots=True)
class Receipt:
    """What one request cost and why. Amounts in nano-USD; ``created_at_ms`` in Unix milliseconds."""

    receipt_id: str
    hold_id: str
    request_id: str
    org_id: str
    project_id: str
    key_id: str
    facts: ChargeFacts
    held_nano_usd: int
    charged_nano_usd: int
    saved_nano_usd: int
    absorbed_nano_usd: int
    attempts: tuple[Attempt, ...]
    created_at_ms: int
    version: int = DOCUMENT_VERSION


def facts_document(facts: ChargeFacts) -> dict[str, Any]:
    """The facts as JSON values, the price as JSON; without what may differ when the same charge is asked for again: the
    digests by their salt, the time of arrival and the tags, as a client that retries may send others in a header.
    """
    return {
        "served_mode": facts.served_mode.value,
        "outcome": facts.outcome.value,
        "requested_model": facts.requested_model,
        "model": facts.model,
        "source_id": facts.source_id,
        "upstream_model": facts.upstream_model,
        "origin_receipt_id": facts.origin_receipt_id,
        "trace_id": facts.trace_id,
        "usage": _usage_document(facts.usage),
        "price": _PRICES.of(facts.price).fragment,
    }


def attempts_document(attempts: tuple[Attempt, ...]) -> list[dict[str, Any]]:
    """The attempts as JSON values, in order."""
    return [
        {
            "duration_ms": attempt.duration_ms,
            "failure": attempt.failure,
            "http_status": attempt.http_status,
            "offer_id": attempt.offer_id,
            "started_at_ms": attempt.started_at_ms,
            "won": attempt.won,
        }
        for attempt in attempts
    ]


def price_sha256(price: PriceSnapshot) -> str:
    """The hash of a price snapshot: SHA-256 of its canonical JSON, in hex. Receipts of one price have the same."""
    return _PRICES.of(price).sha256


def encode(receipt: Receipt) -> str:
    """The receipt's document as RFC 8785 canonical JSON.

    orjson writes that for documents like ours at a fiftieth of a general implementation's cost: the names stand in
    their order here and in what this is made of, none has a character beyond U+FFFF, so that their order is that of
    UTF-16 units, all numbers are integers below 2^53, and it escapes what the RFC escapes. A test compares the two.
    """
    facts = receipt.facts
    price = _PRICES.of(facts.price)
    document = {
        "absorbed_usd": _usd(receipt.absorbed_nano_usd),
        "answer_digest": facts.answer_digest,
        "attempts": attempts_document(receipt.attempts),
        "charged_usd": _usd(receipt.charged_nano_usd),
        "created_at_ms": receipt.created_at_ms,
        "held_usd": _usd(receipt.held_nano_usd),
        "hold_id": receipt.hold_id,
        "key_id": receipt.key_id,
        "model": facts.model,
        "org_id": receipt.org_id,
        "origin_receipt_id": facts.origin_receipt_id,
        "outcome": facts.outcome.value,
        "price": price.fragment,
        "price_sha256": price.sha256,
        "project_id": receipt.project_id,
        "receipt_id": receipt.receipt_id,
        "request_digest": facts.request_digest,
        "request_id": receipt.request_id,
        "requested_model": facts.requested_model,
        "saved_usd": _usd(receipt.saved_nano_usd),
        "served_mode": facts.served_mode.value,
        "source_id": facts.source_id,
        "started_at_ms": facts.started_at_ms,
        "tags": dict(facts.tags),
        "trace_id": facts.trace_id,
        "upstream_model": facts.upstream_model,
        "usage": _usage_document(facts.usage),
        "v": receipt.version,
    }
    for version, names in _NEW_IN.items():
        if receipt.version < version:
            for name in names:
                del document[name]
    return orjson.dumps(document).decode()


def _usage_document(usage: Usage) -> dict[str, Any]:
    return {
        "cache_write_tokens": usage.cache_write_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "calls": usage.calls,
        "images": usage.images,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "provenance": _PROVENANCES[usage.provenance],
        "reasoning_tokens": usage.reasoning_tokens,
        "seconds": usage.seconds,
    }


def _usd(nano_usd: int) -> str:
    return format_usd(nano_usd) if nano_usd else "0"  # nothing saved, nothing absorbed: nearly all receipts say so


def decode(text: str) -> Receipt:
    """The receipt of a document that ``encode`` wrote.

    Raises:
        ValueError: another version, or not such a document.
    """
    document = orjson.loads(text)
    version = document["v"]
    if version not in (1, 2, DOCUMENT_VERSION):
        raise ValueError(f"receipt document version {version} is not known")
    digests = _DIGESTS if version > 1 else ()
    usage, price = document["usage"], document["price"]
    return Receipt(
        **{name: document[name] for name in ("receipt_id", "hold_id", "request_id", "org_id", "project_id", "key_id")},
        facts=ChargeFacts(
            usage=Usage(
                **{name: usage[name] for name in USAGE_CLASSES}, provenance=Provenance[usage["provenance"].upper()]
            ),
            price=_price(price),
            served_mode=ServedMode(document["served_mode"]),
            outcome=Outcome(document["outcome"]),
            **{name: document[name] for name in (*_FACT_TEXTS, *digests)},
            tags=tuple(sorted(document["tags"].items())) if version > 2 else (),
            started_at_ms=document["started_at_ms"] if version > 2 else 0,
        ),
        held_nano_usd=parse_usd(document["held_usd"]),
        charged_nano_usd=parse_usd(document["charged_usd"]),
        saved_nano_usd=parse_usd(document["saved_usd"]),
        absorbed_nano_usd=parse_usd(document["absorbed_usd"]),
        attempts=tuple(Attempt(**attempt) for attempt in document["attempts"]),
        created_at_ms=document["created_at_ms"],
        version=version,
    )


class _PriceText:
    """A price as canonical JSON, and its hash."""

    def __init__(self, price: PriceSnapshot) -> None:
        text = orjson.dumps(_price_document(price), option=orjson.OPT_SORT_KEYS)
        self.fragment = orjson.Fragment(text)
        self.sha256 = hashlib.sha256(text).hexdigest()


_PRICES = OfEach(_PriceText, at_most=4_096)
"""A price serves many requests."""


def _price_document(price: PriceSnapshot) -> dict[str, Any]:
    return {
        **{name: getattr(price, name) for name in _PRICE_TEXTS},
        "tier": price.tier.name.lower(),
        "markup_bps": price.markup_bps,
        "replay_bps": price.replay_bps,
        "rate_tiers": [
            {
                "above_input_tokens": tier.above_input_tokens,
                **dict(zip(_RATE_NAMES, map(str, _rate_values(tier.rates)), strict=True)),
            }
            for tier in price.rate_tiers
        ],
    }


def _price(document: dict[str, Any]) -> PriceSnapshot:
    return PriceSnapshot(
        tier=BillingTier[document["tier"].upper()],
        rate_tiers=tuple(
            RateTier(tier["above_input_tokens"], Rates(**{name: int(tier[name]) for name in _RATE_NAMES}))
            for tier in document["rate_tiers"]
        ),
        markup_bps=document["markup_bps"],
        replay_bps=document["replay_bps"],
        **{name: document[name] for name in _PRICE_TEXTS},
    )
