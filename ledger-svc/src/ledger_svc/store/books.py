"""Loads a book with what commands need, under lock, and writes what they changed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from ledger_svc.domain.accounts import account_id
from ledger_svc.domain.book import Book, Name, Needs
from ledger_svc.domain.holds import HoldState
from ledger_svc.store import rows
from ledger_svc.store.bulk import insert_into, select_by, update_by
from ledger_svc.store.tables import ACCOUNT, API_KEY, ATTEMPT, POSTING, RECEIPT, RESERVATION, TRANSFER

# Locked in the order of their ids, so that no two transactions wait for each other.
_LOCK_ACCOUNTS = select_by(
    ACCOUNT, ACCOUNT.columns, "account_id", lock=" ORDER BY account.account_id FOR UPDATE OF account"
)
_READ_HOLDS = select_by(RESERVATION, RESERVATION.columns, "org_id", "request_id")
_READ_RECEIPTS = select_by(
    RECEIPT, [RECEIPT.c.document, RECEIPT.c.transfer_id, RECEIPT.c.fingerprint], "org_id", "request_id"
)
_READ_TRANSFERS = select_by(TRANSFER, TRANSFER.columns, "org_id", "idem_key")
_READ_KEYS = select_by(API_KEY, rows.KEY_COLUMNS, "key_id")

_INSERT_HOLDS, _INSERT_TRANSFERS, _INSERT_POSTINGS = map(insert_into, (RESERVATION, TRANSFER, POSTING))
_INSERT_ATTEMPTS, _INSERT_RECEIPTS = map(insert_into, (ATTEMPT, RECEIPT))
_UPDATE_ACCOUNTS = update_by(ACCOUNT, "account_id", "posted_nano_usd", "reserved_nano_usd", "version")
_UPDATE_HOLDS = update_by(RESERVATION, "hold_id", "state", "closed_at_ms", "released_at_ms", "release_reason")


def load(connection: Connection, needs: Sequence[Needs]) -> Book:
    """Locks the accounts and reads what else is needed.

    Accounts come first: whatever changes what belongs to an organisation (a revocation, too) holds their lock, so what
    is read after it is what the last holder left.
    """
    book = Book()
    account_ids = sorted({account_id(need.org_id, kind) for need in needs for kind in need.accounts})
    for row in _LOCK_ACCOUNTS.run(connection, [(name,) for name in account_ids]):
        account = rows.account_from_row(row)
        book.accounts[account.account_id] = account
    _load_requests(connection, book, sorted({(need.org_id, need.request_id) for need in needs if need.request_id}))
    for row in _READ_KEYS.run(connection, sorted({(need.key_id,) for need in needs if need.key_id})):
        key = rows.key_from_row(row)
        book.keys[key.key_id] = key
    idem_keys = sorted({(need.org_id, need.idem_key) for need in needs if need.idem_key})
    for row in _READ_TRANSFERS.run(connection, idem_keys):
        transfer = rows.transfer_from_row(row)
        book.transfers[transfer.org_id, transfer.idem_key] = transfer
    return book


def _load_requests(connection: Connection, book: Book, requests: Sequence[Name]) -> None:
    maybe_settled = []
    for row in _READ_HOLDS.run(connection, requests):
        hold = rows.hold_from_row(row)
        name = (hold.org_id, hold.request_id)
        book.holds[name] = hold
        if hold.state in (HoldState.SETTLED, HoldState.EXPIRED):
            maybe_settled.append(name)
    for row in _READ_RECEIPTS.run(connection, maybe_settled):
        entry = rows.receipt_entry_from_row(row)
        book.receipts[entry.receipt.org_id, entry.receipt.request_id] = entry


def flush(connection: Connection, book: Book) -> None:
    """Writes what the commands changed: one statement for each table, parents before children."""
    new_holds = [book.holds[name] for name in sorted(book.new_holds)]
    changed_holds = [book.holds[name] for name in sorted(book.changed_holds)]
    accounts = [book.accounts[name] for name in sorted(book.changed_accounts)]
    _INSERT_HOLDS.run(connection, [rows.hold_record(hold) for hold in new_holds])
    _INSERT_TRANSFERS.run(connection, [rows.transfer_record(transfer) for transfer in book.new_transfers])
    _INSERT_POSTINGS.run(connection, [rows.posting_record(posting) for posting in book.new_postings])
    _UPDATE_ACCOUNTS.run(connection, [rows.account_change(account) for account in accounts])
    _UPDATE_HOLDS.run(connection, [rows.hold_change(hold) for hold in changed_holds])
    _INSERT_ATTEMPTS.run(connection, [rows.attempt_record(attempt) for attempt in book.new_attempts])
    _INSERT_RECEIPTS.run(connection, [rows.receipt_record(receipt) for receipt in book.new_receipts])
