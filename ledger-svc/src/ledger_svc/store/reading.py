"""Reads a whole database as it stands, unable to change it.

For checks by whoever does not run the ledger: beside one that runs, on a copy, or on a server that stands by.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from ledger_svc.store.migrate import alembic_config
from ledger_svc.store.postgresql import PostgresqlDatabase

T = TypeVar("T")

_VERSION_TABLE = "alembic_version"


class UnreadableError(Exception):
    """The database can't be read, or is not a ledger of this version; the message says which."""


async def read_only(url: str, work: Callable[[Connection], T], *, wait_s: float = 10.0) -> T:
    """Runs ``work`` on one state of a ledger's database and gives what it gives.

    SQLite is opened read-only; its writer goes on meanwhile, only its WAL file can't be emptied before the end.
    PostgreSQL reads in a read-only transaction that is REPEATABLE READ. ``wait_s``: how long to wait for either.

    Raises:
        UnreadableError: it is not there, is not a ledger's, is one of another version, or failed while it was read.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UnreadableError("not a database URL") from None
    kind = parsed.get_backend_name()
    try:
        if kind == "sqlite":
            return await asyncio.to_thread(_read_sqlite, parsed, work, wait_s)
        if kind in ("postgresql", "postgres"):
            return await _read_postgresql(parsed, work, wait_s)
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise UnreadableError(f"{shown(url)} can't be read: {cause}") from error
    raise UnreadableError(f"{shown(url)}: neither sqlite nor postgresql")


def shown(url: str) -> str:
    """A database's URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _read_sqlite(url: URL, work: Callable[[Connection], T], wait_s: float) -> T:
    path = Path(url.database or "")
    if not path.is_file():
        raise UnreadableError(f"there is no file {path}")
    engine = create_engine("sqlite+pysqlite://", creator=lambda: _opened(path, wait_s), poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.begin() as connection:
            return _on_a_ledger(connection, work)
    finally:
        engine.dispose()


def _opened(path: Path, wait_s: float) -> sqlite3.Connection:
    """A reader of a WAL database shares an index file beside it with the writer. Where neither that nor a WAL can come
    to be, as on a backup that is mounted read-only, nobody writes, and SQLite has to be told so.
    """
    wal = path.with_name(f"{path.name}-wal")
    alone = not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if alone else ''}"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None)
    connection.execute("PRAGMA query_only = ON").close()
    return connection


async def _read_postgresql(url: URL, work: Callable[[Connection], T], wait_s: float) -> T:
    database = PostgresqlDatabase(url.set(drivername="postgresql+asyncpg"), connections=1, wait_s=wait_s)
    try:
        return await database.snapshot(lambda connection: _on_a_ledger(connection, work))
    finally:
        await database.close()


def _on_a_ledger(connection: Connection, work: Callable[[Connection], T]) -> T:
    if not inspect(connection).has_table(_VERSION_TABLE):
        raise UnreadableError("it is not a ledger's database: it has no schema revision")
    found = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608
    expected = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
    if found != expected:
        raise UnreadableError(f"its schema is of revision {found}, this version checks {expected}")
    return work(connection)
