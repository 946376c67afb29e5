"""The JSON of payments."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edge.wire.account.base import Answer, Body, SentUsd, ShownUsd
from meshkit.money import format_usd
from tallygate.ledger.v1 import billing_pb2

Status = Literal["created", "paid", "failed", "expired", "refunded"]
_STATUSES: dict[int, Status] = {
    billing_pb2.PAYMENT_STATE_CREATED: "created",
    billing_pb2.PAYMENT_STATE_PAID: "paid",
    billing_pb2.PAYMENT_STATE_FAILED: "failed",
    billing_pb2.PAYMENT_STATE_EXPIRED: "expired",
    billing_pb2.PAYMENT_STATE_REFUNDED: "refunded",
}
_REFUND_STATUSES: dict[int, Literal["pending", "done", "failed"]] = {
    billing_pb2.REFUND_STATE_PENDING: "pending",
    billing_pb2.REFUND_STATE_DONE: "done",
    billing_pb2.REFUND_STATE_FAILED: "failed",
}


class NewTopup(Body):
    """Credit to pay for."""

    amount_usd: SentUsd = Field(
        description="In whole cents, 0.50 to 999,999.99. A whole number of dollars may be a JSON number.",
        examples=["20.00"],
    )
    idempotency_key: str = Field(
        min_length=1,
        max_length=150,
        description="Names this payment: sent again it is begun once.",
        examples=["topup-2026-04-27-001"],
    )


class NewCheckout(NewTopup):
    """Credit to pay for in a browser."""

    success_url: str = Field(default="", max_length=2_000, description="Where the browser goes when it is paid.")
    cancel_url: str = Field(default="", max_length=2_000, description="Where it goes when it is not.")


class Refund(Answer):
    """Some of a payment, paid back by the operator."""

    id: str
    object: Literal["refund"] = "refund"
    status: Literal["pending", "done", "failed"]
    amount_usd: ShownUsd
    created_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, refund: billing_pb2.PaymentRefund) -> Refund:
        """As the ledger has it."""
        return cls(
            id=refund.refund_id,
            status=_REFUND_STATUSES[refund.state],
            amount_usd=format_usd(refund.amount_nano_usd),
            created_at=refund.created_at_ms // 1_000,
        )


class Payment(Answer):
    """A payment."""

    id: str = Field(examples=["pay_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["payment"] = "payment"
    status: Status = Field(description="Credit is added with `paid`, which the provider's notice brings.")
    amount_usd: ShownUsd
    refunded_usd: ShownUsd
    checkout_url: str | None = Field(description="Where it is paid. Null while the provider has not answered.")
    provider: str
    idempotency_key: str
    created_at: int = Field(description="Unix time in seconds.")
    updated_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, payment: billing_pb2.Payment) -> Payment:
        """As the ledger has it."""
        return cls(**_fields(payment))


class PaymentWithRefunds(Payment):
    """A payment, and what was paid back of it."""

    refunds: list[Refund]

    @classmethod
    def with_refunds(cls, found: billing_pb2.GetPaymentResponse) -> PaymentWithRefunds:
        """As the ledger has it."""
        return cls(**_fields(found.payment), refunds=[Refund.of(refund) for refund in found.refunds])


def _fields(payment: billing_pb2.Payment) -> dict[str, Any]:
    return {
        "id": payment.payment_id,
        "status": _STATUSES[payment.state],
        "amount_usd": format_usd(payment.amount_nano_usd),
        "refunded_usd": format_usd(payment.returned_nano_usd),
        "checkout_url": payment.checkout_url or None,
        "provider": payment.provider,
        "idempotency_key": payment.idempotency_key,
        "created_at": payment.created_at_ms // 1_000,
        "updated_at": payment.updated_at_ms // 1_000,
    }


class Received(Answer):
    """A notice was taken."""

    received: Literal[True] = True


class LocallyPaid(Answer):
    """Paid at the local provider."""

    id: str
    object: Literal["payment"] = "payment"
    status: Status
    amount_usd: ShownUsd

    @classmethod
    def of(cls, payment: billing_pb2.Payment) -> LocallyPaid:
        """As the ledger has it, for whoever opened the checkout: without what is the organisation's alone."""
        return cls(
            id=payment.payment_id,
            status=_STATUSES[payment.state],
            amount_usd=format_usd(payment.amount_nano_usd),
        )
