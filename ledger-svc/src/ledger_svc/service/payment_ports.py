"""What the use cases of payments need: of a store, and of a payment provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.accounts import Balance
from ledger_svc.domain.charge_sums import ChargeSum, SumsWanted
from ledger_svc.domain.command import Command
from ledger_svc.domain.payment_refunds import PaymentRefund
from ledger_svc.domain.payments import Checkout, Notice, NoticeOutcome, Payment, Step, TakenNotice
from ledger_svc.domain.trail import TrailEntry

Headers = Mapping[str, str]
"""Headers of HTTP, by their names in lower case."""


class PaymentProvider(Protocol):
    """Someone who takes money for us. Every method may be called again: it does nothing twice."""

    @property
    def name(self) -> str:
        """As in ``Payment.provider`` and in the path of its notices."""

    async def create_checkout(self, payment: Payment) -> Checkout:
        """Opens the page where a payment is made. For one payment there is one.

        Raises:
            ProviderRefused, ProviderFailed.
        """

    def parse_notice(self, body: bytes, headers: Headers) -> Notice:
        """The notice in a body that the provider has signed.

        Raises:
            InvalidNotice: it has not, or not lately, or it can't be read.
        """

    async def refund(self, payment: Payment, refund: PaymentRefund) -> str:
        """Pays back; gives the provider's name of it.

        Raises:
            ProviderRefused: it will not be paid back.
            ProviderFailed: not known.
        """


class Till(PaymentProvider, Protocol):
    """A provider that needs no other party: who opens its page has paid."""

    def notice_of_payment(self, payment: Payment) -> tuple[bytes, Headers]:
        """Body and headers of the notice that a payment was made, signed."""


@dataclass(frozen=True, slots=True)
class Funds:
    """A balance, and the two kinds of credit that it is made of. In nano-USD."""

    balance: Balance
    paid_nano_usd: int
    promotional_nano_usd: int


@dataclass(frozen=True, slots=True)
class NoticeWork:
    """What a notice leads to, asked for in the transaction that records it."""

    follow: Callable[[Payment | None], Step]
    credit: Callable[[Payment], Command[None]]
    take_back: Callable[[Payment, int], Command[None]]
    entry: Callable[[Payment, Payment], TrailEntry]
    """Of the payment before and after."""


@dataclass(frozen=True, slots=True)
class RefundWork:
    """What changes with a refund, asked for in the transaction that changes it."""

    change: Callable[[Payment, PaymentRefund], tuple[Payment, PaymentRefund, Sequence[Command[None]]]]
    entry: Callable[[PaymentRefund], TrailEntry]


class Payments(Protocol):
    """Payments, refunds and notices. Each change is told in the audit trail, in its own transaction, and credit that
    comes or goes with it is posted in the same one.
    """

    async def begin(self, payment: Payment, entry: TrailEntry) -> Payment:
        """Writes a payment; gives the one that is there already under its idempotency key.

        Raises:
            NotFound: no such organisation.
            IdempotencyConflict: that one asks for something else.
        """

    async def open_checkout(self, payment_id: str, checkout: Checkout, now_ms: int) -> Payment:
        """Notes where a payment is made."""

    async def payment(self, org_id: str, payment_id: str) -> Payment:
        """One payment; ``org_id`` "": of any organisation.

        Raises:
            NotFound: also where it is another organisation's.
        """

    async def of_session(self, provider: str, session_id: str) -> Payment:
        """The payment that is made in a session.

        Raises:
            NotFound.
        """

    async def payments(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Payment]:
        """At most ``limit`` payments, newest first; ``org_id`` "": of all. ``before``: those older than this
        (created_at_ms, payment_id).
        """

    async def take_notice(self, provider: str, notice: Notice, received_at_ms: int, work: NoticeWork) -> NoticeOutcome:
        """Records a notice and does what follows of it; one that was recorded before: what it led to then."""

    async def notices(
        self, outcomes: Sequence[NoticeOutcome], *, limit: int, before: tuple[int, str] | None
    ) -> list[TakenNotice]:
        """At most ``limit`` notices that led to one of these, newest first; ``before``: those older than this
        (received_at_ms, event_id).
        """

    async def begin_refund(self, refund: PaymentRefund, work: RefundWork) -> PaymentRefund:
        """Writes a refund; gives the one that is there already under its idempotency key.

        Raises:
            NotFound: no such payment in the organisation.
            IdempotencyConflict: that one asks for something else.
            InvalidRequest, InsufficientBalance.
        """

    async def end_refund(self, refund: PaymentRefund, work: RefundWork) -> PaymentRefund:
        """Writes how a pending refund ended; one that has ended stays as it is."""

    async def refunds(self, payment_id: str) -> list[PaymentRefund]:
        """The refunds of a payment, oldest first."""

    async def funds(self, org_id: str) -> Funds:
        """Raises:
        NotFound: no such organisation.
        """


class ChargeSums(Protocol):
    """Sums over receipts. They equal what ``Records.receipts`` gives, receipt by receipt."""

    async def sums(self, wanted: SumsWanted) -> list[ChargeSum]:
        """One sum of each kind that there is, in the order of days, if they are apart."""
