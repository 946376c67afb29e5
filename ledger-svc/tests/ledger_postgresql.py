"""Databases of one PostgreSQL server, for tests: as new for each, and yet not made for each.

Making a database and dropping it takes a quarter of a second; taking out what a test wrote, a few milliseconds. A
database whose schema a test has changed is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg

from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database

T = TypeVar("T")
TEMPLATE = "ledger_template"
_CATALOGS = ("pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_trigger", "pg_proc", "pg_type")
# A copy has its template's rows, with the transactions that wrote them: whatever is done to a schema writes others.
_SCHEMA = "SELECT " + ", ".join(
    f"(SELECT array[count(*), max(xmin::text::bigint)] FROM {catalog})" for catalog in _CATALOGS
)
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


def run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In a thread, so that its event loop does not meet that of the tests."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work()))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


async def prepare(url: str) -> None:
    """Migrates an empty database."""
    database = open_database(url, connections=8, wait_s=20)
    try:
        await migrate(database)
    finally:
        await database.close()


class ReusedDatabases:
    """Of one server (pgserver's). What the migrations put into tables is put back each time."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._schema: list[Any] = []
        self._empty = ""

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of a migrated, empty database, inside the block."""
        name = self._free.pop() if self._free else self._made()
        yield self._server.get_uri(name)
        if run_apart(lambda: self._emptied(name)):
            self._free.append(name)
        else:
            self._server.psql(f"DROP DATABASE {name} WITH (FORCE)")

    def _made(self) -> str:
        if not self._empty:
            self._server.psql(f"CREATE DATABASE {TEMPLATE}")
            run_apart(lambda: prepare(self._server.get_uri(TEMPLATE)))
            run_apart(self._learn)
        name = f"ledger_{next(self._numbers)}"
        self._server.psql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    async def _learn(self) -> None:
        connection = await asyncpg.connect(self._server.get_uri(TEMPLATE))
        try:
            self._schema = list(await connection.fetchrow(_SCHEMA))
            statements = ["SET LOCAL session_replication_role = replica"]  # no trigger refuses it
            for (table,) in await connection.fetch(_TABLES):
                statements.append(f"DELETE FROM {table}")
                rows = json.loads(await connection.fetchval(f"SELECT coalesce(json_agg(t), '[]') FROM {table} t"))
                if rows:
                    content = json.dumps(rows).replace("'", "''")
                    statements.append(
                        f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, '{content}')"
                    )
            self._empty = ";\n".join(statements)
        finally:
            await connection.close()

    async def _emptied(self, name: str) -> bool:
        """False: its schema is not what it was."""
        connection = await asyncpg.connect(self._server.get_uri(name))
        try:
            await connection.execute(_OTHERS)
            if list(await connection.fetchrow(_SCHEMA)) != self._schema:
                return False
            async with connection.transaction():
                await connection.execute(self._empty)
            return True
        finally:
            await connection.close()
