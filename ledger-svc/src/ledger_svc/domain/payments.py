"""Payments: what an organisation pays for credit through a provider, what the provider tells of them, and what follows.

What follows is decided here, of a payment and a notice, so that notices may come in any order and any number of times:
a payment is credited once, and of it is taken back as much as the provider has paid back in all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ledger_svc.domain.accounts import Account, AccountKind, CreditKind
from ledger_svc.domain.crediting import AddCredit
from ledger_svc.domain.errors import IdempotencyConflict, InvalidRequest
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.domain.refunding import Refund
from ledger_svc.domain.trail import State
from meshkit.money import format_usd
from meshkit.principal import Actor, ActorKind

CURRENCY = "usd"
NANO_PER_CENT = 10**7
MIN_PAYMENT_NANO_USD = 50 * NANO_PER_CENT
MAX_PAYMENT_NANO_USD = 99_999_999 * NANO_PER_CENT
"""What Stripe takes in one payment in US dollars (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts)."""
MAX_URL_CHARS = 2_000
MAX_KEY_CHARS = 150


class PaymentState(Enum):
    """How far a payment has come. A payment that failed or expired may still be paid."""

    CREATED = "created"
    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment. Amounts in nano-USD, times in Unix milliseconds; texts are empty before they are known.

    ``returned_nano_usd``: what is, or is being, paid back of it. ``provider_returned_nano_usd``: as much of it as the
    provider has told. ``uncovered_nano_usd``: as much of it as was spent before it could be taken from the credit.
    """

    payment_id: str
    org_id: str
    provider: str
    idempotency_key: str
    amount_nano_usd: int
    state: PaymentState
    success_url: str
    cancel_url: str
    provider_session_id: str
    provider_payment_id: str
    checkout_url: str
    returned_nano_usd: int
    provider_returned_nano_usd: int
    uncovered_nano_usd: int
    created_at_ms: int
    updated_at_ms: int

    @property
    def is_credited(self) -> bool:
        """Whether its amount was added to the credit."""
        return self.state in (PaymentState.PAID, PaymentState.REFUNDED)

    def shown(self) -> State:
        """What the audit trail says of it."""
        return {
            "provider": self.provider,
            "state": self.state.value,
            "amount_usd": format_usd(self.amount_nano_usd),
            "returned_usd": format_usd(self.returned_nano_usd),
            "uncovered_usd": format_usd(self.uncovered_nano_usd),
            "idempotency_key": self.idempotency_key,
        }

    def check_same(self, other: Payment) -> None:
        """Raises:
        IdempotencyConflict: ``other``, under the same idempotency key, asks for another payment.
        """
        if _asked(self) != _asked(other):
            raise IdempotencyConflict(
                f"the idempotency_key {self.idempotency_key!r} came before with another amount or other URLs"
            )

    def after_return(self, amount_nano_usd: int, now_ms: int) -> Payment:
        """With so much more, or less, that is paid back of it."""
        returned = self.returned_nano_usd + amount_nano_usd
        assert 0 <= returned <= self.amount_nano_usd, self
        state = self.state
        if self.is_credited:
            state = PaymentState.REFUNDED if returned == self.amount_nano_usd else PaymentState.PAID
        return replace(self, returned_nano_usd=returned, state=state, updated_at_ms=now_ms)


def _asked(payment: Payment) -> tuple[int, str, str]:
    return payment.amount_nano_usd, payment.success_url, payment.cancel_url


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where a payment is made, at its provider."""

    session_id: str
    url: str


class NoticeKind(Enum):
    """What a provider tells."""

    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"
    REFUNDED = "refunded"
    ATTENTION = "attention"
    """Something that a person has to look at: a dispute, a refund that did not arrive."""
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice, its signature verified. ``amount_nano_usd``: paid; or, of a refund, all that was paid back so far.
    ``payment_id``: as we had given it to the provider; texts are empty where it does not say. ``about``: the provider's
    own name for what happened.
    """

    event_id: str
    kind: NoticeKind
    about: str
    session_id: str = ""
    payment_id: str = ""
    provider_payment_id: str = ""
    amount_nano_usd: int = 0
    currency: str = ""


class NoticeOutcome(Enum):
    """What a notice led to."""

    CREDITED = "credited"
    NOTED = "noted"
    RETURNED = "returned"
    REPEATED = "repeated"
    """It said nothing new."""
    MISMATCHED = "mismatched"
    """Its amount, currency or session is not the payment's. Nothing was credited; a person has to look at it."""
    UNKNOWN = "unknown"
    """No payment of ours."""
    ATTENTION = "attention"
    IGNORED = "ignored"


TROUBLE = (NoticeOutcome.MISMATCHED, NoticeOutcome.UNKNOWN, NoticeOutcome.ATTENTION)
"""What a person has to look at."""


@dataclass(frozen=True, slots=True)
class TakenNotice:
    """A notice as it was recorded."""

    provider: str
    notice: Notice
    outcome: NoticeOutcome
    org_id: str
    received_at_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """What follows of a notice: how the payment stands then, whether it is credited now, and what is to be taken back
    as far as the credit covers it.
    """

    outcome: NoticeOutcome
    payment: Payment | None = None
    credits: bool = False
    take_back_nano_usd: int = 0


def follow(payment: Payment | None, notice: Notice, now_ms: int) -> Step:
    """What follows of a notice of a payment; None: there is no such payment."""
    if notice.kind is NoticeKind.ATTENTION:
        return Step(NoticeOutcome.ATTENTION, payment)
    if payment is None:
        return Step(NoticeOutcome.UNKNOWN)
    if not _is_of(notice, payment):
        return Step(NoticeOutcome.MISMATCHED, payment)
    return _FOLLOWS[notice.kind](payment, notice, now_ms)


def _is_of(notice: Notice, payment: Payment) -> bool:
    """A session is not known yet while its making has not been answered; a refund does not name one."""
    sessions = {notice.session_id, payment.provider_session_id} - {""}
    payments = {notice.provider_payment_id, payment.provider_payment_id} - {""}
    amount_fits = {
        NoticeKind.PAID: notice.amount_nano_usd == payment.amount_nano_usd,
        NoticeKind.REFUNDED: 0 < notice.amount_nano_usd <= payment.amount_nano_usd,
    }.get(notice.kind, True)
    currency_fits = notice.currency == CURRENCY or notice.kind in (NoticeKind.FAILED, NoticeKind.EXPIRED)
    return len(sessions) < 2 and len(payments) < 2 and amount_fits and currency_fits


def _paid(payment: Payment, notice: Notice, now_ms: int) -> Step:
    if payment.is_credited:
        return Step(NoticeOutcome.REPEATED, payment)
    paid = replace(
        payment,
        state=PaymentState.PAID,
        provider_payment_id=notice.provider_payment_id or payment.provider_payment_id,
        updated_at_ms=now_ms,
    )
    # What was paid back was told first, and could not be taken from credit that was not there.
    back = payment.returned_nano_usd
    return Step(NoticeOutcome.CREDITED, paid.after_return(0, now_ms), credits=True, take_back_nano_usd=back)


def _returned(payment: Payment, notice: Notice, now_ms: int) -> Step:
    told = notice.amount_nano_usd
    if told <= payment.provider_returned_nano_usd:
        return Step(NoticeOutcome.REPEATED, payment)
    more = max(0, told - payment.returned_nano_usd)
    after = replace(
        payment,
        provider_returned_nano_usd=told,
        provider_payment_id=notice.provider_payment_id or payment.provider_payment_id,
    ).after_return(more, now_ms)
    take_back = more if payment.is_credited else 0
    return Step(NoticeOutcome.RETURNED if take_back else NoticeOutcome.NOTED, after, take_back_nano_usd=take_back)


def _not_paid(payment: Payment, notice: Notice, now_ms: int) -> Step:
    if payment.state is not PaymentState.CREATED:
        return Step(NoticeOutcome.REPEATED, payment)
    return Step(NoticeOutcome.NOTED, replace(payment, state=PaymentState(notice.kind.value), updated_at_ms=now_ms))


_FOLLOWS = {
    NoticeKind.PAID: _paid,
    NoticeKind.REFUNDED: _returned,
    NoticeKind.FAILED: _not_paid,
    NoticeKind.EXPIRED: _not_paid,
}


def coverable_nano_usd(amount_nano_usd: int, paid_credit: Account) -> int:
    """How much of what the provider paid back can be taken from the credit."""
    return min(amount_nano_usd, paid_credit.available_nano_usd)


def credit_of(payment: Payment, transfer_id: str, now_ms: int) -> AddCredit:
    """The credit of a payment. Its name is the payment's, so that there is one, whatever notices lead to it."""
    return AddCredit(
        org_id=payment.org_id,
        amount_nano_usd=payment.amount_nano_usd,
        idempotency_key=f"payment:{payment.payment_id}",
        kind=CreditKind.PAID,
        transfer_id=transfer_id,
        now_ms=now_ms,
        actor=Actor(ActorKind.SYSTEM, payment.provider),
        giver=AccountKind.PROVIDER_CLEARING,
    )


def return_of(payment: Payment, amount_nano_usd: int, transfer_id: str, now_ms: int) -> Refund:
    """Takes back what the provider paid back by itself. Named by all that it has told, which only grows."""
    return Refund(
        org_id=payment.org_id,
        amount_nano_usd=amount_nano_usd,
        reason=f"paid back by {payment.provider}",
        idempotency_key=f"payment:{payment.payment_id}:returned:{payment.provider_returned_nano_usd}",
        transfer_id=transfer_id,
        now_ms=now_ms,
        actor=Actor(ActorKind.SYSTEM, payment.provider),
        receiver=AccountKind.PROVIDER_CLEARING,
    )


def check_whole_cents(param: str, amount_nano_usd: int) -> int:
    """Raises:
    InvalidRequest: it has fractions of a cent, which no provider takes.
    """
    if amount_nano_usd % NANO_PER_CENT:
        raise InvalidRequest(param, f"${format_usd(amount_nano_usd)} is not in whole cents")
    return amount_nano_usd


def check_payment_amount(param: str, amount_nano_usd: int) -> int:
    """Raises:
    InvalidRequest: a provider would not take it.
    """
    if not MIN_PAYMENT_NANO_USD <= amount_nano_usd <= MAX_PAYMENT_NANO_USD:
        low, high = format_usd(MIN_PAYMENT_NANO_USD), format_usd(MAX_PAYMENT_NANO_USD)
        raise InvalidRequest(param, f"is ${format_usd(amount_nano_usd)}, must be within ${low}..${high}")
    return check_whole_cents(param, amount_nano_usd)


def check_return_url(param: str, url: str) -> str:
    """Where a browser is sent after a checkout; empty: the installation's own page.

    Raises:
        InvalidRequest: not an http or https URL.
    """
    check_text(param, url, max_chars=MAX_URL_CHARS, empty=True)
    if url and (not url.startswith(("https://", "http://")) or any(char.isspace() for char in url)):
        raise InvalidRequest(param, "is not an http or https URL")
    return url


def check_key(key: str) -> str:
    """The idempotency key of a payment or a refund."""
    check_range("idempotency_key (characters)", len(key), 1, MAX_KEY_CHARS)
    return check_text("idempotency_key", key)
