"""Statements over many rows at once: what a batch reads and writes is one statement for each table, however long.

Both databases take the rows as a table of values, ``v``. PostgreSQL: as one JSON document, so that the statement is the
same for any number of rows and stays prepared. (Arrays cost the driver twice the CPU, since it looks at each element in
Python. ``json``, unlike ``jsonb``, keeps the digits of a number.) SQLite: as VALUES, in chunks whose lengths are powers
of two, so that there are a few statements and the driver keeps them. (Each row of an ``executemany`` gives the
interpreter's lock away and has to win it back: measured 14 ms instead of 1 for 32 rows beside a busy thread.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Connection, Table, Text

Record = Sequence[Any]
"""The values of one row, in the order of the statement's columns."""

_CHUNK_ROWS_MAX = 64
_POSTGRESQL_TYPES = {Text: "text", BigInteger: "bigint", Boolean: "boolean"}


@dataclass(frozen=True, slots=True)
class Bulk:
    """A statement that has ``{v}`` where the rows come; ``columns`` are theirs. In it they are named ``v.v1``, ``v.v2``
    and so on. ``lock`` is its last clause on PostgreSQL; on SQLite whoever writes has locked all.
    """

    template: str
    columns: tuple[Column[Any], ...]
    lock: str = ""

    def run(self, connection: Connection, records: Sequence[Record]) -> list[Any]:
        """Runs the statement on all records; gives the rows that it gives. No records: nothing is sent."""
        if not records:
            return []
        if connection.dialect.name == "postgresql":
            statement, names = _from_json(self)
            document = orjson.dumps([dict(zip(names, record, strict=True)) for record in records])
            found = connection.exec_driver_sql(statement, (document.decode(),))
            return list(found) if found.returns_rows else []
        rows: list[Any] = []
        for chunk in _chunks(records):
            values = tuple(chain.from_iterable(chunk))
            found = connection.exec_driver_sql(_listed(self, len(chunk)), values)
            if found.returns_rows:
                rows.extend(found)
        return rows


def insert_into(table: Table) -> Bulk:
    """Inserts rows; a record has the values of all columns, in the table's order."""
    columns = tuple(table.columns)
    names = ", ".join(column.name for column in columns)
    return Bulk(f"INSERT INTO {table.name} ({names}) SELECT * FROM {{v}}", columns)  # noqa: S608 - names of ours


def update_by(table: Table, keys: str | tuple[str, ...], *changed: str) -> Bulk:
    """Updates rows; a record has the values of the keys, then those that change."""
    keys = (keys,) if isinstance(keys, str) else keys
    changes = ", ".join(f"{name} = v.v{place}" for place, name in enumerate(changed, len(keys) + 1))
    matches = " AND ".join(f"{table.name}.{key} = v.v{place}" for place, key in enumerate(keys, 1))
    columns = tuple(table.columns[name] for name in (*keys, *changed))
    template = f"UPDATE {table.name} SET {changes} FROM {{v}} WHERE {matches}"  # noqa: S608 - names of ours
    return Bulk(template, columns)


def select_by(table: Table, given: Iterable[Column[Any]], *keys: str, where: str = "", lock: str = "") -> Bulk:
    """Reads the columns ``given`` of the rows whose ``keys`` have the record's values. A record must not come twice.
    ``where``: a further condition.

    CROSS JOIN and not a comma, because it keeps SQLite from turning the join round and reading the whole table.
    """
    names = ", ".join(f"{table.name}.{column.name}" for column in given)
    matches = " AND ".join(f"{table.name}.{key} = v.v{place}" for place, key in enumerate(keys, 1))
    matches += f" AND {where}" if where else ""
    template = f"SELECT {names} FROM {{v}} CROSS JOIN {table.name} WHERE {matches}"  # noqa: S608 - names of ours
    return Bulk(template, tuple(table.columns[key] for key in keys), lock)


@cache
def _from_json(bulk: Bulk) -> tuple[str, list[str]]:
    names = [f"v{place}" for place in range(1, len(bulk.columns) + 1)]
    kinds = [_POSTGRESQL_TYPES[type(column.type)] for column in bulk.columns]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    return bulk.template.format(v=f"json_to_recordset($1::json) AS v({columns})") + bulk.lock, names


@cache
def _listed(bulk: Bulk, rows: int) -> str:
    width = len(bulk.columns)
    values = ", ".join([f"({', '.join('?' * width)})"] * rows)
    names = ", ".join(f"column{place} AS v{place}" for place in range(1, width + 1))
    return bulk.template.format(v=f"(SELECT {names} FROM (VALUES {values})) AS v")  # noqa: S608 - names and marks


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    begin, left = 0, len(records)
    while left:
        size = min(_CHUNK_ROWS_MAX, 1 << left.bit_length() - 1)
        yield records[begin : begin + size]
        begin, left = begin + size, left - size
