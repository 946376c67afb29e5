"""What the books say of a period, of a receipt: sums that are made up when something first asks for them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from ledger_svc.domain.accounts import AccountKind
from ledger_svc.domain.caps import Bucket, Cap, CapScope, CapUnit, opening, period_end_ms
from ledger_svc.domain.corrections import SettledReceipt
from ledger_svc.store.tables import ACCOUNT, POSTING, RECEIPT, RESERVATION

SCOPE_COLUMNS = {
    CapScope.KEY: RESERVATION.c.key_id,
    CapScope.PROJECT: RESERVATION.c.project_id,
    CapScope.ORGANIZATION: RESERVATION.c.org_id,
}
"""Whose hold it is, for each kind of cap."""
HELD = {CapUnit.USD: RESERVATION.c.amount_nano_usd, CapUnit.TOKENS: RESERVATION.c.amount_tokens}
SPENT = {CapUnit.USD: RECEIPT.c.charged_nano_usd, CapUnit.TOKENS: RECEIPT.c.tokens}


def roll_up(connection: Connection, cap: Cap, starts_at_ms: int) -> Bucket:
    """The bucket of a cap, made up from open holds and receipts. A receipt is never older than its hold, so those from
    before the period need not be read.
    """
    ends_at_ms = period_end_ms(cap.period, starts_at_ms)
    of_scope = and_(
        RESERVATION.c.org_id == cap.org_id,
        SCOPE_COLUMNS[cap.scope] == cap.scope_id,
        RESERVATION.c.created_at_ms >= starts_at_ms,
        RESERVATION.c.created_at_ms < ends_at_ms,
    )
    reserved = select(func.coalesce(func.sum(HELD[cap.unit]), 0)).where(of_scope, RESERVATION.c.state == "open")
    spent = (
        select(func.coalesce(func.sum(SPENT[cap.unit]), 0))
        .select_from(RECEIPT.join(RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id))
        .where(RECEIPT.c.org_id == cap.org_id, RECEIPT.c.created_at_ms >= starts_at_ms, of_scope)
    )
    return opening(
        cap,
        starts_at_ms,
        spent=int(connection.execute(spent).scalar_one()),
        reserved=int(connection.execute(reserved).scalar_one()),
    )


def settled_receipt(connection: Connection, receipt_id: str) -> SettledReceipt | None:
    """Which credit paid a receipt, without what was given back of it."""

    def paid_from(kind: AccountKind) -> ColumnElement[Any]:
        amount = case((ACCOUNT.c.kind == kind.value, -POSTING.c.amount_nano_usd), else_=0)
        return func.coalesce(func.sum(amount), 0)

    query = (
        select(RECEIPT.c.org_id, paid_from(AccountKind.PROMO), paid_from(AccountKind.CUSTOMER_CREDIT))
        .select_from(
            RECEIPT.outerjoin(POSTING, POSTING.c.transfer_id == RECEIPT.c.transfer_id).outerjoin(
                ACCOUNT, ACCOUNT.c.account_id == POSTING.c.account_id
            )
        )
        .where(RECEIPT.c.receipt_id == receipt_id)
        .group_by(RECEIPT.c.org_id)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else SettledReceipt(receipt_id, row[0], int(row[1]), int(row[2]))
