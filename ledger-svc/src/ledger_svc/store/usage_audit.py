"""What must always hold of the sums of usage: up to their cursor they are those of the receipts and the failures.

One organisation's day after another is summed up anew, so that memory is bounded by the largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, func, select

from ledger_svc.domain.usage import DAY_MS, Use, sum_up
from ledger_svc.store.log_audit import Finding
from ledger_svc.store.tables import (
    FAILED_REQUEST,
    LOG_HEAD,
    LOG_LEAF,
    ORG,
    RECEIPT,
    RESERVATION,
    USAGE_CURSOR,
    USAGE_SUM,
)
from ledger_svc.store.usage import record_of
from ledger_svc.store.uses import USED, failed_use_of, use_of

SUMMED = "usage is the sum of the receipts and the failures"

_NAMES = [column.name for column in USAGE_SUM.columns]
_TIMES = (
    (RECEIPT, RECEIPT.c.created_at_ms),
    (FAILED_REQUEST, FAILED_REQUEST.c.at_ms),
)


def sums_unlike_receipts(connection: Connection) -> Iterator[Finding]:
    """Everything that is wrong, by organisation and day."""
    cursor = connection.execute(select(USAGE_CURSOR)).one_or_none()
    if cursor is None:
        yield SUMMED, "usage_cursor", "is not there"
        return
    size = connection.execute(select(LOG_HEAD.c.size)).scalar_one_or_none() or 0
    if cursor.next_leaf > size:
        yield SUMMED, "usage_cursor", f"is at leaf {cursor.next_leaf} of {size}"
    for org_id in connection.scalars(select(ORG.c.org_id).order_by(ORG.c.org_id)).all():
        day_ms = _next_day(connection, org_id, 0)
        while day_ms is not None:
            yield from _of_day(connection, cursor, org_id, day_ms)
            day_ms = _next_day(connection, org_id, day_ms + DAY_MS)


def _next_day(connection: Connection, org_id: str, from_ms: int) -> int | None:
    """The first day from then on that has anything."""
    found = [
        connection.execute(select(func.min(at_ms)).where(table.c.org_id == org_id, at_ms >= from_ms)).scalar_one()
        for table, at_ms in _TIMES
    ]
    # No index is by organisation and start alone, but there are as many tags as there are.
    sums = select(func.min(USAGE_SUM.c.starts_at_ms)).where(
        USAGE_SUM.c.org_id == org_id, USAGE_SUM.c.starts_at_ms >= from_ms
    )
    first = [moment for moment in (*found, connection.execute(sums).scalar_one()) if moment is not None]
    return min(first) // DAY_MS * DAY_MS if first else None


def _of_day(connection: Connection, cursor: Any, org_id: str, day_ms: int) -> Iterator[Finding]:
    expected = {
        tuple(record[:5]): tuple(record)
        for record in (
            record_of(name, sums) for name, sums in sum_up(_uses(connection, cursor, org_id, day_ms)).items()
        )
    }
    within = (USAGE_SUM.c.starts_at_ms >= day_ms, USAGE_SUM.c.starts_at_ms < day_ms + DAY_MS)
    for row in connection.execute(select(USAGE_SUM).where(USAGE_SUM.c.org_id == org_id, *within)):
        right = expected.pop(tuple(row[:5]), None)
        where = "/".join(map(str, row[:5]))
        if right is None:
            yield SUMMED, where, "no receipt and no failure is of it"
            continue
        for name, value, should in zip(_NAMES, row, right, strict=True):
            if value != should:
                yield SUMMED, where, f"{name} is {value!r}, expected {should!r}"
    for key in expected:
        yield SUMMED, "/".join(map(str, key)), "is not there"


def _uses(connection: Connection, cursor: Any, org_id: str, day_ms: int) -> Iterator[Use]:
    receipts = (
        select(*USED)
        .select_from(
            RECEIPT.join(RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id).join(
                LOG_LEAF, LOG_LEAF.c.entry_id == RECEIPT.c.receipt_id
            )
        )
        .where(
            RECEIPT.c.org_id == org_id,
            RECEIPT.c.created_at_ms >= day_ms,
            RECEIPT.c.created_at_ms < day_ms + DAY_MS,
            LOG_LEAF.c.leaf_index < cursor.next_leaf,
        )
    )
    for row in connection.execute(receipts):
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # no receipt's document: another rule's
            yield use_of(row)
    failures = select(FAILED_REQUEST).where(
        FAILED_REQUEST.c.org_id == org_id,
        FAILED_REQUEST.c.at_ms >= day_ms,
        FAILED_REQUEST.c.at_ms < day_ms + DAY_MS,
        FAILED_REQUEST.c.ordinal < cursor.next_failure,
    )
    for row in connection.execute(failures):
        yield failed_use_of(row)
