"""Statements over many rows at once: what a batch reads and writes is one statement for each table, however long, and
on PostgreSQL one for all tables together, because there each statement is a round trip.

Both databases take the rows as a table of values, ``v``. PostgreSQL: as one JSON document, so that the statement is the
same for any number of rows and stays prepared. (Arrays cost the driver twice the CPU, since it looks at each element in
Python. ``json``, unlike ``jsonb``, keeps the digits of a number.) SQLite: as VALUES, in chunks whose lengths are powers
of two, so that there are a few statements and the driver keeps them. (Each row of an ``executemany`` gives the
interpreter's lock away and has to win it back: measured 14 ms instead of 1 for 32 rows beside a busy thread.)
Up to four rows are written to SQLite one by one all the same: a table of values costs it 4 to 12 µs, whatever is in it,
so that one receipt took 19 µs and not 7, and two transfers 12 and not 6.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import asyncpg
import orjson
from sqlalchemy import BigInteger, Boolean, Column, Connection, LargeBinary, Table, Text
from sqlalchemy.exc import DBAPIError

from ledger_svc.store.tables import WRITER_EPOCH

Record = Sequence[Any]
"""The values of one row, in the order of the statement's columns."""

_CHUNK_ROWS_MAX = 64
_SINGLE_ROWS_MAX = 4
_POSTGRESQL_TYPES = {Text: "text", BigInteger: "bigint", Boolean: "boolean", LargeBinary: "text"}


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is the key of what is made of it
class Bulk:
    """A statement that has ``{v}`` where the rows come and, if it reads, ``{given}`` where the columns come that it
    gives; ``columns`` are those of the rows. In it they are named ``v.v1``, ``v.v2`` and so on. ``lock`` is its last
    clause on PostgreSQL; on SQLite whoever writes has locked all. ``single`` does the same with one row, whose values
    are its parameters; a statement that reads has none.
    """

    template: str
    columns: tuple[Column[Any], ...]
    given: tuple[str, ...] = ()
    lock: str = ""
    single: str = ""

    def run(self, connection: Connection, records: Sequence[Record]) -> list[Any]:
        """Runs the statement on all records; gives the rows that it gives. No records: nothing is sent."""
        if not records:
            return []
        if connection.dialect.name == "postgresql":
            found = connection.exec_driver_sql(_alone(self), (_document(self, records),))
            return list(found) if found.returns_rows else []
        driver: Any = connection.connection.driver_connection
        if self.single:
            write_on_sqlite(driver, [(self, records)])
            return []
        rows: list[Any] = []
        for chunk in _chunks(records):
            rows.extend(run_on_sqlite(driver, _listed(self, len(chunk)), tuple(chain.from_iterable(chunk))))
        return rows


Part = tuple[Bulk, Sequence[Record]]
"""A statement, and what to run it on."""


def read_all(connection: Connection, *parts: Part) -> list[list[Record]]:
    """Runs statements that read; gives the rows of each. They see one state on SQLite, and on PostgreSQL, too."""
    if connection.dialect.name != "postgresql":
        return [bulk.run(connection, records) for bulk, records in parts]
    asked = [(place, part) for place, part in enumerate(parts) if part[1]]
    found: list[list[Record]] = [[] for _ in parts]
    if asked:
        statement = _united(tuple((place, bulk) for place, (bulk, _) in asked))
        documents = [_document(bulk, records) for _, (bulk, records) in asked]
        for place, row in _run_on_postgresql(connection, statement, documents):
            found[place].append(orjson.loads(row))
    return found


def write_all(connection: Connection, *parts: Part) -> None:
    """Runs statements that write, of which none needs to see what another wrote. On SQLite in their order."""
    asked = [part for part in parts if part[1]]
    if connection.dialect.name != "postgresql":
        for bulk, records in asked:
            bulk.run(connection, records)
    elif asked:
        statement = _chained(tuple(bulk for bulk, _ in asked))
        _run_on_postgresql(connection, statement, [_document(bulk, records) for bulk, records in asked])


async def append_on_postgresql(driver: Any, epoch: int, parts: Sequence[Part]) -> bool:
    """Writes in one statement, which is a transaction by itself, if the writer's epoch is this one; False if not. Takes
    the driver's connection, outside of any transaction.
    """
    assert not driver.is_in_transaction(), "the statement commits"
    asked = [part for part in parts if part[1]]
    statement = _fenced(tuple(bulk for bulk, _ in asked))
    documents = [_document(bulk, records) for bulk, records in asked]
    with _as_sqlalchemy_raises(statement):
        return bool(await driver.fetchval(statement, epoch, *documents))


def write_on_sqlite(driver: Any, parts: Sequence[Part]) -> None:
    """As ``write_all``, on the driver's connection."""
    statement = ""
    try:
        for bulk, records in parts:
            if len(records) > _SINGLE_ROWS_MAX:
                for chunk in _chunks(records):
                    statement = _listed(bulk, len(chunk))
                    driver.execute(statement, tuple(chain.from_iterable(chunk)))
            elif records:
                statement = bulk.single
                driver.executemany(statement, records)
    except sqlite3.Error as error:
        raise _as_raised_by_sqlalchemy(statement, error) from error


def insert_into(table: Table) -> Bulk:
    """Inserts rows; a record has the values of all columns, in the table's order."""
    columns = tuple(table.columns)
    names = ", ".join(column.name for column in columns)
    target = f"INSERT INTO {table.name} ({names})"
    single = f"{target} VALUES ({', '.join('?' * len(columns))})"
    return Bulk(f"{target} SELECT * FROM {{v}}", columns, single=single)  # noqa: S608 - names of ours


def update_by(table: Table, keys: str | tuple[str, ...], *changed: str) -> Bulk:
    """Updates rows; a record has the values of the keys, then those that change."""
    keys = (keys,) if isinstance(keys, str) else keys

    def statement(value: str, source: str) -> str:
        changes = ", ".join(f"{name} = {value}{place}" for place, name in enumerate(changed, len(keys) + 1))
        matches = " AND ".join(f"{table.name}.{key} = {value}{place}" for place, key in enumerate(keys, 1))
        return f"UPDATE {table.name} SET {changes}{source} WHERE {matches}"  # noqa: S608 - names of ours

    columns = tuple(table.columns[name] for name in (*keys, *changed))
    return Bulk(statement("v.v", " FROM {v}"), columns, single=statement("?", ""))


def select_by(
    table: Table, given: Iterable[Column[Any]], *keys: str, join: str = "", where: str = "", lock: str = ""
) -> Bulk:
    """Reads the columns ``given`` of the rows whose ``keys`` have the record's values. A record must not come twice.
    ``join``: another table; ``where``: a further condition.

    CROSS JOIN and not a comma, because it keeps SQLite from turning the join round and reading the whole table.
    """
    matches = " AND ".join(f"{table.name}.{key} = v.v{place}" for place, key in enumerate(keys, 1))
    matches += f" AND {where}" if where else ""
    template = f"SELECT {{given}} FROM {{v}} CROSS JOIN {table.name} {join} WHERE {matches}"  # noqa: S608 - names of ours
    names = tuple(f"{column.table.name}.{column.name}" for column in given)
    return Bulk(template, tuple(table.columns[key] for key in keys), names, lock)


def _run_on_postgresql(connection: Connection, statement: str, documents: Sequence[str]) -> Sequence[Record]:
    """On the driver's own connection, as with SQLite. It must be in a transaction: SQLAlchemy begins one with its own
    first statement.
    """
    adapted: Any = connection.connection.dbapi_connection
    assert adapted.driver_connection.is_in_transaction(), "a statement of SQLAlchemy's begins the transaction"
    with _as_sqlalchemy_raises(statement):
        found: Sequence[Record] = adapted.run_async(lambda driver: driver.fetch(statement, *documents))
    return found


@contextmanager
def _as_sqlalchemy_raises(statement: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        raised = DBAPIError.instance(statement, (), error, asyncpg.PostgresError, hide_parameters=True)
        raise raised from error
    except asyncpg.InterfaceError as error:
        raise ConnectionResetError(f"the connection to PostgreSQL is lost: {error}") from error


def run_on_sqlite(driver: Any, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
    """On the driver's own connection: SQLAlchemy's part of a statement takes four times what SQLite's does, and a batch
    has a dozen. A failure is raised as SQLAlchemy raises it.
    """
    try:
        return list(driver.execute(statement, values).fetchall())
    except sqlite3.Error as error:
        raise _as_raised_by_sqlalchemy(statement, error) from error


def _as_raised_by_sqlalchemy(statement: str, error: sqlite3.Error) -> BaseException:
    return DBAPIError.instance(statement, (), error, sqlite3.Error, hide_parameters=True)


def _document(bulk: Bulk, records: Sequence[Record]) -> str:
    names = _names(bulk)
    rows = [dict(zip(names, record, strict=True)) for record in records]
    return orjson.dumps(rows, default=bytes.hex).decode()


@cache
def _names(bulk: Bulk) -> list[str]:
    return [f"v{place}" for place in range(1, len(bulk.columns) + 1)]


@cache
def _values(bulk: Bulk, argument: int, where: str = "") -> str:
    """``v`` on PostgreSQL, from the JSON document that is the statement's so manieth argument; bytes come in hex."""
    names, kinds = _names(bulk), [type(column.type) for column in bulk.columns]
    columns = ", ".join(f"{name} {_POSTGRESQL_TYPES[kind]}" for name, kind in zip(names, kinds, strict=True))
    rows = f"json_to_recordset(${argument}::json) AS v({columns})"
    if LargeBinary not in kinds and not where:
        return rows
    decoded = (
        f"decode({name}, 'hex') AS {name}" if kind is LargeBinary else name
        for name, kind in zip(names, kinds, strict=True)
    )
    return f"(SELECT {', '.join(decoded)} FROM {rows}{where}) AS v"  # noqa: S608 - names of ours


@cache
def _alone(bulk: Bulk) -> str:
    return bulk.template.format(v=_values(bulk, 1), given=", ".join(bulk.given)) + bulk.lock


@cache
def _united(parts: tuple[tuple[int, Bulk], ...]) -> str:
    """Reads of several tables in one: each row as a JSON array, with the place of its part."""
    return " UNION ALL ".join(
        bulk.template.format(
            v=_values(bulk, argument), given=f"{place}, json_build_array({', '.join(bulk.given)})::text"
        )
        for argument, (place, bulk) in enumerate(parts, 1)
    )


@cache
def _chained(bulks: tuple[Bulk, ...]) -> str:
    """Writes of several tables in one."""
    steps = (
        f"w{argument} AS ({bulk.template.format(v=_values(bulk, argument))})" for argument, bulk in enumerate(bulks, 1)
    )
    return f"WITH {', '.join(steps)} SELECT 1"


@cache
def _fenced(bulks: tuple[Bulk, ...]) -> str:
    """The same, where the epoch is still the first argument; gives the number of epochs that are."""
    fence = f"SELECT 1 FROM {WRITER_EPOCH.name} WHERE epoch = $1 FOR UPDATE"  # noqa: S608 - a name of ours
    steps = [f"WITH fence AS MATERIALIZED ({fence})"]
    for argument, bulk in enumerate(bulks, 2):
        values = _values(bulk, argument, " WHERE EXISTS (SELECT 1 FROM fence)")
        steps.append(f"w{argument} AS ({bulk.template.format(v=values)})")
    return f"{', '.join(steps)} SELECT count(*) FROM fence"  # noqa: S608 - names of ours


@cache
def _listed(bulk: Bulk, rows: int) -> str:
    width = len(bulk.columns)
    values = ", ".join([f"({', '.join('?' * width)})"] * rows)
    names = ", ".join(f"column{place} AS v{place}" for place in range(1, width + 1))
    source = f"(SELECT {names} FROM (VALUES {values})) AS v"  # noqa: S608 - names and marks
    return bulk.template.format(v=source, given=", ".join(bulk.given))


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    begin, left = 0, len(records)
    while left:
        size = min(_CHUNK_ROWS_MAX, 1 << left.bit_length() - 1)
        yield records[begin : begin + size]
        begin, left = begin + size, left - size
