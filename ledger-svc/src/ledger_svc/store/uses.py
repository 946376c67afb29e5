"""What of the log and of the failures usage is made of: single uses, in their order, and how far the sums have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Join, Select, Table, select

from ledger_svc.domain.latency import latencies_of
from ledger_svc.domain.usage import Group, Use, failed_use, latency_of, tier_of
from ledger_svc.store.tables import FAILED_REQUEST, LOG_LEAF, RECEIPT, RESERVATION, USAGE_CURSOR

USED = (
    *(RECEIPT.c.org_id, RECEIPT.c.project_id, RECEIPT.c.key_id, RECEIPT.c.model, RECEIPT.c.source_id),
    *(RECEIPT.c.served_mode, RECEIPT.c.charged_nano_usd, RECEIPT.c.saved_nano_usd, RECEIPT.c.absorbed_nano_usd),
    *(RECEIPT.c.created_at_ms, RECEIPT.c.document, RESERVATION.c.created_at_ms.label("held_at_ms")),
)
"""What a receipt's use is made of."""


def with_receipt(table: Table, receipt_id: Column[Any]) -> Join:
    """Its rows, with the receipts and holds that they name. One after the other: SQLite makes up a table of a join in
    an outer join.
    """
    return table.outerjoin(RECEIPT, RECEIPT.c.receipt_id == receipt_id).outerjoin(
        RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id
    )


LEAVES = with_receipt(LOG_LEAF, LOG_LEAF.c.entry_id)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The first leaf and the first failure that the sums do not have."""

    next_leaf: int
    next_failure: int


def cursor_of(connection: Connection) -> Cursor:
    """As it stands."""
    row = connection.execute(select(USAGE_CURSOR.c.next_leaf, USAGE_CURSOR.c.next_failure)).one()
    return Cursor(*row)


def failures_from(cursor: Cursor) -> Select[Any]:
    """Those that the sums do not have, in their order."""
    return (
        select(FAILED_REQUEST).where(FAILED_REQUEST.c.ordinal >= cursor.next_failure).order_by(FAILED_REQUEST.c.ordinal)
    )


def use_of(row: Any) -> Use:
    """Of a row with ``USED``."""
    document = orjson.loads(row.document)
    used = document["usage"]
    return Use(
        row.org_id,
        Group(
            row.project_id,
            row.key_id,
            row.model,
            row.source_id,
            tier_of(document["price"]["tier"], document["requested_model"]),
            row.served_mode,
        ),
        row.created_at_ms,
        tuple(document.get("tags", {}).items()),
        (
            *(1, 0, used["input_tokens"], used["cached_input_tokens"], used["cache_write_tokens"]),
            *(used["output_tokens"], used["reasoning_tokens"]),
            *(row.charged_nano_usd, row.saved_nano_usd, row.absorbed_nano_usd),
        ),
        latencies_of(latency_of(row.created_at_ms, document.get("started_at_ms", 0), row.held_at_ms)),
    )


def failed_use_of(row: Any) -> Use:
    """Of a row of failed_request."""
    tags = tuple(orjson.loads(row.tags).items())
    return failed_use(row.org_id, row.project_id, row.key_id, row.model, at_ms=row.at_ms, tags=tags)
