"""A command is a value: it carries its own time and the ids that it will give, says what it needs to read, and
decides on a book. So a writer can run one or many in a transaction, and run them again after a doubt.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, Generic, TypedDict, TypeVar

import orjson

from ledger_svc.domain.accounts import Account, AccountKind
from ledger_svc.domain.book import Book, Name, Needs
from ledger_svc.domain.errors import HoldClosed, IdempotencyConflict, NotFound
from ledger_svc.domain.holds import Hold, HoldState

R = TypeVar("R")


class Command(ABC, Generic[R]):
    """Something that the ledger is told to do; ``R`` is what it answers."""

    alone: bool = False
    """Whether it needs a transaction of its own, because it changes what other commands must read."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What it reads."""

    @abstractmethod
    def decide(self, book: Book) -> R:
        """Writes to the book and answers, or raises a ``LedgerError`` and leaves the book as it was, but for credit
        whose time has passed: that goes back in any case.
        """


class Wallet(TypedDict):
    """What an organisation can spend, as ``spread`` and ``admit_amount`` take it."""

    promo: Account
    paid: Account


def wallet(book: Book, org_id: str) -> Wallet:
    """Raises:
    NotFound: no such organisation.
    """
    return {
        "promo": book.account(org_id, AccountKind.PROMO),
        "paid": book.account(org_id, AccountKind.CUSTOMER_CREDIT),
    }


def find_hold(book: Book, name: Name) -> Hold:
    """Raises:
    NotFound: the request has no hold in this organisation.
    """
    hold = book.holds.get(name)
    if hold is None:
        raise NotFound(f"no hold for request {name[1]}")
    return hold


def closed_error(book: Book, hold: Hold) -> HoldClosed:
    """Says how a hold was closed. An expired one may have been settled or released afterwards."""
    entry = book.receipts.get((hold.org_id, hold.request_id))
    if entry is not None:
        return HoldClosed(hold.request_id, HoldState.SETTLED.value, entry.receipt.receipt_id)
    state = HoldState.RELEASED if hold.released_at_ms else hold.state
    return HoldClosed(hold.request_id, state.value)


def check_same(stored: str, now: str, name: str) -> None:
    """Raises:
    IdempotencyConflict: the fingerprints differ.
    """
    if stored != now:
        raise IdempotencyConflict(f"{name} came before with another content")


def fingerprint_of(*content: Any) -> str:
    """Tells a command sent again from another one under the same name. ``content``: JSON values."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
