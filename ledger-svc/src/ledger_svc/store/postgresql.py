"""PostgreSQL through asyncpg. READ COMMITTED: after the lock on an account is had, the next statement sees what its
last holder left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from ledger_svc.store.bulk import Part, append_on_postgresql
from ledger_svc.store.database import Database, WriteSession

T = TypeVar("T")

_WRITER_LOCK = 0x7A11_6A7F
"""Names the advisory lock of the one writer: any number that nothing else takes."""

_WRITER_SETTINGS = {
    # Every statement of the writer finds rows by key. Without these a plan that was made while a table was small reads
    # all of it when it is large, until the next ANALYZE.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # A machine that dies leaves its lock behind until the server notices: within 10 s instead of 2 h.
    "tcp_keepalives_idle": "4",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}

_log = structlog.get_logger(__name__)


class PostgresqlDatabase(Database):
    """A PostgreSQL database.

    ``connections``: at most so many for writing, and so many more for reading. ``wait_s``: how long to wait
    for one, and for a lock.
    """

    def __init__(self, url: URL, *, connections: int, wait_s: float) -> None:
        server_settings = {
            "application_name": "tallygate-ledger",
            "lock_timeout": f"{int(wait_s * 1_000)}ms",
            # A process that hangs in the middle must not keep an organisation's lock.
            "idle_in_transaction_session_timeout": f"{int(wait_s * 1_000)}ms",
        }
        pool: dict[str, Any] = {
            "pool_size": connections,
            "max_overflow": 0,
            "pool_timeout": wait_s,
            "connect_args": {"timeout": wait_s, "server_settings": server_settings},
        }
        self._writer = create_async_engine(url, isolation_level="READ COMMITTED", **pool)
        # A write is run again on a new connection; a read is not, so its connection is tried first.
        self._reader = create_async_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, **pool)
        self._session = create_async_engine(
            url,
            isolation_level="READ COMMITTED",
            poolclass=NullPool,
            connect_args={
                "timeout": wait_s,
                "command_timeout": wait_s,
                "server_settings": server_settings | _WRITER_SETTINGS,
            },
        )

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """See ``Database``."""
        async with self._reader.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                return await connection.run_sync(work)

    async def write_session(self) -> WriteSession | None:
        """See ``Database``. The session is the connection that has the advisory lock."""
        session = _PostgresqlSession(await self._session.connect())
        try:
            if await session.transact(_try_lock):
                return session
        except BaseException:
            await session.close()
            raise
        await session.close()
        return None

    async def close(self) -> None:
        """See ``Database``."""
        await self._session.dispose()
        await self._writer.dispose()
        await self._reader.dispose()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        async with self._writer.begin() as connection:
            return await connection.run_sync(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        async with self._reader.connect() as connection:
            return await connection.run_sync(work)


class _PostgresqlSession(WriteSession):
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._driver: Any = None

    async def transact(self, work: Callable[[Connection], T]) -> T:
        async with self._connection.begin():
            return await self._connection.run_sync(work)

    async def append(self, epoch: int, parts: Sequence[Part], before_commit: Callable[[], None]) -> bool:
        # One statement is one round trip, where BEGIN, epoch, write and COMMIT are four.
        await greenlet_spawn(before_commit)
        if self._driver is None:
            self._driver = (await self._connection.get_raw_connection()).driver_connection
        return await append_on_postgresql(self._driver, epoch, parts)

    async def close(self) -> None:
        try:
            await self._connection.close()
        except (SQLAlchemyError, OSError) as error:
            _log.info("session_closed_badly", cause=repr(error))


def _try_lock(connection: Connection) -> bool:
    statement = text("SELECT pg_try_advisory_lock(:lock)")
    return bool(connection.execute(statement, {"lock": _WRITER_LOCK}).scalar_one())
