"""Rules of credit lots and corrections, as queries for what breaks them."""

from __future__ import annotations

from sqlalchemy import Select, and_, case, func, or_, select

from ledger_svc.domain.accounts import SPENDABLE, AccountKind
from ledger_svc.store.tables import ACCOUNT, CORRECTION, CREDIT_LOT, POSTING, RECEIPT

_SPENDABLE = [kind.value for kind in SPENDABLE]


def _accounts_unlike_lots() -> Select[tuple[str, int, int]]:
    left = func.coalesce(func.sum(CREDIT_LOT.c.remaining_nano_usd), 0)
    same = and_(CREDIT_LOT.c.org_id == ACCOUNT.c.org_id, CREDIT_LOT.c.kind == ACCOUNT.c.kind)
    posted = case((ACCOUNT.c.posted_nano_usd > 0, ACCOUNT.c.posted_nano_usd), else_=0)
    return (
        select(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd, left.label("in_lots"))
        .select_from(ACCOUNT.outerjoin(CREDIT_LOT, same))
        .where(ACCOUNT.c.kind.in_(_SPENDABLE))
        .group_by(ACCOUNT.c.account_id, ACCOUNT.c.posted_nano_usd)
        .having(left != posted)
    )


def _lots_unlike_postings() -> Select[tuple[str, int, int | None]]:
    """A lot is as large as what its transfer posted to its account."""
    same = and_(ACCOUNT.c.org_id == CREDIT_LOT.c.org_id, ACCOUNT.c.kind == CREDIT_LOT.c.kind)
    came_in = and_(POSTING.c.transfer_id == CREDIT_LOT.c.transfer_id, POSTING.c.account_id == ACCOUNT.c.account_id)
    return (
        select(CREDIT_LOT.c.lot_id, CREDIT_LOT.c.granted_nano_usd, POSTING.c.amount_nano_usd)
        .select_from(CREDIT_LOT.outerjoin(ACCOUNT, same).outerjoin(POSTING, came_in))
        .where(or_(POSTING.c.amount_nano_usd.is_(None), POSTING.c.amount_nano_usd != CREDIT_LOT.c.granted_nano_usd))
    )


def _receipts_given_back_twice() -> Select[tuple[str, int, int]]:
    given_back = func.sum(CORRECTION.c.promo_nano_usd + CORRECTION.c.paid_nano_usd)
    return (
        select(RECEIPT.c.receipt_id, RECEIPT.c.charged_nano_usd, given_back.label("given_back"))
        .select_from(RECEIPT.join(CORRECTION, CORRECTION.c.receipt_id == RECEIPT.c.receipt_id))
        .group_by(RECEIPT.c.receipt_id, RECEIPT.c.charged_nano_usd)
        .having(given_back > RECEIPT.c.charged_nano_usd)
    )


def _corrections_unlike_postings() -> Select[tuple[str, int, int]]:
    taken = func.coalesce(
        func.sum(case((ACCOUNT.c.kind == AccountKind.REVENUE.value, -POSTING.c.amount_nano_usd), else_=0)), 0
    )
    amount = CORRECTION.c.promo_nano_usd + CORRECTION.c.paid_nano_usd
    postings = POSTING.join(ACCOUNT, ACCOUNT.c.account_id == POSTING.c.account_id)
    return (
        select(CORRECTION.c.transfer_id, amount.label("correction"), taken.label("posted"))
        .select_from(CORRECTION.outerjoin(postings, POSTING.c.transfer_id == CORRECTION.c.transfer_id))
        .group_by(CORRECTION.c.transfer_id, CORRECTION.c.promo_nano_usd, CORRECTION.c.paid_nano_usd)
        .having(taken != amount)
    )


CREDIT_RULES: dict[str, Select[*tuple[object, ...]]] = {
    "what a customer's account has is what is left of its credit lots": _accounts_unlike_lots(),
    "a credit lot is what its transfer brought": _lots_unlike_postings(),
    "no more of a charge is given back than was charged": _receipts_given_back_twice(),
    "a correction says what was posted": _corrections_unlike_postings(),
}
"""By rule: the rows that break it; the first column names the row."""
