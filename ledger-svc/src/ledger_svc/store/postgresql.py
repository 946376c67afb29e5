"""PostgreSQL through asyncpg. READ COMMITTED: after the lock on an account is had, the next statement sees what its
last holder left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import create_async_engine

from ledger_svc.store.database import Database

T = TypeVar("T")


class PostgresqlDatabase(Database):
    """A PostgreSQL database.

    ``connections``: at most so many for writing, and so many more for reading. ``wait_s``: how long to wait
    for one, and for a lock.
    """

    def __init__(self, url: URL, *, connections: int, wait_s: float) -> None:
        pool: dict[str, Any] = {
            "pool_size": connections,
            "max_overflow": 0,
            "pool_timeout": wait_s,
            "connect_args": {
                "timeout": wait_s,
                "server_settings": {
                    "application_name": "tallygate-ledger",
                    "lock_timeout": f"{int(wait_s * 1_000)}ms",
                    # A process that hangs in the middle must not keep an organisation's lock.
                    "idle_in_transaction_session_timeout": f"{int(wait_s * 1_000)}ms",
                },
            },
        }
        self._writer = create_async_engine(url, isolation_level="READ COMMITTED", **pool)
        # A write is run again on a new connection; a read is not, so its connection is tried first.
        self._reader = create_async_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, **pool)

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """See ``Database``."""
        async with self._reader.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with connection.begin():
                return await connection.run_sync(work)

    async def close(self) -> None:
        """See ``Database``."""
        await self._writer.dispose()
        await self._reader.dispose()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        async with self._writer.begin() as connection:
            return await connection.run_sync(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        async with self._reader.connect() as connection:
            return await connection.run_sync(work)
