"""The commands that charge: a hold turned into a charge, and hold and charge in one step."""

from __future__ import annotations

from typing import Any

from ledger_svc.domain.accounts import SPENDABLE, AccountKind, admit_amount, spread
from ledger_svc.domain.book import Book, Needs, ReceiptEntry
from ledger_svc.domain.charges import Attempt, ChargeFacts, Quote, quote
from ledger_svc.domain.command import Command, check_same, find_hold, fingerprint_of, wallet
from ledger_svc.domain.errors import HoldClosed
from ledger_svc.domain.expiring import ADMITTED, expire_credit
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.keys import admit_key
from ledger_svc.domain.receipts import Receipt, attempts_document, facts_document
from ledger_svc.domain.values import lazy, value
from meshkit.principal import Principal

_CHARGED = (AccountKind.REVENUE, AccountKind.PLATFORM_LOSS)


@value(frozen=True)
class Settle(Command[Receipt]):
    """Turns a hold into a charge and a receipt. An expired hold is settled too."""

    org_id: str
    request_id: str
    facts: ChargeFacts
    attempts: tuple[Attempt, ...]
    receipt_id: str
    transfer_id: str
    now_ms: int

    @property
    def needs(self) -> Needs:
        """The hold and the accounts of a charge. Not the key: a revoked key still pays for what was delivered."""
        return Needs(self.org_id, SPENDABLE + _CHARGED, self.request_id)

    @lazy
    def fingerprint(self) -> str:
        """Of the facts and the attempts; another trace does not make it another settlement."""
        return fingerprint_of("settle", _charge_content(self.facts), attempts_document(self.attempts))

    def decide(self, book: Book) -> Receipt:
        """Raises:
        NotFound, IdempotencyConflict, HoldClosed.
        """
        name = (self.org_id, self.request_id)
        hold = find_hold(book, name)
        settled = book.receipts.get(name)
        if settled is not None:
            check_same(settled.fingerprint, self.fingerprint, self.request_id)
            return settled.receipt
        if hold.released_at_ms:
            raise HoldClosed(self.request_id, HoldState.RELEASED.value)
        owed, admitted = quote(self.facts), 0
        if hold.state is HoldState.OPEN:
            hold, admitted = book.close_hold(hold, HoldState.SETTLED, self.now_ms), hold.amount_nano_usd
        book.add_attempts(hold.hold_id, self.attempts)
        return _charge(book, hold, self, owed, self.attempts, admitted_nano_usd=admitted)


@value(frozen=True)
class Charge(Command[Receipt]):
    """Hold and settlement in one step, for a replay."""

    principal: Principal
    request_id: str
    facts: ChargeFacts
    hold_id: str
    receipt_id: str
    transfer_id: str
    now_ms: int

    @property
    def needs(self) -> Needs:
        """Key, accounts of a charge, and the request that may be there already."""
        payer = self.principal
        return Needs(
            payer.org_id, ADMITTED + _CHARGED, self.request_id, payer.key_id, payer.project_id, at_ms=self.now_ms
        )

    @lazy
    def fingerprint(self) -> str:
        """Of the payer and the facts, but not the trace."""
        return fingerprint_of("charge", self.principal.project_id, self.principal.key_id, _charge_content(self.facts))

    def decide(self, book: Book) -> Receipt:
        """Raises:
        IdempotencyConflict, InvalidApiKey, ApiKeyRevoked, ModelNotAllowed, InsufficientBalance, BudgetExceeded.
        """
        payer = self.principal
        name = (payer.org_id, self.request_id)
        existing = book.holds.get(name)
        if existing is not None:
            check_same(existing.fingerprint, self.fingerprint, self.request_id)
            return book.receipts[name].receipt
        admit_key(book.keys.get(payer.key_id), payer, self.facts.model, self.now_ms)
        owed = quote(self.facts)
        expire_credit(book, payer.org_id, self.now_ms)
        spend = admit_amount(owed.due_nano_usd, **wallet(book, payer.org_id))
        hold = Hold(
            hold_id=self.hold_id,
            org_id=payer.org_id,
            project_id=payer.project_id,
            key_id=payer.key_id,
            request_id=self.request_id,
            model=self.facts.model,
            amount_nano_usd=owed.due_nano_usd,
            from_promo_nano_usd=spend.promo_nano_usd,
            from_paid_nano_usd=spend.paid_nano_usd,
            fingerprint=self.fingerprint,
            created_at_ms=self.now_ms,
            expires_at_ms=self.now_ms,
            state=HoldState.SETTLED,
            closed_at_ms=self.now_ms,
        )
        book.admit(hold)
        book.add_hold(hold)
        return _charge(book, hold, self, owed, (), admitted_nano_usd=owed.due_nano_usd)


def _charge(
    book: Book,
    hold: Hold,
    command: Settle | Charge,
    owed: Quote,
    attempts: tuple[Attempt, ...],
    *,
    admitted_nano_usd: int,
) -> Receipt:
    """Charges what is owed as far as the caps and the balance go, promotional credit first; the rest is the operator's
    loss.

    The hold is closed before: what it kept is available again, so one rule serves a charge within the hold, above it,
    and after its end.
    """
    chargeable = book.chargeable_nano_usd(hold, owed.due_nano_usd, admitted_nano_usd=admitted_nano_usd)
    spend = spread(chargeable, **wallet(book, hold.org_id))
    absorbed = owed.due_nano_usd - spend.covered_nano_usd
    # A clock that was set back, or another replica's, must not put a receipt before its hold.
    now_ms = max(command.now_ms, hold.created_at_ms)
    transfer = Transfer(
        command.transfer_id,
        hold.org_id,
        TransferKind.SETTLEMENT,
        f"settle:{hold.request_id}",
        command.fingerprint,
        now_ms,
    )
    book.post(
        transfer,
        {
            AccountKind.PROMO: -spend.promo_nano_usd,
            AccountKind.CUSTOMER_CREDIT: -spend.paid_nano_usd,
            AccountKind.PLATFORM_LOSS: -absorbed,
            AccountKind.REVENUE: owed.due_nano_usd,
        },
    )
    receipt = Receipt(
        receipt_id=command.receipt_id,
        hold_id=hold.hold_id,
        request_id=hold.request_id,
        org_id=hold.org_id,
        project_id=hold.project_id,
        key_id=hold.key_id,
        facts=command.facts,
        held_nano_usd=hold.amount_nano_usd,
        charged_nano_usd=spend.covered_nano_usd,
        saved_nano_usd=owed.saved_nano_usd,
        absorbed_nano_usd=absorbed,
        attempts=attempts,
        created_at_ms=now_ms,
    )
    book.add_receipt(ReceiptEntry(receipt, transfer.transfer_id, command.fingerprint))
    return receipt


def _charge_content(facts: ChargeFacts) -> dict[str, Any]:
    return {**facts_document(facts), "trace_id": ""}
