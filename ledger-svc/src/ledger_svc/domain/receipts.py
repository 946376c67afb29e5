"""A receipt: what one request cost and why. Never changed once written.

Its document is what is signed and logged: RFC 8785 canonical JSON, amounts in decimal USD strings, unit prices in
pico-USD as strings (JSON numbers are exact only to 2^53), counts and times as numbers. No prompt and no answer. Its
fields are described in receipt-3.schema.json of this distribution. Documents of version 2 lack the tags and the time of
arrival; those of version 1, from before there was a log, the price's hash and the digests, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any

import orjson

from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
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
_ATTEMPT_NAMES = tuple(f.name for f in fields(Attempt))

# dataclasses.asdict copies each value, deeply, at ten times the cost.
_attempt_values, _rate_values = attrgetter(*_ATTEMPT_NAMES), attrgetter(*_RATE_NAMES)
_fact_texts, _usage_values = attrgetter(*_FACT_TEXTS), attrgetter(*USAGE_CLASSES)


@dataclass(frozen=True, slots=True)
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
    """The facts as JSON values; without what may differ when the same charge is asked for again: the digests by their
    salt, the time of arrival and the tags, as a client that retries may send others in a header.
    """
    return {
        "served_mode": facts.served_mode.value,
        "outcome": facts.outcome.value,
        **dict(zip(_FACT_TEXTS, _fact_texts(facts), strict=True)),
        "usage": {
            **dict(zip(USAGE_CLASSES, _usage_values(facts.usage), strict=True)),
            "provenance": _PROVENANCES[facts.usage.provenance],
        },
        "price": _price_document(facts.price, facts.price.catalog_revision),
    }


def attempts_document(attempts: tuple[Attempt, ...]) -> list[dict[str, Any]]:
    """The attempts as JSON values, in order."""
    return [dict(zip(_ATTEMPT_NAMES, _attempt_values(attempt), strict=True)) for attempt in attempts]


def price_sha256(price: PriceSnapshot) -> str:
    """The hash of a price snapshot: SHA-256 of its canonical JSON, in hex. Receipts of one price have the same."""
    return _price_sha256(price, price.catalog_revision)


@lru_cache(maxsize=4_096)
def _price_sha256(price: PriceSnapshot, catalog_revision: str) -> str:
    return hashlib.sha256(_canonical(_price_document(price, catalog_revision))).hexdigest()


def _canonical(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def encode(receipt: Receipt) -> str:
    """The receipt's document as RFC 8785 canonical JSON.

    orjson writes that for documents like ours at a fiftieth of a general implementation's cost: no name has a character
    beyond U+FFFF, so that its order is that of UTF-16 units, all numbers are integers below 2^53, and it escapes what
    the RFC escapes. A test compares the two.
    """
    document = {
        "v": receipt.version,
        "receipt_id": receipt.receipt_id,
        "hold_id": receipt.hold_id,
        "request_id": receipt.request_id,
        "org_id": receipt.org_id,
        "project_id": receipt.project_id,
        "key_id": receipt.key_id,
        "created_at_ms": receipt.created_at_ms,
        "held_usd": format_usd(receipt.held_nano_usd),
        "charged_usd": format_usd(receipt.charged_nano_usd),
        "saved_usd": format_usd(receipt.saved_nano_usd),
        "absorbed_usd": format_usd(receipt.absorbed_nano_usd),
        "attempts": attempts_document(receipt.attempts),
        **facts_document(receipt.facts),
    }
    if receipt.version > 1:
        document |= {name: getattr(receipt.facts, name) for name in _DIGESTS}
        document["price_sha256"] = price_sha256(receipt.facts.price)
    if receipt.version > 2:
        document |= {"tags": dict(receipt.facts.tags), "started_at_ms": receipt.facts.started_at_ms}
    return _canonical(document).decode()


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


@lru_cache(maxsize=4_096)
def _price_document(price: PriceSnapshot, catalog_revision: str) -> dict[str, Any]:
    """Kept, since a price serves many requests. Two prices that differ in their revision only are equal, hence the
    argument. Must not be changed by who gets it.
    """
    assert price.catalog_revision == catalog_revision
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
