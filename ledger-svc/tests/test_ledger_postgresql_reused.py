"""The databases that tests are given: each as new, whatever the test before did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from ledger_postgresql import ReusedDatabases, run_apart

NewPayer = Callable[..., Awaitable[Any]]


@pytest.fixture
def databases(postgresql_databases: ReusedDatabases) -> Iterator[ReusedDatabases]:
    yield postgresql_databases


def told(url: str, *statements: str) -> None:
    async def tell() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    run_apart(tell)


def content(url: str) -> dict[str, list[Any]]:
    async def read() -> dict[str, list[Any]]:
        connection = await asyncpg.connect(url)
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = {name: await connection.fetch(f"SELECT * FROM {name}") for (name,) in names}
        await connection.close()
        return {name: [tuple(row) for row in rows] for name, rows in found.items()}

    return run_apart(read)


def test_what_a_test_wrote_is_gone_and_what_migrations_wrote_is_back(databases: ReusedDatabases) -> None:
    with databases.one() as url:
        before = content(url)
        told(
            url,
            "INSERT INTO org (org_id, name, created_at_ms, change_seq) VALUES ('org_1', 'one', 1, 0)",
            "UPDATE usage_cursor SET next_leaf = 7",
            "ANALYZE",
        )
        assert content(url) != before
    with databases.one() as again:
        assert (again, content(again)) == (url, before)
    assert before["usage_cursor"] and before["alembic_version"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE receipt DISABLE TRIGGER ALL",
        "ALTER TABLE receipt ADD COLUMN another text",
        "CREATE TABLE another (id int)",
        "DROP INDEX ix_failed_request_org_id_at_ms_request_id",
    ],
)
def test_a_database_whose_schema_was_changed_is_not_given_again(databases: ReusedDatabases, change: str) -> None:
    with databases.one() as url:
        told(url, change)
    with databases.one() as another:
        assert another != url


def test_a_connection_that_a_test_left_open_is_ended(databases: ReusedDatabases) -> None:
    left: list[asyncpg.Connection] = []

    async def leave(url: str) -> None:
        left.append(await asyncpg.connect(url))
        await left[0].execute("BEGIN; LOCK TABLE org")

    async def leave_and_give_back() -> None:
        with databases.one() as url:
            await leave(url)
        with databases.one() as again:
            assert again == url
        with pytest.raises(asyncpg.PostgresError):
            await left[0].fetch("SELECT 1")

    run_apart(leave_and_give_back)
