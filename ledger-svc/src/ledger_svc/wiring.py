"""Puts the ledger together. Knows no mode: an address, a database URL and a clock come from outside."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import grpc

from ledger_svc.domain.keys import Peppers
from ledger_svc.domain.policies import DefaultLimits
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.accounts import AccountService
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.revocations import Revocations
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.service.usage import UsageFolding, UsageService
from ledger_svc.servicer import LedgerServicer
from ledger_svc.servicer.account import AccountServicer
from ledger_svc.servicer.usage import UsageServicer
from ledger_svc.settings import LedgerSettings
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.migrate import migrate
from ledger_svc.store.movements import Movements
from ledger_svc.store.opening import open_database
from ledger_svc.store.records import Records
from ledger_svc.store.requests import RequestLog
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.usage import UsageSums
from ledger_svc.store.writer import CommitSeam, Writer
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.ids import MakeId, new_id
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.ledger.v1.account_pb2_grpc import add_AccountServiceServicer_to_server
from tallygate.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from tallygate.ledger.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server


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
    clock = clock or SystemClock()
    database = open_database(
        settings.database_url, connections=settings.database_connections, wait_s=settings.database_wait_s
    )
    try:
        await migrate(database)
        keyring = settings.keyring()
        writer = _writer(settings, database, Sealer(keyring), seam)
        parts = _Parts(
            settings=settings,
            clock=clock,
            make_id=make_id,
            database=database,
            writer=writer,
            trail=Trail(),
            log=ReceiptLog(database, writer, keyring, settings.log_origin, seam=seam),
            keyring=keyring,
        )
        log_service = LogService(log=parts.log, keys=keyring, origin=settings.log_origin, clock=clock)
        revocations = Revocations(parts.directory, clock, max_pending=settings.revocation_queue)
        sweeper = Sweeper(ledger=writer, records=parts.records, clock=clock, batch_limit=settings.sweep_batch_limit)
        servicer = _ledger_servicer(parts, log_service, revocations)

        def register(server: grpc.aio.Server) -> None:
            add_LedgerServiceServicer_to_server(servicer, server)
            add_AccountServiceServicer_to_server(AccountServicer(AccountService(parts.directory)), server)
            add_UsageServiceServicer_to_server(UsageServicer(parts.usage), server)

        async with (
            writer.running(),
            _background(
                sweeper.run(settings.sweep_interval_s),
                revocations.run(settings.revocation_poll_s),
                log_service.run(settings.checkpoint_interval_s),
                UsageFolding(parts.sums).run(settings.usage_interval_s),
            ),
        ):
            yield register
    finally:
        await database.close()


@dataclass(frozen=True)
class _Parts:
    """What the use cases stand on."""

    settings: LedgerSettings
    clock: Clock
    make_id: MakeId
    database: Database
    writer: Writer
    trail: Trail
    log: ReceiptLog
    keyring: Keyring

    @cached_property
    def directory(self) -> Directory:
        return Directory(self.database, self.writer, self.trail)

    @cached_property
    def records(self) -> Records:
        return Records(self.database)

    @cached_property
    def sums(self) -> UsageSums:
        return UsageSums(self.database, self.writer)

    @cached_property
    def usage(self) -> UsageService:
        return UsageService(sums=self.sums, requests=RequestLog(self.database), movements=Movements(self.database))


def _ledger_servicer(parts: _Parts, log_service: LogService, revocations: Revocations) -> LedgerServicer:
    settings, clock, make_id = parts.settings, parts.clock, parts.make_id
    writer, directory, records = parts.writer, parts.directory, parts.records
    return LedgerServicer(
        keys=KeyService(
            directory=directory,
            revocations=revocations,
            peppers=Peppers({version: pepper.get_secret_value() for version, pepper in settings.peppers.items()}),
            clock=clock,
            make_id=make_id,
            random_below=secrets.randbelow,
            limits=DefaultLimits(settings.requests_per_minute, settings.tokens_per_minute),
            valid_for_ms=settings.valid_for_ms,
        ),
        charging=ChargingService(ledger=writer, clock=clock, make_id=make_id),
        credit=CreditService(ledger=writer, records=records, clock=clock, make_id=make_id),
        budgets=BudgetService(ledger=writer, records=records, directory=directory, clock=clock),
        receipts=ReceiptService(records, parts.log),
        log=log_service,
        revocations=revocations,
    )


def _writer(settings: LedgerSettings, database: Database, sealer: Sealer, seam: CommitSeam | None) -> Writer:
    return Writer(
        database,
        sealer,
        max_waiting=settings.writer_queue,
        max_batch=settings.writer_batch,
        takeover_poll_s=settings.takeover_poll_s,
        seam=seam,
    )


@asynccontextmanager
async def _background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
