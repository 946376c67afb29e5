"""A database, as the store sees it: functions of a SQLAlchemy connection, run in a transaction that writes or one
that reads.

The functions are plain, so that the same code runs on an async driver (PostgreSQL) and in a thread (SQLite).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from ledger_svc.store.bulk import Part
from ledger_svc.store.failures import database_failures, is_worth_another_try

T = TypeVar("T")

MAX_TRIES = 4
_RETRY_AFTER_S = 0.01

_log = structlog.get_logger(__name__)


class WriteSession(ABC):
    """A connection that no other process can have one like. When it is lost, so is the right that it stands for."""

    @abstractmethod
    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction, once. After a failure of the connection, whether in COMMIT or before it, the
        session is of no more use.
        """

    @abstractmethod
    async def append(self, epoch: int, parts: Sequence[Part], before_commit: Callable[[], None]) -> bool:
        """Writes in a transaction of its own if the writer's epoch is this one, False if not; durable when it returns.
        ``before_commit`` is called when nothing of it is durable, as ``work`` would call it. Fails as ``transact``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends the session. Never fails."""


class Database(ABC):
    """One database and its connections."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction and gives what it gives once the COMMIT is durable.

        A transaction that lost its connection, or to another one, is run again, also where its COMMIT may have gone
        through before the connection was lost: ``work`` must find its own traces.

        Raises:
            LedgerUnavailable: the database can't be reached or is too busy.
        """
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                with database_failures():
                    return await self._write(work)
            except Exception as error:
                if not tries_left or not is_worth_another_try(error.__cause__):
                    raise
                _log.warning("transaction_retried", cause=repr(error.__cause__))
                await asyncio.sleep(_RETRY_AFTER_S * (MAX_TRIES - tries_left))
        raise AssertionError("unreachable")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work``, which only reads. Each statement sees what was committed when it began.

        Raises:
            LedgerUnavailable: the database can't be reached or is too busy.
        """
        with database_failures():
            return await self._read(work)

    @abstractmethod
    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work``, which only reads, on one state of the whole database. For audits: it may take long."""

    @abstractmethod
    async def write_session(self) -> WriteSession | None:
        """The one write session of this database; None while another process, or another session here, has it."""

    @abstractmethod
    async def close(self) -> None:
        """Closes every connection."""

    @abstractmethod
    async def _write(self, work: Callable[[Connection], T]) -> T: ...

    @abstractmethod
    async def _read(self, work: Callable[[Connection], T]) -> T: ...
