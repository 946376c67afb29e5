"""Rules of payments, as queries for what breaks them."""

from __future__ import annotations

from sqlalchemy import Select, and_, case, func, literal, select

from ledger_svc.domain.accounts import AccountKind
from ledger_svc.store.tables import ACCOUNT, PAYMENT, TRANSFER

_IS_CREDITED = PAYMENT.c.state.in_(["paid", "refunded"])


def _clearing_unlike_payments() -> Select[tuple[str, int, int]]:
    """What a provider took in, less what of it was taken from the credit again."""
    kept = PAYMENT.c.amount_nano_usd - PAYMENT.c.returned_nano_usd + PAYMENT.c.uncovered_nano_usd
    brought = func.coalesce(func.sum(case((_IS_CREDITED, kept), else_=0)), 0)
    return (
        select(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd, brought.label("payments"))
        .select_from(ACCOUNT.outerjoin(PAYMENT, PAYMENT.c.org_id == ACCOUNT.c.org_id))
        .where(ACCOUNT.c.kind == AccountKind.PROVIDER_CLEARING.value)
        .group_by(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd)
        .having(brought != -ACCOUNT.c.posted_nano_usd)
    )


def _payments_unlike_credits() -> Select[tuple[str, str, str | None]]:
    its_credit = and_(
        TRANSFER.c.org_id == PAYMENT.c.org_id,
        TRANSFER.c.idem_key == literal("credit:payment:").concat(PAYMENT.c.payment_id),
    )
    return (
        select(PAYMENT.c.payment_id, PAYMENT.c.state, TRANSFER.c.transfer_id)
        .select_from(PAYMENT.outerjoin(TRANSFER, its_credit))
        .where(TRANSFER.c.transfer_id.is_(None) == _IS_CREDITED)
    )


PAYMENT_RULES: dict[str, Select[*tuple[object, ...]]] = {
    "the clearing account has what payments brought": _clearing_unlike_payments(),
    "a payment is credited if and only if it was paid": _payments_unlike_credits(),
}
"""By rule: the rows that break it; the first column names the row."""
