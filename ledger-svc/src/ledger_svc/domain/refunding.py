"""The commands that give money back: a refund pays credit out, a correction gives a charge back as credit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ledger_svc.domain.accounts import SPENDABLE, AccountKind, CreditKind, Spend
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.command import Command, check_same, fingerprint_of
from ledger_svc.domain.corrections import Correction
from ledger_svc.domain.errors import InsufficientBalance, InvalidRequest, NotFound
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.lots import DEFAULT_PRIORITY, CreditLot
from ledger_svc.domain.trail import told
from meshkit.money import format_usd
from meshkit.principal import OPERATOR, Actor


@dataclass(frozen=True)
class Refund(Command[None]):
    """Takes paid credit back that the operator pays out, once under its idempotency key. Promotional credit is not
    refunded, nor what open holds keep. ``receiver``: the account that pays it out.
    """

    org_id: str
    amount_nano_usd: int
    reason: str
    idempotency_key: str
    transfer_id: str
    now_ms: int
    actor: Actor = OPERATOR
    receiver: AccountKind = AccountKind.REFUNDS

    @property
    def needs(self) -> Needs:
        """The transfer that may be there already, and both accounts."""
        return Needs(self.org_id, (*SPENDABLE, self.receiver), idem_key=self._idem_key)

    @property
    def _idem_key(self) -> str:
        return f"refund:{self.idempotency_key}"

    @cached_property
    def fingerprint(self) -> str:
        """Of amount and reason, and of the account that pays where that is not the usual one."""
        receiver = () if self.receiver is AccountKind.REFUNDS else (self.receiver.value,)
        return fingerprint_of("refund", self.amount_nano_usd, self.reason, *receiver)

    def decide(self, book: Book) -> None:
        """Raises:
        NotFound, IdempotencyConflict, InsufficientBalance (more than the paid credit that is available).
        """
        paid = book.account(self.org_id, AccountKind.CUSTOMER_CREDIT)
        existing = book.transfers.get((self.org_id, self._idem_key))
        if existing is not None:
            check_same(existing.fingerprint, self.fingerprint, self.idempotency_key)
            return
        if self.amount_nano_usd > paid.available_nano_usd:
            raise InsufficientBalance(
                available_nano_usd=paid.available_nano_usd,
                held_nano_usd=paid.reserved_nano_usd,
                needed_nano_usd=self.amount_nano_usd,
                what="the paid credit does not cover this refund",
            )
        transfer = Transfer(
            self.transfer_id, self.org_id, TransferKind.REFUND, self._idem_key, self.fingerprint, self.now_ms
        )
        book.post(transfer, {AccountKind.CUSTOMER_CREDIT: -self.amount_nano_usd, self.receiver: self.amount_nano_usd})
        self._tell(book, paid.posted_nano_usd)

    def _tell(self, book: Book, posted_before_nano_usd: int) -> None:
        after = {
            "posted_usd": format_usd(posted_before_nano_usd - self.amount_nano_usd),
            "amount_usd": format_usd(self.amount_nano_usd),
            "reason": self.reason,
            "idempotency_key": self.idempotency_key,
        }
        kind = {"kind": CreditKind.PAID.value}
        before = {"posted_usd": format_usd(posted_before_nano_usd)}
        book.tell(
            told(
                self.actor,
                self.org_id,
                self.now_ms,
                "credit.refunded",
                self.transfer_id,
                self.transfer_id,
                before=kind | before,
                after=kind | after,
            )
        )


@dataclass(frozen=True)
class Correct(Command[Correction]):
    """Gives back some of a receipt's charge, once under its idempotency key. What paid credit paid is given back first,
    as paid credit; then what promotional credit paid, as promotional credit that does not expire. Caps still count the
    charge: they bound what was spent in their time.
    """

    org_id: str
    receipt_id: str
    amount_nano_usd: int
    reason: str
    idempotency_key: str
    transfer_id: str
    now_ms: int
    actor: Actor = OPERATOR

    @property
    def needs(self) -> Needs:
        """The transfer that may be there already, the receipt with its corrections, and the accounts."""
        accounts = (*SPENDABLE, AccountKind.REVENUE)
        return Needs(self.org_id, accounts, idem_key=self._idem_key, receipt_id=self.receipt_id)

    @property
    def _idem_key(self) -> str:
        return f"correction:{self.idempotency_key}"

    @cached_property
    def fingerprint(self) -> str:
        """Of receipt, amount and reason."""
        return fingerprint_of("correction", self.receipt_id, self.amount_nano_usd, self.reason)

    def decide(self, book: Book) -> Correction:
        """Raises:
        NotFound, IdempotencyConflict, InvalidRequest (more than is left of the charge).
        """
        settled = book.settled.get(self.receipt_id)
        if settled is None or settled.org_id != self.org_id:
            raise NotFound(f"no receipt {self.receipt_id}")
        existing = book.transfers.get((self.org_id, self._idem_key))
        if existing is not None:
            check_same(existing.fingerprint, self.fingerprint, self.idempotency_key)
            return next(c for c in settled.corrections if c.transfer_id == existing.transfer_id)
        left = settled.paid_left_nano_usd + settled.promo_left_nano_usd
        if self.amount_nano_usd > left:
            raise InvalidRequest("amount_nano_usd", f"is {self.amount_nano_usd}, of the charge only {left} are left")
        paid = min(self.amount_nano_usd, settled.paid_left_nano_usd)
        back = Spend(promo_nano_usd=self.amount_nano_usd - paid, paid_nano_usd=paid, uncovered_nano_usd=0)
        return self._give(book, back)

    def _give(self, book: Book, back: Spend) -> Correction:
        transfer = Transfer(
            self.transfer_id, self.org_id, TransferKind.CORRECTION, self._idem_key, self.fingerprint, self.now_ms
        )
        amounts = {AccountKind.PROMO: back.promo_nano_usd, AccountKind.CUSTOMER_CREDIT: back.paid_nano_usd}
        book.post(transfer, {**amounts, AccountKind.REVENUE: -self.amount_nano_usd})
        for kind, amount in amounts.items():
            if amount:
                book.add_lot(
                    CreditLot(
                        lot_id=f"{self.transfer_id}/{kind}",
                        org_id=self.org_id,
                        kind=kind,
                        transfer_id=self.transfer_id,
                        priority=DEFAULT_PRIORITY,
                        granted_nano_usd=amount,
                        remaining_nano_usd=amount,
                        created_at_ms=self.now_ms,
                        expires_at_ms=0,
                    )
                )
        correction = Correction(
            self.transfer_id,
            self.org_id,
            self.receipt_id,
            back.promo_nano_usd,
            back.paid_nano_usd,
            self.reason,
            self.now_ms,
        )
        given_before = sum(made.amount_nano_usd for made in book.settled[self.receipt_id].corrections)
        book.add_correction(correction)
        self._tell(book, correction, given_before)
        return correction

    def _tell(self, book: Book, made: Correction, given_before_nano_usd: int) -> None:
        after = {
            "corrected_usd": format_usd(given_before_nano_usd + made.amount_nano_usd),
            "paid_usd": format_usd(made.paid_nano_usd),
            "promotional_usd": format_usd(made.promo_nano_usd),
            "reason": self.reason,
            "transfer_id": self.transfer_id,
            "idempotency_key": self.idempotency_key,
        }
        before = {"corrected_usd": format_usd(given_before_nano_usd)}
        book.tell(
            told(
                self.actor,
                self.org_id,
                self.now_ms,
                "charge.corrected",
                self.receipt_id,
                self.transfer_id,
                before=before,
                after=after,
            )
        )
