"""Reading: balances, credit lots, caps, receipts, what is due."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, and_, func, select, tuple_

from ledger_svc.domain import receipts
from ledger_svc.domain.accounts import SPENDABLE, AccountKind, Balance
from ledger_svc.domain.caps import Bucket, Cap, period_start_ms
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.lots import CreditLot, spending_order
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.ports import Due
from ledger_svc.store import rows
from ledger_svc.store.database import Database
from ledger_svc.store.rollup import roll_up
from ledger_svc.store.tables import ACCOUNT, CAP, CAP_BUCKET, CORRECTION, CREDIT_LOT, RECEIPT, RESERVATION


class Records:
    """Implements ``ports.Records``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def balance(self, org_id: str) -> Balance:
        """Raises:
        NotFound: no such organisation.
        """
        open_holds = (
            select(func.count())
            .select_from(RESERVATION)
            .where(RESERVATION.c.org_id == org_id, RESERVATION.c.state == "open")
            .scalar_subquery()
        )
        query = select(ACCOUNT.c.posted_nano_usd, ACCOUNT.c.reserved_nano_usd, open_holds.label("open_holds")).where(
            ACCOUNT.c.org_id == org_id, ACCOUNT.c.kind.in_([kind.value for kind in SPENDABLE])
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        if not found:
            raise NotFound(f"no organisation {org_id}")
        posted, held = sum(row.posted_nano_usd for row in found), sum(row.reserved_nano_usd for row in found)
        return Balance(org_id, posted, held, found[0].open_holds)

    async def receipts(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Receipt]:
        """At most ``limit`` receipts, newest first; ``before``: those older than this (created_at_ms, receipt_id)."""
        order = (RECEIPT.c.created_at_ms, RECEIPT.c.receipt_id)
        query = select(RECEIPT.c.document).where(RECEIPT.c.org_id == org_id)
        if before is not None:
            query = query.where(tuple_(*order) < before)
        query = query.order_by(*(column.desc() for column in order)).limit(limit)
        found = await self._database.read(lambda connection: connection.scalars(query).all())
        return [receipts.decode(document) for document in found]

    async def due_holds(self, now_ms: int, *, limit: int, after: Due | None = None) -> list[Due]:
        """At most ``limit`` open holds whose time has passed, the longest overdue first; ``after``: behind this."""
        order = (RESERVATION.c.expires_at_ms, RESERVATION.c.hold_id)
        query = (
            select(*order, RESERVATION.c.org_id, RESERVATION.c.request_id)
            .where(RESERVATION.c.state == "open", RESERVATION.c.expires_at_ms <= now_ms)
            .order_by(*order)
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(*order) > (after.expires_at_ms, after.hold_id))
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [Due(*row) for row in found]

    async def due_credit(self, now_ms: int, *, limit: int) -> list[str]:
        """At most ``limit`` organisations with expired credit that no open hold counts on."""
        is_over = and_(
            CREDIT_LOT.c.remaining_nano_usd > 0,
            CREDIT_LOT.c.expires_at_ms.between(1, now_ms),
        )
        free = ACCOUNT.c.posted_nano_usd - ACCOUNT.c.reserved_nano_usd > ACCOUNT.c.hard_floor_nano_usd
        same = and_(ACCOUNT.c.org_id == CREDIT_LOT.c.org_id, ACCOUNT.c.kind == CREDIT_LOT.c.kind)
        query = (
            select(CREDIT_LOT.c.org_id)
            .distinct()
            .select_from(CREDIT_LOT.join(ACCOUNT, same))
            .where(is_over, free)
            .limit(limit)
        )
        return list(await self._database.read(lambda connection: connection.scalars(query).all()))

    async def caps(self, org_id: str, now_ms: int, *, scope_id: str = "") -> list[tuple[Cap, Bucket]]:
        """The caps of an organisation and of what it has, or of one of these, cleared ones too, each with what counts
        for it now.
        """
        query = select(CAP).where(CAP.c.org_id == org_id).order_by(CAP.c.revision)
        if scope_id:
            query = query.where(CAP.c.scope_id == scope_id)

        def read(connection: Connection) -> list[tuple[Cap, Bucket]]:
            newest: dict[tuple[str, ...], Cap] = {}
            for row in connection.execute(query):
                cap = rows.cap_from_row(row)
                newest[cap.scope, cap.scope_id, cap.period, cap.unit] = cap
            return [(cap, _bucket(connection, cap, now_ms)) for _, cap in sorted(newest.items())]

        return await self._database.read(read)

    async def bucket(self, cap: Cap, now_ms: int) -> Bucket:
        """What counts for a cap in the period of a moment."""
        return await self._database.read(lambda connection: _bucket(connection, cap, now_ms))

    async def lots(self, org_id: str) -> list[CreditLot]:
        """Credit that has something left, in the order in which it is spent."""
        query = select(CREDIT_LOT).where(CREDIT_LOT.c.org_id == org_id, CREDIT_LOT.c.remaining_nano_usd > 0)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        lots = [rows.lot_from_row(row) for row in found]
        return [lot for kind in (AccountKind.PROMO, AccountKind.CUSTOMER_CREDIT) for lot in _of(kind, lots)]

    async def corrected_nano_usd(self, receipt_id: str) -> int:
        """What was given back of a receipt's charge."""
        total = func.coalesce(func.sum(CORRECTION.c.promo_nano_usd + CORRECTION.c.paid_nano_usd), 0)
        query = select(total).where(CORRECTION.c.receipt_id == receipt_id)
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))


def _of(kind: AccountKind, lots: Iterable[CreditLot]) -> list[CreditLot]:
    return spending_order(lot for lot in lots if lot.kind is kind)


def _bucket(connection: Connection, cap: Cap, now_ms: int) -> Bucket:
    starts_at_ms = period_start_ms(cap.period, now_ms)
    query = select(CAP_BUCKET).where(
        CAP_BUCKET.c.scope_id == cap.scope_id,
        CAP_BUCKET.c.period == cap.period.value,
        CAP_BUCKET.c.unit == cap.unit.value,
        CAP_BUCKET.c.starts_at_ms == starts_at_ms,
    )
    row = connection.execute(query).one_or_none()
    return roll_up(connection, cap, starts_at_ms) if row is None else rows.bucket_from_row(row)
