"""Runs commands on the database: load what they need under lock, let them decide, write the changes, COMMIT, answer.

Every command locks its organisation's spendable accounts first, in the order of their ids, so the commands of an
organisation follow one another and no two transactions wait for each other. What is read after that is what the last
of them left. A transaction runs one command for now; ``load``, ``Book`` and ``flush`` take any number, for a writer
that batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Connection, Executable, bindparam, insert, select, tuple_, update

from ledger_svc.domain.accounts import account_id
from ledger_svc.domain.book import Book, Name, Needs
from ledger_svc.domain.command import Command
from ledger_svc.domain.holds import HoldState
from ledger_svc.store import rows
from ledger_svc.store.database import Database
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.tables import ACCOUNT, API_KEY, ATTEMPT, POSTING, RECEIPT, RESERVATION, TRANSFER

R = TypeVar("R")


# Statements are built once: building one costs more than running it.
_LOCK_ACCOUNTS = (
    select(ACCOUNT)
    .where(ACCOUNT.c.account_id.in_(bindparam("account_ids", expanding=True)))
    .order_by(ACCOUNT.c.account_id)
    .with_for_update()
)
_READ_HOLDS = select(RESERVATION).where(
    tuple_(RESERVATION.c.org_id, RESERVATION.c.request_id).in_(bindparam("names", expanding=True))
)
_READ_RECEIPTS = select(RECEIPT.c.document, RECEIPT.c.transfer_id, RECEIPT.c.fingerprint).where(
    tuple_(RECEIPT.c.org_id, RECEIPT.c.request_id).in_(bindparam("names", expanding=True))
)
_READ_TRANSFERS = select(TRANSFER).where(
    tuple_(TRANSFER.c.org_id, TRANSFER.c.idem_key).in_(bindparam("names", expanding=True))
)
_READ_KEYS = select(*(c for c in API_KEY.columns if c.name not in ("hmac_sha256_hex", "pepper_version"))).where(
    API_KEY.c.key_id.in_(bindparam("key_ids", expanding=True))
)
_INSERT_HOLDS, _INSERT_TRANSFERS, _INSERT_POSTINGS = insert(RESERVATION), insert(TRANSFER), insert(POSTING)
_INSERT_ATTEMPTS, _INSERT_RECEIPTS = insert(ATTEMPT), insert(RECEIPT)
_UPDATE_ACCOUNT = (
    update(ACCOUNT)
    .where(ACCOUNT.c.account_id == bindparam("_account_id"))
    .values({name: bindparam(name) for name in ("posted_nano_usd", "reserved_nano_usd", "version")})
)
_UPDATE_HOLD = (
    update(RESERVATION)
    .where(RESERVATION.c.hold_id == bindparam("_hold_id"))
    .values({name: bindparam(name) for name in ("state", "closed_at_ms", "released_at_ms", "release_reason")})
)


class Writer:
    """Implements ``ports.Ledger``: one transaction for each command."""

    def __init__(self, database: Database, log: ReceiptLog) -> None:
        self._database = database
        self._log = log

    async def execute(self, command: Command[R]) -> R:
        """See ``ports.Ledger``. Safe to run again after a lost COMMIT: a command finds its own traces and answers the
        same.
        """

        def run(connection: Connection) -> R:
            book = load(connection, [command.needs])
            answer = command.decide(book)
            flush(connection, book)
            self._log.append(connection, book.new_receipts)
            return answer

        return await self._database.write(run)


def load(connection: Connection, needs: Sequence[Needs]) -> Book:
    """Locks the accounts and reads what else is needed. Accounts come first: see the module's docstring."""
    book = Book()
    account_ids = sorted({account_id(need.org_id, kind) for need in needs for kind in need.accounts})
    for row in connection.execute(_LOCK_ACCOUNTS, {"account_ids": account_ids}):
        account = rows.account_from_row(row)
        book.accounts[account.account_id] = account
    if requests := sorted({(need.org_id, need.request_id) for need in needs if need.request_id}):
        _load_requests(connection, book, requests)
    if key_ids := sorted({need.key_id for need in needs if need.key_id}):
        for row in connection.execute(_READ_KEYS, {"key_ids": key_ids}):
            book.keys[row.key_id] = rows.key_from_row(row)
    if idem_keys := sorted({(need.org_id, need.idem_key) for need in needs if need.idem_key}):
        for row in connection.execute(_READ_TRANSFERS, {"names": idem_keys}):
            book.transfers[row.org_id, row.idem_key] = rows.transfer_from_row(row)
    return book


def _load_requests(connection: Connection, book: Book, requests: Sequence[Name]) -> None:
    maybe_settled = []
    for row in connection.execute(_READ_HOLDS, {"names": requests}):
        hold = rows.hold_from_row(row)
        name = (hold.org_id, hold.request_id)
        book.holds[name] = hold
        if hold.state in (HoldState.SETTLED, HoldState.EXPIRED):
            maybe_settled.append(name)
    if maybe_settled:
        for row in connection.execute(_READ_RECEIPTS, {"names": maybe_settled}):
            entry = rows.receipt_entry_from_row(row)
            book.receipts[entry.receipt.org_id, entry.receipt.request_id] = entry


def flush(connection: Connection, book: Book) -> None:
    """Writes what the commands changed: one statement for each table, parents before children."""
    new_holds = [book.holds[name] for name in sorted(book.new_holds)]
    changed_holds = [book.holds[name] for name in sorted(book.changed_holds)]
    accounts = [book.accounts[name] for name in sorted(book.changed_accounts)]
    _write(connection, _INSERT_HOLDS, [rows.hold_values(hold) for hold in new_holds])
    _write(connection, _INSERT_TRANSFERS, [rows.transfer_values(transfer) for transfer in book.new_transfers])
    _write(connection, _INSERT_POSTINGS, [rows.values(posting) for posting in book.new_postings])
    _write(connection, _UPDATE_ACCOUNT, [rows.account_change(account) for account in accounts])
    _write(connection, _UPDATE_HOLD, [rows.hold_change(hold) for hold in changed_holds])
    _write(connection, _INSERT_ATTEMPTS, [rows.attempt_values(attempt) for attempt in book.new_attempts])
    _write(connection, _INSERT_RECEIPTS, [rows.receipt_values(receipt) for receipt in book.new_receipts])


def _write(connection: Connection, statement: Executable, values: list[rows.Values]) -> None:
    if values:
        connection.execute(statement, values[0] if len(values) == 1 else values)
