"""From a URL to a database."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ledger_svc.store.database import Database
from ledger_svc.store.postgresql import PostgresqlDatabase
from ledger_svc.store.sqlite import SqliteDatabase


def open_database(url: str, *, connections: int, wait_s: float) -> Database:
    """Opens a database; it connects at first use. A driver in the URL ("sqlite+aiosqlite") is not looked at: there is
    one for each.

    ``connections``: at most so many for reading, and (PostgreSQL) for writing. ``wait_s``: how long to wait for a
    free one, or for another process that writes to the same SQLite file.

    Raises:
        ValueError: not a URL, another database, or SQLite in memory (each connection would have a database of its own).
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("database_url is not a database URL") from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:") or "mode=memory" in url:
            raise ValueError("database_url: SQLite needs a file")
        return SqliteDatabase(parsed.set(drivername="sqlite+pysqlite"), readers=connections, wait_s=wait_s)
    if kind in ("postgresql", "postgres"):
        return PostgresqlDatabase(parsed.set(drivername="postgresql+asyncpg"), connections=connections, wait_s=wait_s)
    raise ValueError(f"database_url: {kind} is neither sqlite nor postgresql")
