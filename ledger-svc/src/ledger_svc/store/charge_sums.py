"""Sums over receipts, in the database. How a request was billed and what it used is in the documents alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, Connection, Row, Select, case, cast, func, literal, select
from sqlalchemy import type_coerce as as_type

from ledger_svc.domain.charge_sums import DAY_MS, ChargeSum, SumsWanted
from ledger_svc.domain.charges import ServedMode
from ledger_svc.store.database import Database
from ledger_svc.store.tables import RECEIPT
from meshkit.money import USAGE_CLASSES, BillingTier, Provenance, Usage


class ChargeSums:
    """Implements ``payment_ports.ChargeSums``: one query, which reads the receipts of the period."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sums(self, wanted: SumsWanted) -> list[ChargeSum]:
        """See ``payment_ports.ChargeSums``."""

        def read(connection: Connection) -> list[ChargeSum]:
            query = _query(wanted, postgresql=connection.dialect.name == "postgresql")
            return [_sum(row) for row in connection.execute(query)]

        return await self._database.read(read)


def _query(wanted: SumsWanted, *, postgresql: bool) -> Select[Any]:
    # A document is text: PostgreSQL must be told to parse it, SQLite's functions do so by themselves.
    document: ColumnElement[Any] = cast(RECEIPT.c.document, JSON) if postgresql else as_type(RECEIPT.c.document, JSON)
    tier = document["price", "tier"].as_string()
    used = {name: cast(document["usage", name].as_string(), BigInteger) for name in USAGE_CLASSES}
    groups: dict[str, ColumnElement[Any]] = {}
    if wanted.by_day:
        groups["day_ms"] = RECEIPT.c.created_at_ms - RECEIPT.c.created_at_ms % DAY_MS
    groups |= {
        "tier": tier,
        "alias": case((tier == "flat", document["requested_model"].as_string()), else_=literal("")),
        "is_replay": case((RECEIPT.c.served_mode == ServedMode.FRESH.value, 0), else_=1),
    }
    if wanted.by_offer:
        prompt = used["input_tokens"] + used["cached_input_tokens"] + used["cache_write_tokens"]
        above = [(prompt > threshold, threshold) for threshold in reversed(wanted.prompt_thresholds)]
        groups |= {"model": RECEIPT.c.model, "source_id": RECEIPT.c.source_id}
        groups["prompt_above"] = case(*above, else_=0) if above else literal(0)
    added = {"charged_nano_usd": RECEIPT.c.charged_nano_usd, "saved_nano_usd": RECEIPT.c.saved_nano_usd, **used}
    each = select(*(column.label(name) for name, column in (groups | added).items())).where(
        RECEIPT.c.org_id == wanted.org_id,
        RECEIPT.c.created_at_ms >= wanted.from_ms,
        RECEIPT.c.created_at_ms < wanted.to_ms,
    )
    if wanted.by_offer:  # what was free, or broke off before anything came, costs nothing at any price
        each = each.where(RECEIPT.c.charged_nano_usd + RECEIPT.c.absorbed_nano_usd > 0)
    rows = each.subquery()
    by = [rows.c[name] for name in groups]
    totals = (func.sum(rows.c[name]).label(name) for name in added)
    return select(*by, func.count().label("requests"), *totals).group_by(*by).order_by(*by)


def _sum(row: Row[Any]) -> ChargeSum:
    found = row._mapping
    groups = {name: found[name] for name in ("day_ms", "model", "source_id", "prompt_above") if name in found}
    return ChargeSum(
        tier=BillingTier[row.tier.upper()],
        alias=row.alias,
        is_replay=bool(row.is_replay),
        requests=row.requests,
        charged_nano_usd=int(row.charged_nano_usd),
        saved_nano_usd=int(row.saved_nano_usd),
        usage=Usage(**{name: int(found[name]) for name in USAGE_CLASSES}, provenance=Provenance.NONE),
        **groups,
    )
