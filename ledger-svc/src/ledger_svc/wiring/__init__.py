"""Puts the ledger together. Knows no mode: an address, a database URL and a clock come from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger_svc.clients.providers import payment_provider
from ledger_svc.settings import LedgerSettings
from ledger_svc.store.database import Database
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import CommitSeam, Writer
from ledger_svc.wiring.account import add_account
from ledger_svc.wiring.money import add_money
from ledger_svc.wiring.parts import Assembly, Parts
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.ids import MakeId, new_id
from meshkit.serve import Register
from meshkit.telemetry import Telemetry


@asynccontextmanager
async def build(
    settings: LedgerSettings,
    dial: Dial,  # noqa: ARG001 - every service is built alike; the ledger calls nobody
    telemetry: Telemetry,  # noqa: ARG001
    *,
    clock: Clock | None = None,
    make_id: MakeId = new_id,
    seam: CommitSeam | None = None,
) -> AsyncIterator[Register]:
    """Opens the database, brings it to the newest revision and starts the background tasks; all end with the block.
    ``seam``: for a test that breaks the writer, or the growth of the log, at a COMMIT.

    Raises:
        LedgerUnavailable: the database can't be reached.
        ValueError: the database is not one that the ledger runs on.
    """
    database = open_database(
        settings.database_url, connections=settings.database_connections, wait_s=settings.database_wait_s
    )
    try:
        await migrate(database)
        keyring = settings.keyring()
        sealer = Sealer(keyring)
        writer = _writer(settings, database, sealer, seam)
        parts = Parts(
            settings=settings,
            clock=clock or SystemClock(),
            make_id=make_id,
            database=database,
            writer=writer,
            trail=Trail(sealer),
            log=ReceiptLog(database, writer, keyring, settings.log_origin, seam=seam),
            keyring=keyring,
        )
        assembly = Assembly()
        add_money(assembly, parts)
        async with payment_provider(settings, parts.clock, make_id) as provider:
            add_account(assembly, parts, provider)
            async with writer.running(), assembly.running():
                yield assembly.register
    finally:
        await database.close()


def _writer(settings: LedgerSettings, database: Database, sealer: Sealer, seam: CommitSeam | None) -> Writer:
    return Writer(
        database,
        sealer,
        max_waiting=settings.writer_queue,
        max_batch=settings.writer_batch,
        takeover_poll_s=settings.takeover_poll_s,
        seam=seam,
    )
