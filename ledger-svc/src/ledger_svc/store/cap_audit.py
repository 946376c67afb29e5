"""Rules of caps, as queries for what breaks them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select

from ledger_svc.domain.caps import CapScope, CapUnit
from ledger_svc.store.rollup import HELD, SCOPE_COLUMNS, SPENT
from ledger_svc.store.tables import CAP, CAP_BUCKET, RECEIPT, RESERVATION


def _of_bucket() -> ColumnElement[bool]:
    """The holds of a bucket: of its scope, made in its period."""
    return and_(
        RESERVATION.c.org_id == CAP_BUCKET.c.org_id,
        or_(*(SCOPE_COLUMNS[kind] == CAP_BUCKET.c.scope_id for kind in CapScope)),
        RESERVATION.c.created_at_ms >= CAP_BUCKET.c.starts_at_ms,
        RESERVATION.c.created_at_ms < CAP_BUCKET.c.ends_at_ms,
    )


def _buckets_unlike_books(unit: CapUnit) -> Select[tuple[str, int, int, int, int, int]]:
    held: ColumnElement[Any] = func.coalesce(func.sum(case((RESERVATION.c.state == "open", HELD[unit]), else_=0)), 0)
    spent: ColumnElement[Any] = func.coalesce(func.sum(SPENT[unit]), 0)
    books = CAP_BUCKET.outerjoin(RESERVATION, _of_bucket()).outerjoin(
        RECEIPT, RECEIPT.c.hold_id == RESERVATION.c.hold_id
    )
    key = (CAP_BUCKET.c.scope_id, CAP_BUCKET.c.period, CAP_BUCKET.c.unit, CAP_BUCKET.c.starts_at_ms)
    return (
        select(
            CAP_BUCKET.c.scope_id,
            CAP_BUCKET.c.starts_at_ms,
            CAP_BUCKET.c.spent,
            spent.label("receipts"),
            CAP_BUCKET.c.reserved,
            held.label("open_holds"),
        )
        .select_from(books)
        .where(CAP_BUCKET.c.unit == unit.value)
        .group_by(*key, CAP_BUCKET.c.spent, CAP_BUCKET.c.reserved)
        .having(or_(CAP_BUCKET.c.spent != spent, CAP_BUCKET.c.reserved != held))
    )


def _buckets_beyond_their_bound() -> Select[tuple[str, int, int, int, int]]:
    """Dollars only, see ``caps.Bucket``."""
    return select(
        CAP_BUCKET.c.scope_id,
        CAP_BUCKET.c.starts_at_ms,
        CAP_BUCKET.c.spent,
        CAP_BUCKET.c.reserved,
        CAP_BUCKET.c.bound,
    ).where(CAP_BUCKET.c.unit == CapUnit.USD.value, CAP_BUCKET.c.spent + CAP_BUCKET.c.reserved > CAP_BUCKET.c.bound)


def _revisions_with_gaps() -> Select[tuple[str, int, int]]:
    count = func.count()
    return (
        select(CAP.c.scope_id, func.max(CAP.c.revision).label("newest"), count.label("revisions"))
        .group_by(CAP.c.scope_id, CAP.c.period, CAP.c.unit)
        .having(func.max(CAP.c.revision) != count)
    )


def _buckets_without_cap() -> Select[tuple[str, str]]:
    same = and_(
        CAP.c.scope_id == CAP_BUCKET.c.scope_id, CAP.c.period == CAP_BUCKET.c.period, CAP.c.unit == CAP_BUCKET.c.unit
    )
    return select(CAP_BUCKET.c.scope_id, literal("no cap").label("has")).where(
        ~select(CAP.c.revision).where(same).exists()
    )


CAP_RULES: dict[str, Select[*tuple[object, ...]]] = {
    "a bucket of dollars counts the receipts and the open holds of its period": _buckets_unlike_books(CapUnit.USD),
    "a bucket of tokens counts the receipts and the open holds of its period": _buckets_unlike_books(CapUnit.TOKENS),
    "what is spent and held in dollars never passes a cap's bound": _buckets_beyond_their_bound(),
    "the revisions of a cap have no gap": _revisions_with_gaps(),
    "a bucket has a cap": _buckets_without_cap(),
}
"""By rule: the rows that break it; the first column names the row."""
