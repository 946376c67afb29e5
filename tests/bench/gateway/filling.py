"""History for a ledger that serves."""

from __future__ import annotations

import asyncio

from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.local_parts import running_postgres
from tests.bench.gateway.contenders import Running
from tests.bench.ledger_fill import fill


def fill_ledger(running: Running, receipts: int) -> None:
    """Adds copies of a receipt until there are about so many, in whichever database its ledger has."""
    assert running.data is not None, "only Tallygate has a ledger"
    data = DataDir(running.data)
    url = running_postgres(data.postgres) if data.mode == "mesh" else f"sqlite+aiosqlite:///{data.ledger_db}"
    asyncio.run(fill(url, receipts))
