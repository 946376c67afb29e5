"""Checks the books against what must always hold, reading only. Says where each rule is broken first.

The rules do not trust the writer: they compare balances with postings, holds with reserved amounts, receipts with both,
and rebuild the log from the receipts and the audit trail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, Select, and_, case, func, literal, or_, select
from sqlalchemy.sql.elements import ColumnElement

from ledger_svc.domain.accounts import SPENDABLE, AccountKind
from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.store import rows
from ledger_svc.store.cap_audit import CAP_RULES
from ledger_svc.store.credit_audit import CREDIT_RULES
from ledger_svc.store.database import Database
from ledger_svc.store.hold_audit import HOLD_RULES
from ledger_svc.store.log_audit import log_findings
from ledger_svc.store.payment_audit import PAYMENT_RULES
from ledger_svc.store.receipt_audit import decoded
from ledger_svc.store.secret_audit import SECRET_RULES
from ledger_svc.store.tables import ACCOUNT, LOG_LEAF, POSTING, RECEIPT, RESERVATION, TRANSFER
from ledger_svc.store.trail_audit import TRAIL_RULES, entries_unlike_their_columns
from ledger_svc.store.usage_audit import sums_unlike_receipts

MAX_VIOLATIONS_PER_RULE = 10
_RECEIPTS_AT_ONCE = 500
_SPENDABLE = [kind.value for kind in SPENDABLE]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule, the row that breaks it first, and how."""

    rule: str
    where: str
    detail: str


async def audit(database: Database) -> list[Violation]:
    """Everything that is wrong, on one state of the database; at most ``MAX_VIOLATIONS_PER_RULE`` for each rule."""
    return await database.snapshot(find_violations)


def find_violations(connection: Connection) -> list[Violation]:
    """See ``audit``. The connection must be in a transaction that sees one state."""
    found: list[Violation] = []
    for rule, query in RULES.items():
        for row in connection.execute(query.limit(MAX_VIOLATIONS_PER_RULE)):
            where, *facts = row._mapping.items()
            found.append(Violation(rule, str(where[1]), ", ".join(f"{name} {value}" for name, value in facts)))
    found.extend(islice(receipts_unlike_their_columns(connection), MAX_VIOLATIONS_PER_RULE))
    found.extend(
        islice((Violation(*finding) for finding in entries_unlike_their_columns(connection)), MAX_VIOLATIONS_PER_RULE)
    )
    found.extend(islice((Violation(*finding) for finding in sums_unlike_receipts(connection)), MAX_VIOLATIONS_PER_RULE))
    found.extend(islice((Violation(*finding) for finding in log_findings(connection)), MAX_VIOLATIONS_PER_RULE))
    return found


def _unbalanced_transfers() -> Select[tuple[str, int]]:
    total = func.sum(POSTING.c.amount_nano_usd)
    return select(POSTING.c.transfer_id, total.label("sum")).group_by(POSTING.c.transfer_id).having(total != 0)


def _broken_chains() -> Select[tuple[str, int, int, int]]:
    account, version = POSTING.c.account_id, POSTING.c.account_version
    before = func.lag(POSTING.c.balance_after_nano_usd, 1, 0).over(partition_by=account, order_by=version)
    link = select(
        account,
        version,
        POSTING.c.balance_after_nano_usd,
        func.row_number().over(partition_by=account, order_by=version).label("expected_version"),
        (before + POSTING.c.amount_nano_usd).label("expected"),
    ).subquery()
    return (
        select(link.c.account_id, link.c.account_version, link.c.balance_after_nano_usd, link.c.expected)
        .where(or_(link.c.account_version != link.c.expected_version, link.c.balance_after_nano_usd != link.c.expected))
        .order_by(link.c.account_id, link.c.account_version)
    )


def _balances_unlike_postings() -> Select[tuple[str, int, int]]:
    total, count = func.coalesce(func.sum(POSTING.c.amount_nano_usd), 0), func.count(POSTING.c.transfer_id)
    return (
        select(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd, total.label("postings"))
        .select_from(ACCOUNT.outerjoin(POSTING, POSTING.c.account_id == ACCOUNT.c.account_id))
        .group_by(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd, ACCOUNT.c.version)
        .having(or_(ACCOUNT.c.posted_nano_usd != total, ACCOUNT.c.version != count))
    )


def _reserved_unlike_holds() -> Select[tuple[str, int, int]]:
    held_here: ColumnElement[int] = case(
        (ACCOUNT.c.kind == AccountKind.PROMO.value, RESERVATION.c.from_promo_nano_usd),
        (ACCOUNT.c.kind == AccountKind.CUSTOMER_CREDIT.value, RESERVATION.c.from_paid_nano_usd),
        else_=0,
    )
    held = func.coalesce(func.sum(held_here), 0)
    is_open = and_(RESERVATION.c.org_id == ACCOUNT.c.org_id, RESERVATION.c.state == "open")
    return (
        select(ACCOUNT.c.account_id, ACCOUNT.c.reserved_nano_usd, held.label("open_holds"))
        .select_from(ACCOUNT.outerjoin(RESERVATION, is_open))
        .group_by(ACCOUNT.c.account_id, ACCOUNT.c.reserved_nano_usd)
        .having(ACCOUNT.c.reserved_nano_usd != held)
    )


def _overspent_accounts() -> Select[tuple[str, int, int]]:
    return select(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd, ACCOUNT.c.reserved_nano_usd).where(
        ACCOUNT.c.kind.in_(_SPENDABLE),
        ACCOUNT.c.posted_nano_usd - ACCOUNT.c.reserved_nano_usd < ACCOUNT.c.hard_floor_nano_usd,
    )


def _holds_unlike_receipts() -> Select[tuple[str, str, str | None]]:
    """Settled: one receipt. Expired: one or none, and none once released. Open or released: none."""
    has_receipt = RECEIPT.c.receipt_id.is_not(None)
    return (
        select(RESERVATION.c.hold_id, RESERVATION.c.state, RECEIPT.c.receipt_id)
        .select_from(RESERVATION.outerjoin(RECEIPT, RECEIPT.c.hold_id == RESERVATION.c.hold_id))
        .where(
            or_(
                and_(RESERVATION.c.state == "settled", ~has_receipt),
                and_(or_(RESERVATION.c.state == "open", RESERVATION.c.released_at_ms > 0), has_receipt),
                and_(RESERVATION.c.state == "released", RESERVATION.c.released_at_ms == 0),
                (RESERVATION.c.state == "open") != (RESERVATION.c.closed_at_ms == 0),
            )
        )
    )


def _receipts_unlike_postings() -> Select[tuple[str, int, int, int, int]]:
    def posted(*kinds: AccountKind) -> ColumnElement[int]:
        return func.coalesce(
            func.sum(case((ACCOUNT.c.kind.in_([k.value for k in kinds]), POSTING.c.amount_nano_usd), else_=0)), 0
        )

    charged, absorbed = -posted(*SPENDABLE), -posted(AccountKind.PLATFORM_LOSS)
    postings = POSTING.join(ACCOUNT, ACCOUNT.c.account_id == POSTING.c.account_id)
    return (
        select(
            RECEIPT.c.receipt_id,
            RECEIPT.c.charged_nano_usd,
            charged.label("posted"),
            RECEIPT.c.absorbed_nano_usd,
            absorbed.label("lost"),
        )
        .select_from(RECEIPT.outerjoin(postings, POSTING.c.transfer_id == RECEIPT.c.transfer_id))
        .group_by(RECEIPT.c.receipt_id, RECEIPT.c.charged_nano_usd, RECEIPT.c.absorbed_nano_usd)
        .having(or_(RECEIPT.c.charged_nano_usd != charged, RECEIPT.c.absorbed_nano_usd != absorbed))
    )


def _settlements_without_receipt() -> Select[tuple[str, str]]:
    return (
        select(TRANSFER.c.transfer_id, literal("no receipt").label("has"))
        .select_from(TRANSFER.outerjoin(RECEIPT, RECEIPT.c.transfer_id == TRANSFER.c.transfer_id))
        .where(TRANSFER.c.kind == "settlement", RECEIPT.c.receipt_id.is_(None))
    )


def _receipts_without_leaf() -> Select[tuple[str, str]]:
    return (
        select(RECEIPT.c.receipt_id, literal("no leaf").label("has"))
        .select_from(RECEIPT.outerjoin(LOG_LEAF, LOG_LEAF.c.entry_id == RECEIPT.c.receipt_id))
        .where(LOG_LEAF.c.leaf_index.is_(None))
    )


RULES: dict[str, Select[*tuple[object, ...]]] = {
    "the postings of a transfer sum to 0": _unbalanced_transfers(),
    "an account's versions and balances chain without a gap": _broken_chains(),
    "posted is the sum of the postings, and version their number": _balances_unlike_postings(),
    "reserved is the sum of the open holds": _reserved_unlike_holds(),
    "a customer's account is never below its floor": _overspent_accounts(),
    "a hold has a receipt if and only if it was settled": _holds_unlike_receipts(),
    "a receipt says what was posted": _receipts_unlike_postings(),
    "a settlement has a receipt": _settlements_without_receipt(),
    "a receipt has a leaf in the log": _receipts_without_leaf(),
    **HOLD_RULES,
    **CREDIT_RULES,
    **PAYMENT_RULES,
    **CAP_RULES,
    **TRAIL_RULES,
    **SECRET_RULES,
}
"""By rule a query for the rows that break it. The first column names a row, the others say how."""

COLUMNS = "a receipt's columns say what its document says"


def receipts_unlike_their_columns(connection: Connection) -> Iterator[Violation]:
    """Everything that is wrong, in the order of the ids."""
    after = ""
    while True:
        query = select(RECEIPT).where(RECEIPT.c.receipt_id > after).order_by(RECEIPT.c.receipt_id)
        page = connection.execute(query.limit(_RECEIPTS_AT_ONCE)).all()
        for row in page:
            receipt = decoded(row.document)
            if receipt is None:
                yield Violation(COLUMNS, row.receipt_id, "document is not a receipt's")
                continue
            expected = rows.receipt_record(ReceiptEntry(receipt, row.transfer_id, row.fingerprint))
            for (name, value), right in zip(row._mapping.items(), expected, strict=True):
                if value != right:
                    yield Violation(COLUMNS, row.receipt_id, f"{name} is {value!r}, expected {right!r}")
        if len(page) < _RECEIPTS_AT_ONCE:
            return
        after = page[-1].receipt_id
