"""Loads a book with what commands need, under lock, and writes what they changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from ledger_svc.domain.accounts import account_id
from ledger_svc.domain.book import Book, Name, Needs
from ledger_svc.domain.corrections import Correction
from ledger_svc.domain.holds import HoldState
from ledger_svc.store import rows
from ledger_svc.store.bulk import insert_into, select_by, update_by
from ledger_svc.store.rollup import roll_up, settled_receipt
from ledger_svc.store.tables import (
    ACCOUNT,
    API_KEY,
    ATTEMPT,
    CAP,
    CAP_BUCKET,
    CORRECTION,
    CREDIT_LOT,
    POSTING,
    RECEIPT,
    RESERVATION,
    TRANSFER,
)

BUCKET_KEY = ("scope_id", "period", "unit", "starts_at_ms")

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

_IN_FORCE = (
    "NOT EXISTS (SELECT 1 FROM cap AS later WHERE later.scope_id = cap.scope_id AND later.period = cap.period "
    "AND later.unit = cap.unit AND later.revision > cap.revision)"
)
_READ_CAPS = select_by(CAP, CAP.columns, "scope_id", where=_IN_FORCE)
_READ_BUCKETS = select_by(CAP_BUCKET, CAP_BUCKET.columns, *BUCKET_KEY)
_READ_LOTS = select_by(CREDIT_LOT, CREDIT_LOT.columns, "org_id", where="credit_lot.remaining_nano_usd > 0")
_READ_CORRECTIONS = select_by(CORRECTION, CORRECTION.columns, "receipt_id")

_INSERT_HOLDS, _INSERT_TRANSFERS, _INSERT_POSTINGS = map(insert_into, (RESERVATION, TRANSFER, POSTING))
_INSERT_ATTEMPTS, _INSERT_RECEIPTS = map(insert_into, (ATTEMPT, RECEIPT))
_INSERT_CAPS, _INSERT_BUCKETS = map(insert_into, (CAP, CAP_BUCKET))
_INSERT_LOTS, _INSERT_CORRECTIONS = map(insert_into, (CREDIT_LOT, CORRECTION))
_UPDATE_ACCOUNTS = update_by(ACCOUNT, "account_id", "posted_nano_usd", "reserved_nano_usd", "version")
_UPDATE_HOLDS = update_by(
    RESERVATION, "hold_id", "state", "closed_at_ms", "released_at_ms", "release_reason", "expires_at_ms"
)
_UPDATE_BUCKETS = update_by(CAP_BUCKET, BUCKET_KEY, "spent", "reserved", "bound")
_UPDATE_LOTS = update_by(CREDIT_LOT, "lot_id", "remaining_nano_usd")


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
    for row in _READ_LOTS.run(connection, _distinct(need.org_id for need in needs)):
        lot = rows.lot_from_row(row)
        book.lots[lot.lot_id] = lot
    _load_requests(connection, book, sorted({(need.org_id, need.request_id) for need in needs if need.request_id}))
    for row in _READ_KEYS.run(connection, _distinct(need.key_id for need in needs)):
        key = rows.key_from_row(row)
        book.keys[key.key_id] = key
    idem_keys = sorted({(need.org_id, need.idem_key) for need in needs if need.idem_key})
    for row in _READ_TRANSFERS.run(connection, idem_keys):
        transfer = rows.transfer_from_row(row)
        book.transfers[transfer.org_id, transfer.idem_key] = transfer
    _load_caps(connection, book, needs)
    _load_corrected(connection, book, sorted({need.receipt_id for need in needs if need.receipt_id}))
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


def _load_caps(connection: Connection, book: Book, needs: Sequence[Needs]) -> None:
    """Caps in force and their buckets; a bucket that is missing is made up from the books, and will be written."""
    scope_ids = _distinct(scope_id for need in needs for scope_id in book.scope_ids(need))
    for row in _READ_CAPS.run(connection, scope_ids):
        cap = rows.cap_from_row(row)
        book.caps.setdefault(cap.scope_id, []).append(cap)
    if not book.caps:
        return
    wanted = {name: cap for need in needs for cap, name in book.bucket_names(need)}
    for row in _READ_BUCKETS.run(connection, sorted(wanted)):
        bucket = rows.bucket_from_row(row)
        book.buckets[bucket.name] = bucket
    for name in sorted(wanted.keys() - book.buckets.keys()):
        book.new_buckets.add(name)
        book.put_bucket(roll_up(connection, wanted[name], name[-1]))


def _load_corrected(connection: Connection, book: Book, receipt_ids: Sequence[str]) -> None:
    corrections = [Correction(*row) for row in _READ_CORRECTIONS.run(connection, [(name,) for name in receipt_ids])]
    for receipt_id in receipt_ids:
        found = settled_receipt(connection, receipt_id)
        if found is not None:
            made = tuple(c for c in corrections if c.receipt_id == receipt_id)
            book.settled[receipt_id] = replace(found, corrections=made)


def _distinct(names: Iterable[str]) -> list[tuple[str]]:
    return [(name,) for name in sorted(set(names)) if name]


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
    _flush_credit(connection, book)
    _flush_caps(connection, book)


def _flush_credit(connection: Connection, book: Book) -> None:
    _INSERT_LOTS.run(connection, [rows.lot_record(book.lots[name]) for name in sorted(book.new_lots)])
    changed = [(name, book.lots[name].remaining_nano_usd) for name in sorted(book.changed_lots)]
    _UPDATE_LOTS.run(connection, changed)
    _INSERT_CORRECTIONS.run(connection, [rows.correction_record(made) for made in book.new_corrections])


def _flush_caps(connection: Connection, book: Book) -> None:
    _INSERT_CAPS.run(connection, [rows.cap_record(cap) for cap in book.new_caps])
    _INSERT_BUCKETS.run(connection, [rows.bucket_record(book.buckets[name]) for name in sorted(book.new_buckets)])
    changed = [rows.bucket_change(book.buckets[name]) for name in sorted(book.changed_buckets)]
    _UPDATE_BUCKETS.run(connection, changed)
