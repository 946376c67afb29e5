"""The command that adds credit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ledger_svc.domain.accounts import CREDIT_ACCOUNTS, MAX_POSTED_NANO_USD, SPENDABLE, AccountKind, CreditKind
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.command import Command, check_same, fingerprint_of
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.lots import DEFAULT_PRIORITY, CreditLot
from ledger_svc.domain.trail import told
from meshkit.money import format_usd
from meshkit.principal import OPERATOR, Actor


@dataclass(frozen=True)
class AddCredit(Command[None]):
    """Adds prepaid or promotional credit, once under its idempotency key. ``priority``: of the lot, the lowest is spent
    first. ``expires_at_ms``: of promotional credit only; 0: never. ``giver``: the account that it comes from, where
    that is not the usual one.
    """

    org_id: str
    amount_nano_usd: int
    idempotency_key: str
    kind: CreditKind
    transfer_id: str
    now_ms: int
    priority: int = DEFAULT_PRIORITY
    expires_at_ms: int = 0
    actor: Actor = OPERATOR
    giver: AccountKind | None = None

    @property
    def needs(self) -> Needs:
        """The transfer that may be there already, and both accounts."""
        accounts = tuple(dict.fromkeys((*SPENDABLE, *self._accounts)))
        return Needs(self.org_id, accounts, idem_key=self._idem_key)

    @property
    def _accounts(self) -> tuple[AccountKind, AccountKind]:
        giver, receiver = CREDIT_ACCOUNTS[self.kind]
        return self.giver or giver, receiver

    @property
    def _idem_key(self) -> str:
        return f"credit:{self.idempotency_key}"

    @cached_property
    def fingerprint(self) -> str:
        """Of amount, kind and what its lot is to be; of the first two alone where that is nothing special, as it was
        before there were lots.
        """
        lot = (
            () if (self.priority, self.expires_at_ms) == (DEFAULT_PRIORITY, 0) else (self.priority, self.expires_at_ms)
        )
        giver = (self.giver.value,) if self.giver else ()
        return fingerprint_of("credit", self.amount_nano_usd, self.kind.value, *lot, *giver)

    def decide(self, book: Book) -> None:
        """Raises:
        NotFound, IdempotencyConflict, InvalidRequest (the balance would pass MAX_POSTED_NANO_USD).
        """
        giver, receiver = self._accounts
        posted = book.account(self.org_id, receiver).posted_nano_usd
        existing = book.transfers.get((self.org_id, self._idem_key))
        if existing is not None:
            check_same(existing.fingerprint, self.fingerprint, self.idempotency_key)
            return
        if self.expires_at_ms and self.expires_at_ms <= self.now_ms:
            raise InvalidRequest("expires_at_ms", "has passed already")
        if posted + self.amount_nano_usd > MAX_POSTED_NANO_USD:
            raise InvalidRequest("amount_nano_usd", "the balance would be larger than the ledger can keep")
        transfer = Transfer(
            self.transfer_id, self.org_id, TransferKind.CREDIT, self._idem_key, self.fingerprint, self.now_ms
        )
        book.post(transfer, {giver: -self.amount_nano_usd, receiver: self.amount_nano_usd})
        book.add_lot(
            CreditLot(
                lot_id=self.transfer_id,
                org_id=self.org_id,
                kind=receiver,
                transfer_id=self.transfer_id,
                priority=self.priority,
                granted_nano_usd=self.amount_nano_usd,
                remaining_nano_usd=self.amount_nano_usd,
                created_at_ms=self.now_ms,
                expires_at_ms=self.expires_at_ms,
            )
        )
        self._tell(book, posted)

    def _tell(self, book: Book, posted_before_nano_usd: int) -> None:
        after = {
            "posted_usd": format_usd(posted_before_nano_usd + self.amount_nano_usd),
            "amount_usd": format_usd(self.amount_nano_usd),
            "priority": self.priority,
            "expires_at_ms": self.expires_at_ms,
            "idempotency_key": self.idempotency_key,
        }
        kind = {"kind": self.kind.value}
        before = {"posted_usd": format_usd(posted_before_nano_usd)}
        book.tell(
            told(
                self.actor,
                self.org_id,
                self.now_ms,
                "credit.added",
                self.transfer_id,
                self.transfer_id,
                before=kind | before,
                after=kind | after,
            )
        )
