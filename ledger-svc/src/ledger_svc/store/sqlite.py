"""SQLite: a thread that writes and a few that read.

A transaction is one visit to a thread. (On aiosqlite each statement was several: measured 48 reserve and settle a
second against some hundreds.) One writing thread is all there is to gain: SQLite lets one transaction write at a
time, and others would wait for it by polling instead of in a queue.

WAL and ``synchronous=FULL``: a COMMIT is on disk when it returns. BEGIN IMMEDIATE: a transaction has the write lock
before it reads. Python's sqlite3 would begin by itself, late and deferred; hence ``isolation_level = None`` and an
explicit BEGIN (https://docs.sqlalchemy.org/en/21/dialects/sqlite.html, on transactions with the sqlite3 driver).
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event

from ledger_svc.store.database import Database, WriteSession

T = TypeVar("T")

_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON")


class SqliteDatabase(Database):
    """A SQLite file.

    ``readers``: number of reading threads. ``wait_s``: how long to wait for another process that writes to the file.
    """

    def __init__(self, url: URL, *, readers: int, wait_s: float) -> None:
        self._writer = _engine(url, "BEGIN IMMEDIATE", wait_s, connections=1)
        self._reader = _engine(url, "BEGIN", wait_s, connections=readers)
        self._writing = ThreadPoolExecutor(1, "ledger-write")
        self._reading = ThreadPoolExecutor(readers, "ledger-read")

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """See ``Database``."""
        return await self.read(work)

    async def write_session(self) -> WriteSession | None:
        """See ``Database``. The session is the lock on a file beside the database; a process that dies loses it."""
        path = await self.read(_path_of)
        file = await asyncio.to_thread(_lock, Path(f"{path}-writer"))
        return None if file is None else _SqliteSession(self, file)

    async def close(self) -> None:
        """See ``Database``. Waits for a transaction that is under way."""
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._reading.shutdown)
        self._writer.dispose()
        self._reader.dispose()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        # A caller that is cancelled leaves its transaction to end by itself; one that has not begun is dropped.
        return await asyncio.get_running_loop().run_in_executor(self._writing, _transact, self._writer, work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, _transact, self._reader, work)


class _SqliteSession(WriteSession):
    def __init__(self, database: SqliteDatabase, lock: IO[str]) -> None:
        self._database = database
        self._lock = lock

    async def transact(self, work: Callable[[Connection], T]) -> T:
        return await self._database._write(work)

    async def close(self) -> None:
        self._lock.close()


def _path_of(connection: Connection) -> str:
    return str(connection.exec_driver_sql("PRAGMA database_list").one()[2])


def _lock(path: Path) -> IO[str] | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _engine(url: URL, begin: str, wait_s: float, *, connections: int) -> Engine:
    engine = create_engine(
        url, pool_size=connections, max_overflow=0, pool_timeout=wait_s, connect_args={"timeout": wait_s}
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()
