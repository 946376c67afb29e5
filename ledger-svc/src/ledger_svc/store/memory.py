"""What the writer remembers of the books between two batches, so that the next one need not read it.

It is true because nobody else writes (see ``store.fence``): it begins empty with the lease, takes in what a batch has
read and changed once that is durable, and is forgotten at any doubt and when something other than a batch has changed
the books. Whether the lease still stands is found with the write.

What is not remembered is not taken for absent, but for one thing: that a request has no hold yet is the rule when it
reserves, and where it is wrong the row that would be its second finds out (``UNIQUE (org_id, request_id)``).
A cap's bucket that is not remembered is read, or made up, where the caps of its scope were set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ledger_svc.domain.accounts import Account, account_id
from ledger_svc.domain.book import Book, Name, Needs
from ledger_svc.domain.caps import Bucket, BucketName, Cap
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.lots import CreditLot

K = TypeVar("K")
V = TypeVar("V")

MAX_ORGS = 4_096
MAX_KEYS = 16_384
MAX_HOLDS = 16_384
MAX_SCOPES = 16_384
MAX_BUCKETS = 16_384
"""Of each it remembers so many; the oldest is forgotten first. Some 40 MB in all."""


@dataclass(slots=True)
class _Org:
    """Accounts as far as they were asked for, all lots that have something left, and whether it has caps."""

    accounts: dict[str, Account] = field(default_factory=dict)
    lots: dict[str, CreditLot] = field(default_factory=dict)
    is_capped: bool = False


class Memory:
    """The rows as they are in the database."""

    def __init__(self) -> None:
        self._orgs: dict[str, _Org] = {}
        self._keys: dict[str, ApiKey] = {}
        self._holds: dict[Name, Hold] = {}
        """Open ones."""
        self._caps: dict[str, list[Cap]] = {}
        """By scope; none for a scope that has no cap."""
        self._buckets: dict[BucketName, Bucket] = {}
        self._log_size: int | None = None

    @property
    def log_size(self) -> int | None:
        """Leaves of the log; None: not known."""
        return self._log_size

    def recall(self, needs: Iterable[Needs]) -> Book | None:
        """A book with what is needed; None where something must be read. A command that is refused on it may be right
        on what the database has.
        """
        book = Book(log_size=self._log_size)
        if self._log_size is None or not all(self._put(need, book) for need in needs):
            return None
        return book

    def keep(self, book: Book) -> None:
        """Takes in a book that was read by the writer, or recalled, and whose changes are durable."""
        capped = book.capped | {cap.org_id for cap in book.new_caps}
        for account in book.accounts.values():
            org = self._orgs.get(account.org_id)
            if org is None:
                org = _Org()
                _put(self._orgs, account.org_id, org, MAX_ORGS)
            org.accounts[account.account_id] = account
            org.is_capped = account.org_id in capped
        self._keep_lots({account.org_id for account in book.accounts.values()}, book.lots.values())
        self._keep_caps(book)
        for key in book.keys.values():
            _put(self._keys, key.key_id, key, MAX_KEYS)
        for name, hold in book.holds.items():
            if hold.state is HoldState.OPEN:
                _put(self._holds, name, hold, MAX_HOLDS)
            else:
                self._holds.pop(name, None)
        assert book.log_size is not None, "only the writer keeps what it has read"
        self._log_size = book.log_size + len(book.new_receipts) + len(book.new_entries)

    def forget(self) -> None:
        """Everything."""
        for kept in (self._orgs, self._keys, self._holds, self._caps, self._buckets):
            kept.clear()
        self._log_size = None

    def _put(self, need: Needs, book: Book) -> bool:
        """Puts into the book what a command needs; False where not all of it is remembered."""
        org = self._orgs.get(need.org_id)
        if org is None or need.idem_key or need.receipt_id or need.scope_id:
            return False
        for kind in need.accounts:
            name = account_id(need.org_id, kind)
            if name not in org.accounts:
                return False
            book.accounts[name] = org.accounts[name]
        book.lots.update(org.lots)
        if need.key_id:
            if need.key_id not in self._keys:
                return False
            book.keys[need.key_id] = self._keys[need.key_id]
        if need.request_id:
            request = (need.org_id, need.request_id)
            hold = self._holds.get(request)
            if hold is not None:
                book.holds[request] = hold
            elif not need.key_id:  # it makes no hold, so nothing would find out
                return False
        return not org.is_capped or self._put_caps(need, book)

    def _put_caps(self, need: Needs, book: Book) -> bool:
        """The same for the caps that it meets."""
        book.capped.add(need.org_id)
        for scope_id in book.scope_ids(need):
            if scope_id not in self._caps:
                return False
            book.caps[scope_id] = self._caps[scope_id]
        for _, name in book.bucket_names(need):
            if name not in self._buckets:
                return False
            book.buckets[name] = self._buckets[name]
        return True

    def _keep_caps(self, book: Book) -> None:
        for scope_id, caps in book.caps.items():
            _put(self._caps, scope_id, caps, MAX_SCOPES)
        for bucket in book.buckets.values():
            _put(self._buckets, bucket.name, bucket, MAX_BUCKETS)

    def _keep_lots(self, orgs: Iterable[str], lots: Iterable[CreditLot]) -> None:
        """``lots``: all that the organisations have."""
        left: dict[str, dict[str, CreditLot]] = {org_id: {} for org_id in orgs}
        for lot in lots:
            if lot.remaining_nano_usd:
                left[lot.org_id][lot.lot_id] = lot
        for org_id, found in left.items():
            if org_id in self._orgs:  # else it has made way for another
                self._orgs[org_id].lots = found


def _put(kept: dict[K, V], name: K, value: V, at_most: int) -> None:
    if name not in kept and len(kept) >= at_most:
        del kept[next(iter(kept))]
    kept[name] = value
