"""Fills the books with history, made by the database from one real settlement, much faster than by settling.

The copies are in shape and size what a settlement leaves: a hold, its attempt, a transfer, two postings, a receipt.
They are of an organisation of their own and are not meant to pass the audit.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from ledger_svc.store.opening import open_database
from ledger_svc.store.tables import ATTEMPT, POSTING, RECEIPT, RESERVATION, TRANSFER

_IDS = {"hold_id", "request_id", "receipt_id", "transfer_id", "idem_key"}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(n) AS (SELECT :low UNION ALL SELECT n + 1 FROM n WHERE n < :high)",
    "postgresql": "WITH n AS (SELECT generate_series(CAST(:low AS bigint), CAST(:high AS bigint)) AS n)",
}


async def fill(url: str, receipts: int) -> None:
    """Adds copies until there are about so many receipts."""
    database = open_database(url, connections=1, wait_s=30)
    try:
        at_once = 50_000
        for low in range(await database.read(_count), receipts, at_once):
            high = min(low + at_once, receipts) - 1
            await database.write(lambda connection, low=low, high=high: _copy(connection, low, high))  # type: ignore[misc]
        await database.read(lambda connection: connection.execute(text("ANALYZE")))
    finally:
        await database.close()


def _count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM receipt")).scalar_one())


def _copy(connection: Connection, low: int, high: int) -> None:
    numbers = _NUMBERS[connection.dialect.name]
    hold_id, transfer_id = connection.execute(text("SELECT hold_id, transfer_id FROM receipt LIMIT 1")).one()
    originals = {
        RESERVATION: f"hold_id = '{hold_id}'",
        TRANSFER: f"transfer_id = '{transfer_id}'",
        POSTING: f"transfer_id = '{transfer_id}'",
        ATTEMPT: f"hold_id = '{hold_id}'",
        RECEIPT: f"transfer_id = '{transfer_id}'",
    }
    for table, original in originals.items():
        names = [column.name for column in table.columns]
        values = [f"t.{name} || '-' || n.n" if name in _IDS else f"t.{name}" for name in names]
        if table is POSTING:
            values[names.index("account_version")] = "1000000000 + n.n"
        # Joined to the rows of one settlement, so that nothing reads what it writes.
        connection.execute(
            text(
                f"{numbers} INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)} "
                f"FROM n CROSS JOIN (SELECT * FROM {table.name} WHERE {original}) AS t"
            ),
            {"low": low, "high": high},
        )
