"""Credit past its time: taken back before anything new is admitted, and by a command of the sweeper's."""

from __future__ import annotations

from dataclasses import dataclass

from ledger_svc.domain.accounts import CREDIT_ACCOUNTS, SPENDABLE, AccountKind, CreditKind
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.command import Command
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.lots import spending_order
from ledger_svc.domain.trail import SYSTEM, told
from meshkit.money import format_usd

ADMITTED = (*SPENDABLE, AccountKind.PROMO_EXPENSE)
"""The accounts of a command that admits something new: it takes back first what has expired."""


def expire_credit(book: Book, org_id: str, now_ms: int) -> int:
    """Takes back what is left of lots past their time, but for what open holds count on; gives the amount in nano-USD.
    What would be spent last goes first: holds are left with what they spend first. The ids are made of the lot and of
    what it had, so that doing it again is the same.
    """
    giver, receiver = CREDIT_ACCOUNTS[CreditKind.PROMOTIONAL]
    total = 0
    over = [lot for lot in book.lots_of(org_id, receiver) if lot.is_over(now_ms)]
    for lot in reversed(spending_order(over)) if over else ():
        amount = min(lot.remaining_nano_usd, book.account(org_id, receiver).available_nano_usd)
        if not amount:
            continue
        name = f"expiry:{lot.lot_id}:{lot.remaining_nano_usd}"
        transfer = Transfer(f"xfer_{name}", org_id, TransferKind.EXPIRY, name, "", now_ms)
        book.post(transfer, {receiver: -amount, giver: amount}, from_lot=lot)
        book.tell(
            told(
                SYSTEM,
                org_id,
                now_ms,
                "credit.expired",
                lot.lot_id,
                name,
                before={"remaining_usd": format_usd(lot.remaining_nano_usd)},
                after={"remaining_usd": format_usd(lot.remaining_nano_usd - amount)},
            )
        )
        total += amount
    return total


@dataclass(frozen=True)
class ExpireCredit(Command[int]):
    """Takes back an organisation's credit whose time has passed; answers how much, in nano-USD."""

    org_id: str
    now_ms: int

    @property
    def needs(self) -> Needs:
        """The accounts of promotional credit; lots come with every command."""
        return Needs(self.org_id, ADMITTED)

    def decide(self, book: Book) -> int:
        """Raises:
        NotFound: no such organisation.
        """
        return expire_credit(book, self.org_id, self.now_ms)
