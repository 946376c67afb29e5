"""Reading: balances, receipts, holds that are due."""

from __future__ import annotations

from sqlalchemy import func, select, tuple_

from ledger_svc.domain import receipts
from ledger_svc.domain.accounts import SPENDABLE, Balance
from ledger_svc.domain.book import Name
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.receipts import Receipt
from ledger_svc.store.database import Database
from ledger_svc.store.tables import ACCOUNT, RECEIPT, RESERVATION


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

    async def due_holds(self, now_ms: int, *, limit: int) -> list[Name]:
        """(org_id, request_id) of at most ``limit`` open holds whose time has passed, the longest overdue first."""
        query = (
            select(RESERVATION.c.org_id, RESERVATION.c.request_id)
            .where(RESERVATION.c.state == "open", RESERVATION.c.expires_at_ms <= now_ms)
            .order_by(RESERVATION.c.expires_at_ms)
            .limit(limit)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [(row.org_id, row.request_id) for row in found]
