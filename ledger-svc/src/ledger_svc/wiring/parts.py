"""What the use cases stand on, and what they are put together into."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import grpc

from ledger_svc.domain.cache_policies import INSTALLATION, CacheDefault, CachePolicy
from ledger_svc.domain.keys import Peppers
from ledger_svc.domain.policies import DefaultLimits
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.revocations import Revocations
from ledger_svc.settings import LedgerSettings
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.records import Records
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.serve import Register

S = TypeVar("S")
Background = Callable[[], Coroutine[Any, Any, None]]
"""Begins a task that runs until it is cancelled."""


@dataclass(frozen=True)
class Parts:
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
        """Organisations, projects and keys."""
        return Directory(self.database, self.writer, self.trail)

    @cached_property
    def records(self) -> Records:
        """What can be read of the books."""
        return Records(self.database)

    @cached_property
    def log_service(self) -> LogService:
        """The log that receipts and the audit trail are leaves of."""
        return LogService(log=self.log, keys=self.keyring, origin=self.settings.log_origin, clock=self.clock)

    @cached_property
    def revocations(self) -> Revocations:
        """Who is told of keys that changed."""
        return Revocations(self.directory, max_pending=self.settings.revocation_queue)

    @property
    def cache_policy(self) -> CachePolicy:
        """The installation's."""
        return replace(INSTALLATION, default=CacheDefault(self.settings.cache_default))

    @cached_property
    def keys(self) -> KeyService:
        """Who may spend, and on what."""
        settings = self.settings
        return KeyService(
            directory=self.directory,
            revocations=self.revocations,
            peppers=Peppers({version: pepper.get_secret_value() for version, pepper in settings.peppers.items()}),
            clock=self.clock,
            make_id=self.make_id,
            random_below=secrets.randbelow,
            limits=DefaultLimits(settings.requests_per_minute, settings.tokens_per_minute),
            cache=self.cache_policy,
            valid_for_ms=settings.valid_for_ms,
        )


@dataclass(frozen=True, slots=True)
class Assembly:
    """The servicers, and what runs beside them."""

    _registers: list[Register] = field(default_factory=list)
    _background: list[Background] = field(default_factory=list)
    _closing: list[Callable[[], None]] = field(default_factory=list)

    def serve(self, add_to_server: Callable[[S, grpc.aio.Server], None], servicer: S) -> None:
        """Adds a servicer by the function that was generated for its service."""
        self._registers.append(lambda server: add_to_server(servicer, server))

    def run(self, background: Background) -> None:
        """Adds a task that runs as long as the ledger."""
        self._background.append(background)

    def close(self, closing: Callable[[], None]) -> None:
        """Adds what is closed once no task runs any more."""
        self._closing.append(closing)

    def register(self, server: grpc.aio.Server) -> None:
        """Puts every servicer on a server."""
        for register in self._registers:
            register(server)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs every task inside the block."""
        tasks = [asyncio.create_task(begin()) for begin in self._background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            for closing in self._closing:
                closing()
