"""How long a question about usage takes: 30 days, by each group, over a million receipts.

The receipts are copies of one, spread over 30 days, 3 projects, 12 keys with two models each, replays and 5 tags. They
are made by the database, and taken into the sums as the ledger takes them. Ends with one line of JSON: of each question
the median time and the median CPU of this process, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, text

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.charges import ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.domain.usage import DAY_MS, Dimension, Question
from ledger_svc.service.usage import UsageFolding
from ledger_svc.store import rows
from ledger_svc.store.database import Database
from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import LOG_LEAF, ORG, RECEIPT, RESERVATION, TRANSFER
from ledger_svc.store.usage import UsageSums
from ledger_svc.store.writer import Writer
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from tests.bench.ledger_spending import SEED

DAYS = 30
BEGIN_MS = 1_750_032_000_000 // DAY_MS * DAY_MS
AT_ONCE = 50_000
TIMES = 5

_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(n) AS (SELECT :low UNION ALL SELECT n + 1 FROM n WHERE n < :high)",
    "postgresql": "WITH n AS (SELECT generate_series(CAST(:low AS bigint), CAST(:high AS bigint)) AS n)",
}
_IDS = {"hold_id", "request_id", "receipt_id", "transfer_id", "idem_key"}


def _original(connection: Connection) -> None:
    price = PriceSnapshot("openai/m0", BillingTier.PASSTHROUGH, (RateTier(0, Rates(input_pico_usd=1_000_000)),))
    usage = Usage(input_tokens=100, output_tokens=20, provenance=Provenance.PROVIDER)
    facts = ChargeFacts(usage, price, ServedMode.FRESH, Outcome.COMPLETE, "m0", "m0", "openai", "m0", started_at_ms=1)
    hold = Hold("hold", "org", "prj", "key", "req", "m0", 0, 0, 0, "", 1, 2, HoldState.SETTLED, 1)
    transfer = Transfer("xfer", "org", TransferKind.SETTLEMENT, "settle:req", "", 1)
    receipt = Receipt("rcpt", "hold", "req", "org", "prj", "key", facts, 0, 100_000, 0, 0, (), 1)
    connection.execute(insert(ORG).values(org_id="org", name="Bench", created_at_ms=1))
    for table, record in (
        (RESERVATION, rows.hold_record(hold)),
        (TRANSFER, rows.transfer_record(transfer)),
        (RECEIPT, rows.receipt_record(ReceiptEntry(receipt, "xfer", ""))),
    ):
        connection.execute(insert(table).values(dict(zip([c.name for c in table.columns], record, strict=True))))


def _copy(connection: Connection, low: int, high: int, receipts: int) -> None:
    numbers = _NUMBERS[connection.dialect.name]
    at_ms = f"({BEGIN_MS} + n.n * {DAYS * DAY_MS} / {receipts})"
    made = {
        "created_at_ms": at_ms,
        "project_id": "'prj' || (n.n % 3)",
        "key_id": "'key' || (n.n % 12)",
        "model": "'m' || (n.n % 4 + CASE WHEN n.n % 11 = 0 THEN 1 ELSE 0 END)",
        "served_mode": "CASE WHEN n.n % 10 < 3 THEN 'exact' ELSE 'fresh' END",
        "document": "replace(replace(t.document, '\"started_at_ms\"\\:1', '\"started_at_ms\"\\:' || "
        f'({at_ms} - 200 - n.n * 7919 % 4000)), \'"tags"\\:{{}}\', \'"tags"\\:{{"team"\\:"t\' || (n.n % 5) || \'"}}\')',
    }
    for table, original in (
        (RESERVATION, "hold_id = 'hold'"),
        (TRANSFER, "transfer_id = 'xfer'"),
        (RECEIPT, "receipt_id = 'rcpt'"),
    ):
        names = [column.name for column in table.columns]
        values = [f"t.{name} || '-' || n.n" if name in _IDS else made.get(name, f"t.{name}") for name in names]
        statement = (
            f"{numbers} INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(values)} "
            f"FROM n CROSS JOIN (SELECT * FROM {table.name} WHERE {original}) AS t"
        )
        connection.execute(text(statement), {"low": low, "high": high})
    leaf = "SELECT n.n, 'rcpt-' || n.n, 'k', CAST('' AS {blob}), CAST('' AS {blob}) FROM n"
    blob = "bytea" if connection.dialect.name == "postgresql" else "blob"
    columns = ", ".join(column.name for column in LOG_LEAF.columns)
    connection.execute(
        text(f"{numbers} INSERT INTO log_leaf ({columns}) {leaf.format(blob=blob)}"),
        {"low": low, "high": high},
    )
    connection.execute(text("UPDATE log_head SET size = :size"), {"size": high + 1})


async def _fill(database: Database, receipts: int) -> None:
    await migrate(database)
    await database.write(_original)
    for low in range(0, receipts, AT_ONCE):
        high = min(low + AT_ONCE, receipts) - 1
        await database.write(lambda connection, low=low, high=high: _copy(connection, low, high, receipts))  # type: ignore[misc]
    await database.read(lambda connection: connection.execute(text("ANALYZE")))


async def _measure(database: Database, receipts: int) -> dict[str, Any]:
    began = time.perf_counter()
    await _fill(database, receipts)
    filled_s = time.perf_counter() - began
    async with Writer(database, Sealer(Keyring({"k": load_private_key(SEED)}))).running() as writer:
        sums = UsageSums(database, writer)
        began = time.perf_counter()
        folded = await UsageFolding(sums).fold()
        folded_s = time.perf_counter() - began
        assert folded == receipts
        answers = {}
        for dimensions in [(), *[(dimension,) for dimension in Dimension], (Dimension.DAY, Dimension.MODEL)]:
            asked = Question("org", BEGIN_MS, BEGIN_MS + DAYS * DAY_MS, dimensions, "team")
            taken = []
            for _ in range(TIMES):
                since = (time.perf_counter(), time.process_time())
                found = await sums.usage(asked)
                taken.append((time.perf_counter() - since[0], time.process_time() - since[1]))
            assert sum(group.counts[0] for group in found.groups.values()) == receipts
            name = "+".join(dimension.value for dimension in dimensions) or "total"
            answers[name] = [round(1_000 * statistics.median(of), 1) for of in zip(*taken, strict=True)]
    kept = await database.read(
        lambda connection: connection.execute(text("SELECT count(*) FROM usage_sum")).scalar_one()
    )
    return {
        "receipts": receipts,
        "sums": kept,
        "filled_s": round(filled_s, 1),
        "folded_receipts_per_s": round(receipts / folded_s),
        "median_ms_and_cpu_ms": answers,
    }


async def run(receipts: int, url: str) -> None:
    """Fills a new database and asks."""
    with tempfile.TemporaryDirectory(prefix="tg-usage-") as folder:
        database = open_database(url or f"sqlite:///{Path(folder)}/ledger.db", connections=2, wait_s=60)
        try:
            print(json.dumps(await _measure(database, receipts)))
        finally:
            await database.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receipts", type=int, default=1_000_000)
    parser.add_argument("--url", default="", help="An empty database; by default a SQLite file.")
    given = parser.parse_args()
    asyncio.run(run(given.receipts, given.url))
