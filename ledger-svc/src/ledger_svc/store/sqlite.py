"""SQLite: one connection that writes, and threads that read.

The writer's statements run in the event loop's thread, and only what waits for the disk, COMMIT, in another: every
statement in a thread gives the interpreter's lock away and has to win it back from a busy loop, at 5 ms a time. (32
rows beside a busy thread: 14 ms instead of 1; 64 concurrent callers over a socket: 366 reserve and settle a second.)
The statements find few rows by key and wait for nobody: the lock for writing is had before, without blocking.

WAL and ``synchronous=FULL``: a COMMIT is on disk when it returns. BEGIN IMMEDIATE: a transaction has the write lock
before it reads. Python's sqlite3 would begin by itself, late and deferred; hence ``isolation_level = None`` and an
explicit BEGIN (https://docs.sqlalchemy.org/en/21/dialects/sqlite.html, on transactions with the sqlite3 driver).
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from ledger_svc.store.bulk import Part, run_on_sqlite, write_on_sqlite
from ledger_svc.store.database import Database, WriteSession
from ledger_svc.store.tables import WRITER_EPOCH

T = TypeVar("T")

_BUSY_AGAIN_S = 0.005
_CACHED_STATEMENTS = 512
"""Of a connection: a batch's statements in all their lengths (see ``store.bulk``)."""
_READ_EPOCH = f"SELECT epoch FROM {WRITER_EPOCH.name}"  # noqa: S608 - a name of ours
_PRAGMAS = ("synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON")


class SqliteDatabase(Database):
    """A SQLite file.

    ``readers``: number of reading threads. ``wait_s``: how long to wait for another process that writes to the file.
    """

    def __init__(self, url: URL, *, readers: int, wait_s: float) -> None:
        self._wait_s = wait_s
        self._writer = _engine(url, "BEGIN IMMEDIATE", wait_s, connections=1)
        self._session = _engine(url, "BEGIN IMMEDIATE", 0.0, connections=1)
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
        if file is None:
            return None
        try:
            return _SqliteSession(self._session.connect(), file, self._writing, self._wait_s)
        except BaseException:
            file.close()
            raise

    async def close(self) -> None:
        """See ``Database``. Waits for a transaction that is under way."""
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._reading.shutdown)
        self._session.dispose()
        self._writer.dispose()
        self._reader.dispose()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        # A caller that is cancelled leaves its transaction to end by itself; one that has not begun is dropped.
        return await asyncio.get_running_loop().run_in_executor(self._writing, _transact, self._writer, work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, _transact, self._reader, work)


class _SqliteSession(WriteSession):
    def __init__(self, connection: Connection, lock: IO[str], committing: ThreadPoolExecutor, wait_s: float) -> None:
        self._connection = connection
        self._lock = lock
        self._committing = committing
        self._wait_s = wait_s

    async def transact(self, work: Callable[[Connection], T]) -> T:
        transaction = await self._begin(self._connection.begin)
        try:
            answer = work(self._connection)
            await asyncio.get_running_loop().run_in_executor(self._committing, transaction.commit)
        except BaseException:
            transaction.rollback()
            raise
        return answer

    async def append(self, epoch: int, parts: Sequence[Part], before_commit: Callable[[], None]) -> bool:
        driver: Any = self._connection.connection.driver_connection
        await self._begin(lambda: run_on_sqlite(driver, "BEGIN IMMEDIATE"))
        try:
            is_ours: bool = run_on_sqlite(driver, _READ_EPOCH) == [(epoch,)]
            if is_ours:
                write_on_sqlite(driver, parts)
                before_commit()
            commit = partial(run_on_sqlite, driver, "COMMIT")
            await asyncio.get_running_loop().run_in_executor(self._committing, commit)
        except BaseException:
            if driver.in_transaction:
                driver.rollback()
            raise
        return is_ours

    async def _begin(self, begin: Callable[[], T]) -> T:
        """Waits for another process, a migration, say, without keeping the loop."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_s
        while True:
            try:
                return begin()
            except OperationalError as error:
                if getattr(error.orig, "sqlite_errorname", "") != "SQLITE_BUSY" or loop.time() > until:
                    raise
            await asyncio.sleep(_BUSY_AGAIN_S)

    async def close(self) -> None:
        self._connection.close()
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
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_s,
        connect_args={"timeout": wait_s, "cached_statements": _CACHED_STATEMENTS},
    )
    event.listen(engine, "connect", lambda connection, _record: _set_up(connection, wait_s))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _set_up(connection: Any, wait_s: float) -> None:
    connection.isolation_level = None
    _use_wal(connection, wait_s)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _use_wal(connection: Any, wait_s: float) -> None:
    """Makes a new file one with a WAL. SQLite does not wait here for another process that writes, as it does in every
    other statement (https://www.sqlite.org/c3ref/busy_handler.html), so that of replicas on an empty file one would
    fail. A file that has a WAL needs no lock for this.
    """
    until = time.monotonic() + wait_s
    while not _has_wal(connection, until):
        time.sleep(_BUSY_AGAIN_S)


def _has_wal(connection: Any, until: float) -> bool:
    try:
        connection.execute("PRAGMA journal_mode = WAL").close()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
            raise
        return False
    return True
