"""The JSON of single requests and of the movements of a balance."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edge.wire.account.base import Answer, ShownUsd
from edge.wire.receipts import served_mode
from meshkit.money import format_usd
from tallygate.ledger.v1 import ledger_pb2, usage_pb2

TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_OUTCOMES = {
    ledger_pb2.OUTCOME_COMPLETE: "complete",
    ledger_pb2.OUTCOME_CLIENT_GONE: "client_gone",
    ledger_pb2.OUTCOME_INTERRUPTED: "interrupted",
}
_KINDS = {
    usage_pb2.MOVEMENT_KIND_CREDIT: "credit",
    usage_pb2.MOVEMENT_KIND_CHARGE: "charge",
    usage_pb2.MOVEMENT_KIND_EXPIRY: "expiry",
    usage_pb2.MOVEMENT_KIND_REFUND: "refund",
    usage_pb2.MOVEMENT_KIND_CORRECTION: "correction",
}
_CREDIT_KINDS = {ledger_pb2.CREDIT_KIND_PAID: "paid", ledger_pb2.CREDIT_KIND_PROMOTIONAL: "promotional"}


class FinishedRequest(Answer):
    """A request that has ended."""

    id: str = Field(examples=["req_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["request"] = "request"
    at: int = Field(description="Ended at, Unix time in seconds.")
    project_id: str
    key_id: str
    requested_model: str | None = Field(description="The name that the client used; null: none was read.")
    model: str | None = Field(description="The model that it stands for; null: there was none of this name.")
    source: str | None = Field(description="Who answered, of a replay its origin; null: nobody.")
    tier: str | None = Field(description="What it was charged by: fast, balanced, auto, passthrough, byok, free.")
    served_mode: str | None = Field(description="fresh, exact, canonical or semantic; null: it was not answered.")
    status: Literal["ok", "error"]
    http_status: int = Field(description="200 too where an error came after the answer had begun.")
    error_code: str | None
    outcome: str | None = Field(
        description="How its answer ended: complete, client_gone, interrupted; null: none began."
    )
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: ShownUsd
    saved_usd: ShownUsd
    latency_ms: int = Field(description="From its arrival to its charge, or to the error.")
    receipt_id: str | None
    trace_id: str | None
    tags: dict[str, str]

    @classmethod
    def of(cls, entry: usage_pb2.RequestEntry) -> FinishedRequest:
        """As the ledger has it."""
        return cls(**request_json(entry))


def request_json(entry: usage_pb2.RequestEntry) -> dict[str, Any]:
    """The fields of ``FinishedRequest``."""
    receipt, facts = entry.receipt, entry.receipt.facts
    charged = entry.HasField("receipt")
    return {
        "id": entry.request_id,
        "object": "request",
        "at": entry.at_ms // 1_000,
        "project_id": entry.project_id,
        "key_id": entry.key_id,
        "requested_model": entry.requested_model or None,
        "model": entry.model or None,
        "source": facts.source_id or None,
        "tier": entry.tier or None,
        "served_mode": served_mode(facts.served_mode) if charged else None,
        "status": "error" if entry.status == usage_pb2.REQUEST_STATUS_ERROR else "ok",
        "http_status": entry.http_status,
        "error_code": entry.error_code or None,
        "outcome": _OUTCOMES.get(facts.outcome),
        **{name: getattr(facts.usage, name) for name in TOKENS},
        "cost_usd": format_usd(receipt.charged_nano_usd),
        "saved_usd": format_usd(receipt.saved_nano_usd),
        "latency_ms": entry.latency_ms,
        "receipt_id": receipt.receipt_id or None,
        "trace_id": entry.trace_id or None,
        "tags": dict(entry.tags),
    }


MOVEMENT_COLUMNS = ("object", "at", "kind", "credit", "amount_usd", "balance_usd", "transfer_id", "receipt_id")
"""Of an export of the ledger. ``kind``: opening, credit, charge, expiry, refund, correction, closing."""


def movement_json(movement: usage_pb2.Movement, balance_nano_usd: int) -> dict[str, Any]:
    """One movement, and the balance after it."""
    return {
        "object": "movement",
        "at": movement.at_ms // 1_000,
        "kind": _KINDS.get(movement.kind, "unknown"),
        "credit": _CREDIT_KINDS.get(movement.credit_kind, "unknown"),
        "amount_usd": format_usd(movement.amount_nano_usd),
        "balance_usd": format_usd(balance_nano_usd),
        "transfer_id": movement.transfer_id,
        "receipt_id": movement.receipt_id or None,
    }


def balance_json(
    kind: Literal["opening", "closing"], balance_nano_usd: int, difference_nano_usd: int
) -> dict[str, Any]:
    """The balance with which an export begins or ends. ``amount_usd``: by how much it is not what the movements add up
    to; always 0.
    """
    return {
        "object": "balance",
        "at": None,
        "kind": kind,
        "credit": None,
        "amount_usd": format_usd(difference_nano_usd),
        "balance_usd": format_usd(balance_nano_usd),
        "transfer_id": None,
        "receipt_id": None,
    }
