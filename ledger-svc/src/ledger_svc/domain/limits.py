"""A limit on everything that comes in, and the refusal that names the field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from operator import attrgetter

from ledger_svc.domain.charges import Attempt, ChargeFacts, Tags
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.values import OfEach
from meshkit.money import USAGE_CLASSES, PriceSnapshot, Rates

_RATE_NAMES = tuple(rate.name for rate in fields(Rates))
_rate_values, _usage_values = attrgetter(*_RATE_NAMES), attrgetter(*USAGE_CLASSES)
_NEEDED_TEXTS = ("requested_model", "model", "source_id", "upstream_model")
_OTHER_TEXTS = ("origin_receipt_id", "trace_id")
_needed_texts, _other_texts = attrgetter(*_NEEDED_TEXTS), attrgetter(*_OTHER_TEXTS)

MAX_NAME_CHARS = 100
MAX_ID_CHARS = 200
MAX_REASON_CHARS = 500
MAX_TTL_MS = 24 * 3600 * 1000
MAX_PATTERNS = 100
MAX_ATTEMPTS = 100
MAX_RATE_TIERS = 20
MAX_UNITS = 10**12
"""Of one usage class in one request."""
MAX_RATE_PICO_USD = 10**15
"""1,000 USD for a unit."""
MAX_MARKUP_BPS = 10**6
MAX_TAGS = 16
MAX_TAG_KEY_CHARS = 64
MAX_TAG_VALUE_CHARS = 512
"""Of a request's tags; the numbers of OpenAI's ``metadata``."""
_REFUSED_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""The categories Cc and Cs of Unicode."""
MAX_TIME_MS = 2**53 - 1
"""The largest integer that a JSON number keeps."""

_DIGEST = re.compile(r"(?:[0-9a-f]{32}:[0-9a-f]{64})?")


def check_text(param: str, text: str, *, max_chars: int = MAX_ID_CHARS, empty: bool = False) -> str:
    """Refuses a text that is empty, too long, or has control characters (PostgreSQL takes no NUL)."""
    if 0 < len(text) <= max_chars and text.isprintable():
        return text
    if not text and not empty:
        raise InvalidRequest(param, "must not be empty")
    if len(text) > max_chars:
        raise InvalidRequest(param, f"has {len(text)} characters, at most {max_chars} are allowed")
    if not text.isprintable() and _REFUSED_CHARS.search(text):
        raise InvalidRequest(param, "must not contain control characters")
    return text


def check_name(param: str, text: str) -> str:
    """A name for people: not blank, at most 100 characters."""
    if not text.strip():
        raise InvalidRequest(param, "must not be blank")
    return check_text(param, text, max_chars=MAX_NAME_CHARS)


def check_range(param: str, value: int, low: int, high: int) -> int:
    """Refuses a number outside low..high."""
    if not low <= value <= high:
        raise InvalidRequest(param, f"is {value}, must be within {low}..{high}")
    return value


def check_patterns(param: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """An allow-list of model ids and globs."""
    check_range(f"{param} (entries)", len(patterns), 0, MAX_PATTERNS)
    for pattern in patterns:
        check_text(param, pattern)
    return tuple(patterns)


def check_facts(facts: ChargeFacts) -> ChargeFacts:
    """Bounds every number and text of what is to be charged, so that it fits the columns and the receipt."""
    if not _are_short_and_printable(_needed_texts(facts), empty=False):
        for name in _NEEDED_TEXTS:
            check_text(f"facts.{name}", getattr(facts, name))
    if not _are_short_and_printable(_other_texts(facts), empty=True):
        for name in _OTHER_TEXTS:
            check_text(f"facts.{name}", getattr(facts, name), empty=True)
    if not (_DIGEST.fullmatch(facts.request_digest) and _DIGEST.fullmatch(facts.answer_digest)):
        for name in ("request_digest", "answer_digest"):
            if not _DIGEST.fullmatch(getattr(facts, name)):
                raise InvalidRequest(f"facts.{name}", "is not a salt and a SHA-256 in lower-case hex, as SALT:DIGEST")
    check_tags("facts.tags", facts.tags)
    check_range("facts.started_at_ms", facts.started_at_ms, 0, MAX_TIME_MS)
    _check_all("facts.usage", USAGE_CLASSES, _usage_values(facts.usage), MAX_UNITS)
    _CHECKED_PRICES.of(facts.price)
    return facts


def check_price(param: str, price: PriceSnapshot) -> PriceSnapshot:
    """Bounds every number and text of a price."""
    check_text(f"{param}.offer_id", price.offer_id)
    for name in ("price_source", "price_version", "price_date", "catalog_revision"):
        check_text(f"{param}.{name}", getattr(price, name), empty=True)
    check_range(f"{param}.markup_bps", price.markup_bps, 0, MAX_MARKUP_BPS)
    check_range(f"{param}.rate_tiers (entries)", len(price.rate_tiers), 0, MAX_RATE_TIERS)
    for tier in price.rate_tiers:
        check_range(f"{param}.rate_tiers.above_input_tokens", tier.above_input_tokens, 0, MAX_UNITS)
        _check_all(f"{param}.rate_tiers", _RATE_NAMES, _rate_values(tier.rates), MAX_RATE_PICO_USD)
    return price


_CHECKED_PRICES: OfEach[PriceSnapshot, PriceSnapshot] = OfEach(partial(check_price, "facts.price"), at_most=4_096)
"""Those that passed: a price serves many requests."""


def check_tags(param: str, tags: Tags) -> Tags:
    """The client's names for a request."""
    if tags:
        check_range(f"{param} (entries)", len(tags), 0, MAX_TAGS)
        for key, value in tags:
            check_text(f"{param} (key)", key, max_chars=MAX_TAG_KEY_CHARS)
            if not key.isascii() and max(key) > "\uffff":
                raise InvalidRequest(f"{param} (key)", "must not contain characters beyond U+FFFF")
            check_text(f"{param}.{key}", value, max_chars=MAX_TAG_VALUE_CHARS, empty=True)
    return tags


def _are_short_and_printable(texts: Sequence[str], *, empty: bool) -> bool:
    """Whether all pass ``check_text``, which is what nearly all do; if not, it has to be asked of each."""
    return (empty or all(texts)) and max(map(len, texts)) <= MAX_ID_CHARS and "".join(texts).isprintable()


def _check_all(param: str, names: Sequence[str], values: Sequence[int], high: int) -> None:
    # Every settlement has some dozens of numbers, and hardly ever a wrong one to be named.
    if min(values) < 0 or max(values) > high:
        for name, value in zip(names, values, strict=True):
            check_range(f"{param}.{name}", value, 0, high)


def check_attempts(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Bounds the calls of sources; at most one has won."""
    check_range("attempts (entries)", len(attempts), 0, MAX_ATTEMPTS)
    check_range("attempts (won)", sum(attempt.won for attempt in attempts), 0, 1)
    for attempt in attempts:
        check_text("attempts.offer_id", attempt.offer_id)
        check_text("attempts.failure", attempt.failure, empty=True)
        check_range("attempts.started_at_ms", attempt.started_at_ms, 0, MAX_TIME_MS)
        check_range("attempts.duration_ms", attempt.duration_ms, 0, MAX_TIME_MS)
        check_range("attempts.http_status", attempt.http_status, 0, 999)
    return tuple(attempts)
