"""The rows that commands of one transaction read and the rows that they write, in memory.

A writer loads what its commands need under lock, lets each decide on the book in turn, and writes the book's changes
in one go. A command that is refused leaves the book as it was, so that a refusal costs its neighbours in a batch
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ledger_svc.domain.accounts import SPENDABLE, Account, AccountKind, account_id
from ledger_svc.domain.caps import (
    Bucket,
    BucketName,
    Cap,
    CapUnit,
    admit,
    held_of,
    period_start_ms,
    room_for,
    scopes_of,
)
from ledger_svc.domain.charges import Attempt, counted_tokens
from ledger_svc.domain.corrections import Correction, SettledReceipt
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Posting, Transfer
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.lots import CreditLot, take
from ledger_svc.domain.receipts import Receipt, encode
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.values import lazy, value

Name = tuple[str, str]
"""(org_id, request_id), or (org_id, idem_key)."""


@value(frozen=True, slots=True)
class Needs:
    """What a command reads; empty: nothing of that kind. All accounts are of ``org_id`` and are locked, and its credit
    lots are always read. Caps and buckets: those that the hold of ``request_id`` meets, those that a new hold of
    ``key_id`` in ``project_id`` meets at ``at_ms``, and those of ``scope_id`` at ``at_ms``.
    """

    org_id: str
    accounts: tuple[AccountKind, ...]
    request_id: str = ""
    key_id: str = ""
    project_id: str = ""
    idem_key: str = ""
    scope_id: str = ""
    receipt_id: str = ""
    at_ms: int = 0


@value(frozen=True)
class ReceiptEntry:
    """A receipt, and what the store keeps beside it: its transfer, and the fingerprint of the command that settled."""

    receipt: Receipt
    transfer_id: str
    fingerprint: str

    @lazy
    def document(self) -> str:
        """The receipt's document; made once, to be stored and to be signed."""
        return encode(self.receipt)


@value(frozen=True, slots=True)
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
    caps: dict[str, list[Cap]] = field(default_factory=dict)
    """By scope id; a scope without caps may be missing, or have none."""
    buckets: dict[BucketName, Bucket] = field(default_factory=dict)
    lots: dict[str, CreditLot] = field(default_factory=dict)
    settled: dict[str, SettledReceipt] = field(default_factory=dict)
    """By receipt id."""
    log_size: int | None = None
    """Leaves that the log has; None: nobody keeps others from taking the next one meanwhile."""
    capped: set[str] = field(default_factory=set)
    """Organisations that have caps, by id."""

    changed_accounts: set[str] = field(default_factory=set)
    new_holds: set[Name] = field(default_factory=set)
    changed_holds: set[Name] = field(default_factory=set)
    new_transfers: list[Transfer] = field(default_factory=list)
    new_postings: list[Posting] = field(default_factory=list)
    new_attempts: list[AttemptEntry] = field(default_factory=list)
    new_receipts: list[ReceiptEntry] = field(default_factory=list)
    new_buckets: set[BucketName] = field(default_factory=set)
    changed_buckets: set[BucketName] = field(default_factory=set)
    new_caps: list[Cap] = field(default_factory=list)
    new_lots: set[str] = field(default_factory=set)
    changed_lots: set[str] = field(default_factory=set)
    new_corrections: list[Correction] = field(default_factory=list)
    new_entries: list[TrailEntry] = field(default_factory=list)

    def account(self, org_id: str, kind: AccountKind) -> Account:
        """Raises:
        NotFound: there is no such organisation.
        """
        try:
            return self.accounts[account_id(org_id, kind)]
        except KeyError:
            raise NotFound(f"no organisation {org_id}") from None

    def admit(self, hold: Hold) -> None:
        """Whether every cap that a new hold meets leaves room for it.

        Raises:
            BudgetExceeded: by the narrowest cap that does not.
            InvalidRequest: a cap in tokens applies, and the hold does not say how many.
        """
        for cap, bucket in self._met_by(hold):
            unsaid = cap.unit is CapUnit.TOKENS and not hold.amount_tokens and hold.state is HoldState.OPEN
            if cap.is_set and unsaid:
                raise InvalidRequest(
                    "amount_tokens", f"{cap.scope.value} {cap.scope_id} has a cap in tokens: say how many it can use"
                )
            admit(cap, bucket, held_of(hold, cap.unit))

    def add_hold(self, hold: Hold) -> None:
        """Writes a new hold that was admitted; an open one takes its amount out of what is available."""
        name = (hold.org_id, hold.request_id)
        assert name not in self.holds, name
        self.holds[name] = hold
        self.new_holds.add(name)
        for cap, bucket in self._met_by(hold):
            self.put_bucket(bucket.bounded_by(cap.limit))
        if hold.state is HoldState.OPEN:
            self._reserve(hold, +1)

    def close_hold(self, hold: Hold, state: HoldState, now_ms: int) -> Hold:
        """The one transition of a hold: what it kept is available again."""
        assert hold.state is HoldState.OPEN, hold.hold_id
        assert state is not HoldState.OPEN, hold.hold_id
        self._reserve(hold, -1)
        return self.update_hold(hold.closed(state, now_ms))

    def update_hold(self, hold: Hold) -> Hold:
        """Writes what else is known of a hold."""
        name = (hold.org_id, hold.request_id)
        self.holds[name] = hold
        if name not in self.new_holds:
            self.changed_holds.add(name)
        return hold

    def chargeable_nano_usd(self, hold: Hold, due_nano_usd: int, *, admitted_nano_usd: int) -> int:
        """How much of what is due the caps let be charged, once the hold is closed. ``admitted_nano_usd``: what it held
        until now.
        """
        rooms = (
            room_for(cap, bucket, admitted_nano_usd) for cap, bucket in self._met_by(hold) if cap.unit is CapUnit.USD
        )
        return min((due_nano_usd, *rooms))

    def post(
        self, transfer: Transfer, amounts: Mapping[AccountKind, int], *, from_lot: CreditLot | None = None
    ) -> None:
        """Moves money: one posting for each account whose amount is not 0. The amounts sum to 0. What leaves a
        customer's account is taken from its lots in their order, or from one; what comes in must be given one
        (``add_lot``).
        """
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
            if amount < 0 and kind in SPENDABLE:
                for lot in take([from_lot] if from_lot else self.lots_of(transfer.org_id, kind), -amount):
                    self._put_lot(lot)

    def add_lot(self, lot: CreditLot) -> None:
        """Writes a new lot, after its credit was posted. Where the account was below 0, that part of it is spent."""
        assert lot.lot_id not in self.lots, lot.lot_id
        posted = self.account(lot.org_id, lot.kind).posted_nano_usd
        self.lots[lot.lot_id] = replace(lot, remaining_nano_usd=max(0, min(lot.granted_nano_usd, posted)))
        self.new_lots.add(lot.lot_id)

    def lots_of(self, org_id: str, kind: AccountKind) -> list[CreditLot]:
        """The lots of an account, as far as they had something left when they were read."""
        return [lot for lot in self.lots.values() if lot.org_id == org_id and lot.kind is kind]

    def add_receipt(self, entry: ReceiptEntry) -> None:
        """Writes a receipt; there is one for a request at most."""
        receipt = entry.receipt
        name = (receipt.org_id, receipt.request_id)
        assert name not in self.receipts, name
        self.receipts[name] = entry
        self.new_receipts.append(entry)
        tokens = counted_tokens(receipt.facts)
        for cap, bucket in self._met_by(self.holds[name]):
            self.put_bucket(bucket.moved(spent=receipt.charged_nano_usd if cap.unit is CapUnit.USD else tokens))

    def add_attempts(self, hold_id: str, attempts: Iterable[Attempt]) -> None:
        """Records the calls of sources under a hold."""
        self.new_attempts.extend(AttemptEntry(hold_id, ordinal, a) for ordinal, a in enumerate(attempts))

    def put_cap(self, cap: Cap) -> None:
        """Writes the next revision of a cap, or its first."""
        others = [c for c in self.caps.get(cap.scope_id, ()) if (c.period, c.unit) != (cap.period, cap.unit)]
        self.caps[cap.scope_id] = [*others, cap]
        self.new_caps.append(cap)

    def put_bucket(self, bucket: Bucket) -> None:
        """Writes how a bucket stands now."""
        self.buckets[bucket.name] = bucket
        if bucket.name not in self.new_buckets:
            self.changed_buckets.add(bucket.name)

    def add_correction(self, correction: Correction) -> None:
        """Writes what was given back of a receipt's charge."""
        self.new_corrections.append(correction)
        settled = self.settled[correction.receipt_id]
        self.settled[correction.receipt_id] = replace(settled, corrections=(*settled.corrections, correction))

    def tell(self, entry: TrailEntry) -> None:
        """Tells the audit trail of a change. Whoever decides that there is one calls it, so not when it comes again."""
        self.new_entries.append(entry)

    def bucket_names(self, need: Needs) -> Iterator[tuple[Cap, BucketName]]:
        """The buckets that a command may change, by its needs and by the caps and holds that were read."""
        hold = self.holds.get((need.org_id, need.request_id))
        at_ms = hold.created_at_ms if hold else need.at_ms
        for scope_id in self.scope_ids(need):
            for cap in self.caps.get(scope_id, ()):
                yield cap, (scope_id, cap.period, cap.unit, period_start_ms(cap.period, at_ms))

    def scope_ids(self, need: Needs) -> tuple[str, ...]:
        """Whose caps a command meets, by its needs and by the holds that were read."""
        hold = self.holds.get((need.org_id, need.request_id))
        if hold:
            return scopes_of(hold.key_id, hold.project_id, hold.org_id)
        if need.key_id:
            return scopes_of(need.key_id, need.project_id, need.org_id)
        return (need.scope_id,) if need.scope_id else ()

    def _met_by(self, hold: Hold) -> list[tuple[Cap, Bucket]]:
        if not self.caps:
            return []
        return [
            (cap, self.buckets[scope_id, cap.period, cap.unit, period_start_ms(cap.period, hold.created_at_ms)])
            for scope_id in scopes_of(hold.key_id, hold.project_id, hold.org_id)
            for cap in self.caps.get(scope_id, ())
        ]

    def _reserve(self, hold: Hold, sign: int) -> None:
        for kind, amount in (
            (AccountKind.PROMO, hold.from_promo_nano_usd),
            (AccountKind.CUSTOMER_CREDIT, hold.from_paid_nano_usd),
        ):
            if amount:
                after = self.account(hold.org_id, kind).reserved(sign * amount)
                assert after.reserved_nano_usd >= 0, after
                self._put_account(after)
        for cap, bucket in self._met_by(hold):
            self.put_bucket(bucket.moved(reserved=sign * held_of(hold, cap.unit)))

    def _put_account(self, account: Account) -> None:
        self.accounts[account.account_id] = account
        self.changed_accounts.add(account.account_id)

    def _put_lot(self, lot: CreditLot) -> None:
        self.lots[lot.lot_id] = lot
        if lot.lot_id not in self.new_lots:
            self.changed_lots.add(lot.lot_id)
