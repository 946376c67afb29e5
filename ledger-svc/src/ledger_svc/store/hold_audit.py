"""What must always hold of reservations, and of what became of them."""

from __future__ import annotations

from sqlalchemy import Select, func, literal, or_, select

from ledger_svc.store.tables import RECEIPT, RESERVATION

IN_TIME = "a hold past its time is ended by the next sweep"


def _holds_settled_twice() -> Select[tuple[str, int]]:
    count = func.count(RECEIPT.c.receipt_id)
    return select(RECEIPT.c.hold_id, count.label("receipts")).group_by(RECEIPT.c.hold_id).having(count > 1)


def _receipts_of_other_holds() -> Select[tuple[str, str, str | None]]:
    same = ("org_id", "request_id", "project_id", "key_id")
    return (
        select(RECEIPT.c.receipt_id, RECEIPT.c.hold_id, RESERVATION.c.request_id)
        .select_from(RECEIPT.outerjoin(RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id))
        .where(
            or_(RESERVATION.c.hold_id.is_(None), *(RECEIPT.columns[name] != RESERVATION.columns[name] for name in same))
        )
    )


HOLD_RULES: dict[str, Select[*tuple[object, ...]]] = {
    "a hold is settled once": _holds_settled_twice(),
    "a receipt is of the request and the payer of its hold": _receipts_of_other_holds(),
}


def overdue_holds(before_ms: int) -> Select[tuple[str, int, int]]:
    """Open holds whose time was over at ``before_ms``, and by how much."""
    overdue = literal(before_ms) - RESERVATION.c.expires_at_ms
    return select(RESERVATION.c.hold_id, RESERVATION.c.expires_at_ms, overdue.label("overdue_ms")).where(
        RESERVATION.c.state == "open", RESERVATION.c.expires_at_ms <= before_ms
    )
