"""A stored answer, and its form as bytes. One form for every backend, so that a damaged entry looks the same in each.

    magic "TGC1" | SHA-256 of what stands between it and the request | three lengths | facts (JSON) | answer (JSON) |
    request

The digest covers all that is replayed or billed; the request is not under it because each hit compares it whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from cache_svc.domain.request import Group
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage

MAGIC = b"TGC1"
_LENGTHS = struct.Struct(">III")
_DIGEST_AT = len(MAGIC)
_LENGTHS_AT = _DIGEST_AT + 32
_FACTS_AT = _LENGTHS_AT + _LENGTHS.size


class Poisoned(Exception):
    """The stored bytes are not what was stored, or answer another request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer and what it takes to replay it. ``epochs``: the purge epochs that were in force, as in the key."""

    answer: bytes
    epochs: tuple[int, ...]
    stored_at_ms: int
    usage: Usage
    price: PriceSnapshot
    receipt_id: str
    source_id: str
    upstream_model: str


def seal(entry: Entry, request: bytes) -> bytes:
    """The bytes to store. ``request``: the canonical request that the answer is to."""
    facts = orjson.dumps(
        {
            "epochs": entry.epochs,
            "stored_at_ms": entry.stored_at_ms,
            "usage": entry.usage,
            "price": _written(entry.price, entry.price.catalog_revision),
            "receipt_id": entry.receipt_id,
            "source_id": entry.source_id,
            "upstream_model": entry.upstream_model,
        }
    )
    covered = b"".join((_LENGTHS.pack(len(facts), len(entry.answer), len(request)), facts, entry.answer))
    return b"".join((MAGIC, hashlib.sha256(covered).digest(), covered, request))


@lru_cache(maxsize=1024)
def _written(price: PriceSnapshot, revision: str) -> orjson.Fragment:
    del revision  # no part of what makes two prices equal
    return orjson.Fragment(orjson.dumps(price))


def request_of(blob: bytes) -> bytes:
    """The canonical request that the answer in ``blob`` is to.

    Raises:
        Poisoned: the bytes are no entry.
    """
    return blob[_request_at(blob) :]


def owner_of(blob: bytes) -> Group | None:
    """Whose request the entry in ``blob`` answers, to judge by the request in it; None: it is no entry."""
    try:
        facts = orjson.loads(request_of(blob))
        return Group(facts["scope"]["org"], facts["scope"].get("project", ""), facts["model"])
    except (Poisoned, ValueError, KeyError, TypeError, AttributeError):
        return None


def open_sealed(blob: bytes, request: bytes) -> Entry:
    """The entry in ``blob``, after comparing the stored request with ``request`` and the digest with the answer.

    Raises:
        Poisoned: either differs, or the bytes are no entry.
    """
    request_at = _request_at(blob)
    answer_at = _FACTS_AT + _LENGTHS.unpack_from(blob, _LENGTHS_AT)[0]
    if len(blob) != request_at + len(request) or not blob.startswith(request, request_at):
        raise Poisoned("the entry answers another request")
    if hashlib.sha256(memoryview(blob)[_LENGTHS_AT:request_at]).digest() != blob[_DIGEST_AT:_LENGTHS_AT]:
        raise Poisoned("the digest of the answer differs")
    try:
        facts = orjson.loads(memoryview(blob)[_FACTS_AT:answer_at])
        return _entry(facts, blob[answer_at:request_at])
    except (ValueError, KeyError, TypeError) as error:
        raise Poisoned("the entry's facts are unreadable") from error


def _request_at(blob: bytes) -> int:
    if not blob.startswith(MAGIC) or len(blob) < _FACTS_AT:
        raise Poisoned("not an entry")
    facts_len, answer_len, request_len = _LENGTHS.unpack_from(blob, _LENGTHS_AT)
    request_at: int = _FACTS_AT + facts_len + answer_len
    if len(blob) != request_at + request_len:
        raise Poisoned("the entry is cut short")
    return request_at


def _entry(facts: dict[str, Any], answer: bytes) -> Entry:
    return Entry(
        answer=answer,
        epochs=tuple(facts["epochs"]),
        stored_at_ms=facts["stored_at_ms"],
        usage=Usage(**{**facts["usage"], "provenance": Provenance(facts["usage"]["provenance"])}),
        price=_price(orjson.dumps(facts["price"])),
        receipt_id=facts["receipt_id"],
        source_id=facts["source_id"],
        upstream_model=facts["upstream_model"],
    )


@lru_cache(maxsize=1024)
def _price(written: bytes) -> PriceSnapshot:
    # Remembered, because all answers of a model have one price, and to make it costs a fifth of a hit.
    facts: dict[str, Any] = orjson.loads(written)
    tiers: Sequence[dict[str, Any]] = facts["rate_tiers"]
    return PriceSnapshot(
        **{
            **facts,
            "tier": BillingTier(facts["tier"]),
            "rate_tiers": tuple(RateTier(tier["above_input_tokens"], Rates(**tier["rates"])) for tier in tiers),
        }
    )
