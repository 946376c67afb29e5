"""The rows that commands of one transaction read and the rows that they write, in memory.

A writer loads what its commands need under lock, lets each decide on the book in turn, and writes the book's changes
in one go. A command that is refused leaves the book as it was, so that a refusal costs its neighbours in a batch
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ledger_svc.domain.accounts import Account, AccountKind, account_id
from ledger_svc.domain.charges import Attempt
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Posting, Transfer
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.receipts import Receipt, encode

Name = tuple[str, str]
"""(org_id, request_id), or (org_id, idem_key)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a command reads; empty: nothing of that kind. All accounts are of ``org_id`` and are locked."""

    org_id: str
    accounts: tuple[AccountKind, ...]
    request_id: str = ""
    key_id: str = ""
    idem_key: str = ""


@dataclass(frozen=True)
class ReceiptEntry:
    """A receipt, and what the store keeps beside it: its transfer, and the fingerprint of the command that settled."""

    receipt: Receipt
    transfer_id: str
    fingerprint: str

    @cached_property
    def document(self) -> str:
        """The receipt's document; made once, to be stored and to be signed."""
        return encode(self.receipt)


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One call of a source under its hold; ``ordinal`` counts from 0."""

    hold_id: str
    ordinal: int
    attempt: Attempt


@dataclass(slots=True)
class Book:
    """What was read, by name, and what is to be written."""

    accounts: dict[str, Account] = field(default_factory=dict)
    holds: dict[Name, Hold] = field(default_factory=dict)
    receipts: dict[Name, ReceiptEntry] = field(default_factory=dict)
    transfers: dict[Name, Transfer] = field(default_factory=dict)
    keys: dict[str, ApiKey] = field(default_factory=dict)

    changed_accounts: set[str] = field(default_factory=set)
    new_holds: set[Name] = field(default_factory=set)
    changed_holds: set[Name] = field(default_factory=set)
    new_transfers: list[Transfer] = field(default_factory=list)
    new_postings: list[Posting] = field(default_factory=list)
    new_attempts: list[AttemptEntry] = field(default_factory=list)
    new_receipts: list[ReceiptEntry] = field(default_factory=list)

    def account(self, org_id: str, kind: AccountKind) -> Account:
        """Raises:
        NotFound: there is no such organisation.
        """
        try:
            return self.accounts[account_id(org_id, kind)]
        except KeyError:
            raise NotFound(f"no organisation {org_id}") from None

    def add_hold(self, hold: Hold) -> None:
        """Writes a new hold; an open one takes its amount out of what is available."""
        name = (hold.org_id, hold.request_id)
        assert name not in self.holds, name
        self.holds[name] = hold
        self.new_holds.add(name)
        if hold.state is HoldState.OPEN:
            self._reserve(hold, +1)

    def close_hold(self, hold: Hold, state: HoldState, now_ms: int) -> Hold:
        """The one transition of a hold: what it kept is available again."""
        assert hold.state is HoldState.OPEN, hold.hold_id
        assert state is not HoldState.OPEN, hold.hold_id
        self._reserve(hold, -1)
        return self.update_hold(replace(hold, state=state, closed_at_ms=now_ms))

    def update_hold(self, hold: Hold) -> Hold:
        """Writes what else is known of a hold."""
        name = (hold.org_id, hold.request_id)
        self.holds[name] = hold
        if name not in self.new_holds:
            self.changed_holds.add(name)
        return hold

    def post(self, transfer: Transfer, amounts: Mapping[AccountKind, int]) -> None:
        """Moves money: one posting for each account whose amount is not 0. The amounts sum to 0."""
        assert sum(amounts.values()) == 0, transfer.transfer_id
        name = (transfer.org_id, transfer.idem_key)
        assert name not in self.transfers, name
        self.transfers[name] = transfer
        self.new_transfers.append(transfer)
        for kind, amount in amounts.items():
            if not amount:
                continue
            after = self.account(transfer.org_id, kind).posted(amount)
            self._put_account(after)
            self.new_postings.append(
                Posting(after.account_id, after.version, transfer.transfer_id, amount, after.posted_nano_usd)
            )

    def add_receipt(self, entry: ReceiptEntry) -> None:
        """Writes a receipt; there is one for a request at most."""
        name = (entry.receipt.org_id, entry.receipt.request_id)
        assert name not in self.receipts, name
        self.receipts[name] = entry
        self.new_receipts.append(entry)

    def add_attempts(self, hold_id: str, attempts: Iterable[Attempt]) -> None:
        """Records the calls of sources under a hold."""
        self.new_attempts.extend(AttemptEntry(hold_id, ordinal, a) for ordinal, a in enumerate(attempts))

    def _reserve(self, hold: Hold, sign: int) -> None:
        for kind, amount in (
            (AccountKind.PROMO, hold.from_promo_nano_usd),
            (AccountKind.CUSTOMER_CREDIT, hold.from_paid_nano_usd),
        ):
            if amount:
                after = self.account(hold.org_id, kind).reserved(sign * amount)
                assert after.reserved_nano_usd >= 0, after
                self._put_account(after)

    def _put_account(self, account: Account) -> None:
        self.accounts[account.account_id] = account
        self.changed_accounts.add(account.account_id)
