"""Accounts of an organisation and how an amount is spread over them.

A posting's amount is signed from the account's side; the postings of a transfer sum to 0. What a customer can spend
is positive in ``CUSTOMER_CREDIT`` and ``PROMO``; the operator's side (``CREDIT_SOURCE``, ``PROVIDER_CLEARING``,
``PROMO_EXPENSE``, ``PLATFORM_LOSS``) goes negative as it gives, ``REVENUE`` grows with each charge and ``REFUNDS`` with
what is paid out again. ``PROVIDER_CLEARING`` is what a payment provider took in for us, less what it paid back.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from functools import lru_cache

from ledger_svc.domain.errors import InsufficientBalance
from ledger_svc.domain.values import value

MAX_AMOUNT_NANO_USD = 10**17
"""100 million USD: no hold, credit or charge is larger."""
MAX_POSTED_NANO_USD = 4 * 10**18
"""4 billion USD: no customer's account passes it, so that every sum fits int64."""


class AccountKind(StrEnum):
    """What an account is for. Strings, because their names are asked for ten times in each command."""

    CUSTOMER_CREDIT = "customer_credit"
    PROMO = "promo"
    REVENUE = "revenue"
    PLATFORM_LOSS = "platform_loss"
    CREDIT_SOURCE = "credit_source"
    PROVIDER_CLEARING = "provider_clearing"
    PROMO_EXPENSE = "promo_expense"
    REFUNDS = "refunds"


class CreditKind(Enum):
    """Where credit comes from."""

    PAID = "paid"
    PROMOTIONAL = "promotional"


SPENDABLE = (AccountKind.CUSTOMER_CREDIT, AccountKind.PROMO)
"""The customer's side. Every command of an organisation reads these two, so that their lock serialises the
organisation.
"""

CREDIT_ACCOUNTS = {
    CreditKind.PAID: (AccountKind.CREDIT_SOURCE, AccountKind.CUSTOMER_CREDIT),
    CreditKind.PROMOTIONAL: (AccountKind.PROMO_EXPENSE, AccountKind.PROMO),
}
"""For each kind of credit the account that gives and the account that receives."""


@lru_cache(maxsize=65_536)
def account_id(org_id: str, kind: AccountKind) -> str:
    """The account of an organisation; readable, and unique without a lookup."""
    return f"{org_id}/{kind}"


@value(frozen=True, slots=True)
class Account:
    """One account as it stands. ``version`` counts its postings; amounts in nano-USD."""

    account_id: str
    org_id: str
    kind: AccountKind
    posted_nano_usd: int = 0
    reserved_nano_usd: int = 0
    hard_floor_nano_usd: int = 0
    version: int = 0

    @property
    def available_nano_usd(self) -> int:
        """What a new hold or charge may take; never below 0, though a floor may have been raised past the balance."""
        return max(0, self.posted_nano_usd - self.reserved_nano_usd - self.hard_floor_nano_usd)

    def posted(self, amount_nano_usd: int) -> Account:
        """After one more posting."""
        return self._with(self.posted_nano_usd + amount_nano_usd, self.reserved_nano_usd, self.version + 1)

    def reserved(self, amount_nano_usd: int) -> Account:
        """With more, or less, kept for holds."""
        return self._with(self.posted_nano_usd, self.reserved_nano_usd + amount_nano_usd, self.version)

    def _with(self, posted_nano_usd: int, reserved_nano_usd: int, version: int) -> Account:
        # dataclasses.replace takes three times as long, and every command does this four times.
        return Account(
            self.account_id,
            self.org_id,
            self.kind,
            posted_nano_usd,
            reserved_nano_usd,
            self.hard_floor_nano_usd,
            version,
        )


@value(frozen=True, slots=True)
class Balance:
    """What an organisation has, in nano-USD."""

    org_id: str
    posted_nano_usd: int
    held_nano_usd: int
    open_holds: int

    @property
    def available_nano_usd(self) -> int:
        """What a new hold may take."""
        return self.posted_nano_usd - self.held_nano_usd


@value(frozen=True, slots=True)
class Spend:
    """An amount spread over promotional credit, paid credit, and what neither covers. All >= 0, in nano-USD."""

    promo_nano_usd: int
    paid_nano_usd: int
    uncovered_nano_usd: int

    @property
    def covered_nano_usd(self) -> int:
        """What the customer's accounts cover."""
        return self.promo_nano_usd + self.paid_nano_usd


def spread(amount_nano_usd: int, *, promo: Account, paid: Account) -> Spend:
    """Takes promotional credit first, then paid credit; the rest is uncovered."""
    from_promo = min(amount_nano_usd, promo.available_nano_usd)
    from_paid = min(amount_nano_usd - from_promo, paid.available_nano_usd)
    return Spend(from_promo, from_paid, amount_nano_usd - from_promo - from_paid)


def admit_amount(amount_nano_usd: int, *, promo: Account, paid: Account) -> Spend:
    """How a hold or an immediate charge is covered.

    Raises:
        InsufficientBalance: posted less reserved does not cover the amount.
    """
    spend = spread(amount_nano_usd, promo=promo, paid=paid)
    if spend.uncovered_nano_usd:
        raise InsufficientBalance(
            available_nano_usd=promo.available_nano_usd + paid.available_nano_usd,
            held_nano_usd=promo.reserved_nano_usd + paid.reserved_nano_usd,
            needed_nano_usd=amount_nano_usd,
        )
    return spend
