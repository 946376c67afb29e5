"""Refunds of payments by the operator: first out of the credit, then at the provider, so that what is paid out can't be
spent meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ledger_svc.domain.accounts import AccountKind, CreditKind
from ledger_svc.domain.crediting import AddCredit
from ledger_svc.domain.errors import IdempotencyConflict, InvalidRequest
from ledger_svc.domain.payments import Payment, check_whole_cents
from ledger_svc.domain.refunding import Refund
from ledger_svc.domain.trail import State
from meshkit.money import format_usd
from meshkit.principal import Actor


class RefundState(Enum):
    """How far a refund has come. A pending one is asked for again by the same idempotency key."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    """The provider refused it, and what was taken from the credit was given back."""


@dataclass(frozen=True, slots=True)
class PaymentRefund:
    """One refund of a payment by the operator. Amount in nano-USD, times in Unix milliseconds."""

    refund_id: str
    payment_id: str
    org_id: str
    idempotency_key: str
    amount_nano_usd: int
    reason: str
    state: RefundState
    provider_refund_id: str
    created_at_ms: int
    updated_at_ms: int

    def shown(self) -> State:
        """What the audit trail says of it."""
        return {
            "payment_id": self.payment_id,
            "amount_usd": format_usd(self.amount_nano_usd),
            "reason": self.reason,
            "state": self.state.value,
        }

    def check_same(self, other: PaymentRefund) -> None:
        """Raises:
        IdempotencyConflict: ``other``, under the same idempotency key, asks for another refund. An amount of 0 asks for
            what is left, and so for what it was.
        """
        same = self.payment_id == other.payment_id and self.reason == other.reason
        if not same or other.amount_nano_usd not in (0, self.amount_nano_usd):
            raise IdempotencyConflict(f"{self.idempotency_key} came before with another content")


def refund_begun(payment: Payment, refund: PaymentRefund) -> tuple[Payment, PaymentRefund]:
    """Both after a refund was begun. An amount of 0: all that is left.

    Raises:
        InvalidRequest: the payment was not paid, or less is left of it.
    """
    left = payment.amount_nano_usd - payment.returned_nano_usd
    if not payment.is_credited or not left:
        raise InvalidRequest("payment_id", f"payment {payment.payment_id} is {payment.state.value}: nothing to refund")
    amount = refund.amount_nano_usd or left
    if amount > left:
        raise InvalidRequest("amount_nano_usd", f"of the payment only ${format_usd(left)} are left to refund")
    check_whole_cents("amount_nano_usd", amount)
    return payment.after_return(amount, refund.created_at_ms), replace(refund, amount_nano_usd=amount)


def refund_debit(refund: PaymentRefund, transfer_id: str, actor: Actor) -> Refund:
    """Takes a refund from the credit, before the provider is asked: what is paid out can't be spent meanwhile."""
    return Refund(
        org_id=refund.org_id,
        amount_nano_usd=refund.amount_nano_usd,
        reason=refund.reason,
        idempotency_key=f"payment:{refund.payment_id}:{refund.refund_id}",
        transfer_id=transfer_id,
        now_ms=refund.created_at_ms,
        actor=actor,
        receiver=AccountKind.PROVIDER_CLEARING,
    )


def refund_failed(payment: Payment, refund: PaymentRefund, now_ms: int) -> tuple[Payment, int]:
    """The payment after its provider refused a refund, and what of it goes back to the credit: all but what the
    provider has paid back in another way meanwhile.
    """
    after = max(payment.returned_nano_usd - refund.amount_nano_usd, payment.provider_returned_nano_usd)
    given_back = payment.returned_nano_usd - after
    return payment.after_return(-given_back, now_ms), given_back


def credit_again(refund: PaymentRefund, amount_nano_usd: int, transfer_id: str, now_ms: int, actor: Actor) -> AddCredit:
    """What a refund that the provider refused had taken."""
    return AddCredit(
        org_id=refund.org_id,
        amount_nano_usd=amount_nano_usd,
        idempotency_key=f"payment:{refund.payment_id}:{refund.refund_id}:failed",
        kind=CreditKind.PAID,
        transfer_id=transfer_id,
        now_ms=now_ms,
        actor=actor,
        giver=AccountKind.PROVIDER_CLEARING,
    )
