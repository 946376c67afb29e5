"""From what was used to what is owed."""

from __future__ import annotations

from enum import Enum

from ledger_svc.domain.accounts import MAX_AMOUNT_NANO_USD
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.values import value
from meshkit.money import PriceSnapshot, Usage, charge_nano_usd, format_usd

Tags = tuple[tuple[str, str], ...]
"""The client's names for a request, (key, value) in the order of the keys: a dict that has a hash."""


class ServedMode(Enum):
    """How an answer was made."""

    FRESH = "fresh"
    EXACT = "exact"
    CANONICAL = "canonical"
    SEMANTIC = "semantic"


class Outcome(Enum):
    """How an answer ended."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    INTERRUPTED = "interrupted"


@value(frozen=True, slots=True)
class Attempt:
    """One call of a source. ``http_status`` 0: no answer. ``failure``: why, in a word; empty for the winner."""

    offer_id: str
    started_at_ms: int
    duration_ms: int
    http_status: int
    won: bool
    failure: str = ""


@value(frozen=True, slots=True)
class ChargeFacts:
    """What is common to the two ways in which a request is charged (fields as in ledger.proto)."""

    usage: Usage
    price: PriceSnapshot
    served_mode: ServedMode
    outcome: Outcome
    requested_model: str
    model: str
    source_id: str
    upstream_model: str
    origin_receipt_id: str = ""
    trace_id: str = ""
    request_digest: str = ""
    answer_digest: str = ""
    tags: Tags = ()
    started_at_ms: int = 0
    """The request arrived at the edge at, Unix milliseconds; 0: not known."""


@value(frozen=True, slots=True)
class Quote:
    """What a request owes, and what a replay saved against a fresh call. In nano-USD."""

    due_nano_usd: int
    saved_nano_usd: int


def quote(facts: ChargeFacts) -> Quote:
    """Computes what is owed: the fresh price, or its ``replay_bps`` for a replay. An answer that its source broke off
    before it produced anything owes 0: nobody pays for an answer that never came. Whoever leaves a source that has
    begun owes the prompt, which the source has read.

    Raises:
        InvalidRequest: it would be more than MAX_AMOUNT_NANO_USD.
    """
    if facts.outcome is Outcome.INTERRUPTED and not _produced(facts.usage):
        return Quote(0, 0)
    fresh = charge_nano_usd(facts.price, facts.usage)
    if fresh > MAX_AMOUNT_NANO_USD:
        raise InvalidRequest("facts", f"the charge would be ${format_usd(fresh)}, more than any that the ledger takes")
    if facts.served_mode is ServedMode.FRESH:
        return Quote(fresh, 0)
    due = charge_nano_usd(facts.price, facts.usage, replay=True)
    return Quote(due, fresh - due)


def counted_tokens(facts: ChargeFacts) -> int:
    """What counts for a cap in tokens: those that a source processed, of every class. A replay uses none."""
    if facts.served_mode is not ServedMode.FRESH:
        return 0
    used = facts.usage
    return (
        used.input_tokens
        + used.cached_input_tokens
        + used.cache_write_tokens
        + used.output_tokens
        + used.reasoning_tokens
    )


def _produced(usage: Usage) -> int:
    # Reasoning counts: a source may stream it, and a client that leaves before the first visible token has still had
    # it.
    return usage.output_tokens + usage.reasoning_tokens + usage.images + usage.seconds
