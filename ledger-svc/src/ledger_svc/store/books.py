"""Loads a book with what commands need, in a read and, where there are caps, some more, and says what is to be written
of what they changed. What the writer remembers of one book for the next is in ``store.memory``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from ledger_svc.domain.accounts import account_id
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.corrections import Correction
from ledger_svc.store import rows
from ledger_svc.store.bulk import Part, Record, insert_into, read_all, select_by, update_by
from ledger_svc.store.rollup import roll_up, settled_receipt
from ledger_svc.store.tables import (
    ACCOUNT,
    API_KEY,
    ATTEMPT,
    AUDIT_LOG,
    CAP,
    CAP_BUCKET,
    CORRECTION,
    CREDIT_LOT,
    LOG_HEAD,
    ORG,
    POSTING,
    RECEIPT,
    RESERVATION,
    TRANSFER,
)

_HOLD_COLUMNS = len(RESERVATION.columns)
BUCKET_KEY = ("scope_id", "period", "unit", "starts_at_ms")

# Locked in the order of their ids, so that no two transactions wait for each other.
_LOCK_ACCOUNTS = select_by(
    ACCOUNT, ACCOUNT.columns, "account_id", lock=" ORDER BY account.account_id FOR UPDATE OF account"
)
_READ_ACCOUNTS = select_by(ACCOUNT, ACCOUNT.columns, "account_id")
_READ_HEAD = select_by(LOG_HEAD, [LOG_HEAD.c.size], "log_id")
_READ_HOLDS = select_by(
    RESERVATION,
    [*RESERVATION.columns, RECEIPT.c.document, RECEIPT.c.transfer_id, RECEIPT.c.fingerprint],
    "org_id",
    "request_id",
    join="LEFT JOIN receipt ON receipt.hold_id = reservation.hold_id AND reservation.state IN ('settled', 'expired')",
)
_READ_TRANSFERS = select_by(TRANSFER, TRANSFER.columns, "org_id", "idem_key")
_READ_KEYS = select_by(API_KEY, rows.KEY_COLUMNS, "key_id")

_IN_FORCE = (
    "NOT EXISTS (SELECT 1 FROM cap AS later WHERE later.scope_id = cap.scope_id AND later.period = cap.period "
    "AND later.unit = cap.unit AND later.revision > cap.revision)"
)
_FIND_CAPPED = select_by(
    ORG, [ORG.c.org_id], "org_id", where="EXISTS (SELECT 1 FROM cap WHERE cap.org_id = org.org_id)"
)
_READ_CAPS = select_by(CAP, CAP.columns, "scope_id", where=_IN_FORCE)
_READ_BUCKETS = select_by(CAP_BUCKET, CAP_BUCKET.columns, *BUCKET_KEY)
_READ_LOTS = select_by(CREDIT_LOT, CREDIT_LOT.columns, "org_id", where="credit_lot.remaining_nano_usd > 0")
_READ_CORRECTIONS = select_by(CORRECTION, CORRECTION.columns, "receipt_id")

_INSERT_HOLDS, _INSERT_TRANSFERS, _INSERT_POSTINGS = map(insert_into, (RESERVATION, TRANSFER, POSTING))
_INSERT_ATTEMPTS, _INSERT_RECEIPTS = map(insert_into, (ATTEMPT, RECEIPT))
_INSERT_CAPS, _INSERT_BUCKETS = map(insert_into, (CAP, CAP_BUCKET))
_INSERT_LOTS, _INSERT_CORRECTIONS = map(insert_into, (CREDIT_LOT, CORRECTION))
_INSERT_ENTRIES = insert_into(AUDIT_LOG)
_UPDATE_ACCOUNTS = update_by(ACCOUNT, "account_id", "posted_nano_usd", "reserved_nano_usd", "version")
_UPDATE_HOLDS = update_by(
    RESERVATION, "hold_id", "state", "closed_at_ms", "released_at_ms", "release_reason", "expires_at_ms"
)
_UPDATE_BUCKETS = update_by(CAP_BUCKET, BUCKET_KEY, "spent", "reserved", "bound")
_UPDATE_LOTS = update_by(CREDIT_LOT, "lot_id", "remaining_nano_usd")


def load(connection: Connection, needs: Sequence[Needs], *, fenced: bool) -> Book:
    """Reads what is needed. ``fenced``: this transaction has the writer's epoch, so nobody else writes.

    Otherwise the accounts are locked first: whatever changes what belongs to an organisation (a revocation, too) holds
    their lock, so what is read after it is what the last holder left.
    """
    book = Book()
    account_ids = [(name,) for name in sorted({account_id(n.org_id, kind) for n in needs for kind in n.accounts})]
    accounts: list[Record] = [] if fenced else _LOCK_ACCOUNTS.run(connection, account_ids)
    orgs = _distinct(need.org_id for need in needs)
    requests = sorted({(need.org_id, need.request_id) for need in needs if need.request_id})
    fenced_accounts, heads, lots, holds, keys, transfers, corrections, capped = read_all(
        connection,
        (_READ_ACCOUNTS, account_ids if fenced else []),
        (_READ_HEAD, [(1,)] if fenced else []),
        (_READ_LOTS, orgs),
        (_READ_HOLDS, requests),
        (_READ_KEYS, _distinct(need.key_id for need in needs)),
        (_READ_TRANSFERS, sorted({(need.org_id, need.idem_key) for need in needs if need.idem_key})),
        (_READ_CORRECTIONS, _distinct(need.receipt_id for need in needs)),
        (_FIND_CAPPED, orgs),
    )
    found = map(rows.account_from_row, (*accounts, *fenced_accounts))
    book.accounts = {account.account_id: account for account in found}
    book.log_size = heads[0][0] if heads else None
    book.lots = {lot.lot_id: lot for lot in map(rows.lot_from_row, lots)}
    for row in holds:
        hold = rows.hold_from_row(row[:_HOLD_COLUMNS])
        name = (hold.org_id, hold.request_id)
        book.holds[name] = hold
        if row[_HOLD_COLUMNS] is not None:
            book.receipts[name] = rows.receipt_entry_from_row(row[_HOLD_COLUMNS:])
    book.keys = {key.key_id: key for key in map(rows.key_from_row, keys)}
    book.transfers = {(found.org_id, found.idem_key): found for found in map(rows.transfer_from_row, transfers)}
    book.capped = {org_id for (org_id,) in capped}
    if capped:
        _load_caps(connection, book, needs)
    _load_corrected(connection, book, needs, [Correction(*row) for row in corrections])
    return book


def _load_caps(connection: Connection, book: Book, needs: Sequence[Needs]) -> None:
    """Caps in force and their buckets; a bucket that is missing is made up from the books, and will be written."""
    scope_ids = _distinct(scope_id for need in needs for scope_id in book.scope_ids(need))
    book.caps = {scope_id: [] for (scope_id,) in scope_ids}
    caps = map(rows.cap_from_row, _READ_CAPS.run(connection, scope_ids))
    for cap in sorted(caps, key=lambda cap: (cap.period, cap.unit)):  # which is named in a refusal is not chance
        book.caps[cap.scope_id].append(cap)
    wanted = {name: cap for need in needs for cap, name in book.bucket_names(need)}
    for row in _READ_BUCKETS.run(connection, sorted(wanted)):
        bucket = rows.bucket_from_row(row)
        book.buckets[bucket.name] = bucket
    for name in sorted(wanted.keys() - book.buckets.keys()):
        book.new_buckets.add(name)
        book.put_bucket(roll_up(connection, wanted[name], name[-1]))


def _load_corrected(
    connection: Connection, book: Book, needs: Sequence[Needs], corrections: Sequence[Correction]
) -> None:
    for receipt_id in sorted({need.receipt_id for need in needs if need.receipt_id}):
        found = settled_receipt(connection, receipt_id)
        if found is not None:
            made = tuple(c for c in corrections if c.receipt_id == receipt_id)
            book.settled[receipt_id] = replace(found, corrections=made)


def _distinct(names: Iterable[str]) -> list[tuple[str]]:
    return [(name,) for name in sorted(set(names)) if name]


def changes(book: Book) -> list[Part]:
    """What the commands changed, as it is written: parents before children."""
    new_holds = [book.holds[name] for name in sorted(book.new_holds)]
    changed_holds = [book.holds[name] for name in sorted(book.changed_holds)]
    accounts = [book.accounts[name] for name in sorted(book.changed_accounts)]
    return [
        (_INSERT_HOLDS, [rows.hold_record(hold) for hold in new_holds]),
        (_INSERT_TRANSFERS, [rows.transfer_record(transfer) for transfer in book.new_transfers]),
        (_INSERT_POSTINGS, [rows.posting_record(posting) for posting in book.new_postings]),
        (_UPDATE_ACCOUNTS, [rows.account_change(account) for account in accounts]),
        (_UPDATE_HOLDS, [rows.hold_change(hold) for hold in changed_holds]),
        (_INSERT_ATTEMPTS, [rows.attempt_record(attempt) for attempt in book.new_attempts]),
        (_INSERT_RECEIPTS, [rows.receipt_record(receipt) for receipt in book.new_receipts]),
        (_INSERT_LOTS, [rows.lot_record(book.lots[name]) for name in sorted(book.new_lots)]),
        (_UPDATE_LOTS, [(name, book.lots[name].remaining_nano_usd) for name in sorted(book.changed_lots)]),
        (_INSERT_CORRECTIONS, [rows.correction_record(made) for made in book.new_corrections]),
        (_INSERT_CAPS, [rows.cap_record(cap) for cap in book.new_caps]),
        (_INSERT_BUCKETS, [rows.bucket_record(book.buckets[name]) for name in sorted(book.new_buckets)]),
        (_UPDATE_BUCKETS, [rows.bucket_change(book.buckets[name]) for name in sorted(book.changed_buckets)]),
        (_INSERT_ENTRIES, [rows.entry_record(entry) for entry in book.new_entries]),
    ]
