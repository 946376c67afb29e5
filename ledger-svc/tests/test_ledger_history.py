"""What happened can't be changed, and a change made behind the ledger's back shows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.caps import CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import Attempt, ChargeFacts
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.log import LogService
from ledger_svc.store.audit import Violation, audit, find_violations
from ledger_svc.store.database import Database
from ledger_svc.store.migrate import alembic_config, migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.tables import metadata
from meshkit.principal import Principal

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]


def executes(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


History = Callable[[], Awaitable[Principal]]


@pytest.fixture
def a_little_history(
    charging: ChargingService, credit: CreditService, budgets: BudgetService, new_payer: NewPayer, new_facts: NewFacts
) -> History:
    """Some of everything: holds in each state, a receipt, a correction, a cap."""
    return lambda: _make(charging, credit, budgets, new_payer, new_facts)


async def _make(
    charging: ChargingService, credit: CreditService, budgets: BudgetService, new_payer: NewPayer, new_facts: NewFacts
) -> Principal:
    payer = await new_payer(10**6, promo=10**4)
    await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=500_000
    )
    for n in range(3):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=50_000, ttl_ms=1_000, model="gpt-x")
    attempt = Attempt("openai/gpt-x", 1, 2, 200, won=True)
    receipt = await charging.settle(payer.org_id, "req-0", facts=new_facts(answer=2), attempts=[attempt])
    await credit.correct(payer.org_id, receipt.receipt_id, amount_nano_usd=500, reason="late", idempotency_key="late")
    await charging.release(payer.org_id, "req-1", reason="", attempts=())
    return payer


async def test_history_refuses_to_be_changed(
    database: Database, log_service: LogService, a_little_history: History
) -> None:
    await a_little_history()
    await log_service.grow()
    changes = [
        "DELETE FROM log_head",
        "UPDATE log_head SET size = size - 1",
        "DELETE FROM reservation",
        "UPDATE reservation SET state = 'open' WHERE request_id = 'req-0'",
        "UPDATE reservation SET state = 'settled' WHERE request_id = 'req-1'",
        "UPDATE reservation SET amount_nano_usd = 0, from_paid_nano_usd = 0, from_promo_nano_usd = 0",
        "UPDATE reservation SET created_at_ms = 1",
        "UPDATE reservation SET closed_at_ms = closed_at_ms + 1 WHERE request_id = 'req-1'",
        "UPDATE reservation SET released_at_ms = released_at_ms + 1 WHERE request_id = 'req-1'",
        "UPDATE reservation SET expires_at_ms = expires_at_ms - 1 WHERE state = 'open'",
        "UPDATE reservation SET expires_at_ms = expires_at_ms + 1 WHERE state = 'settled'",
        "DELETE FROM account",
        "UPDATE account SET posted_nano_usd = posted_nano_usd + 1",
        "UPDATE account SET version = version - 1",
        "UPDATE account SET kind = 'revenue2' WHERE kind = 'revenue'",
        "DELETE FROM api_key",
        "UPDATE api_key SET change_seq = change_seq - 1",
        "DELETE FROM key_secret",
        "UPDATE key_secret SET hmac_sha256_hex = 'known'",
        "UPDATE key_secret SET key_id = 'key_other'",
        "UPDATE api_key SET project_id = 'prj_other'",
        "DELETE FROM credit_lot",
        "UPDATE credit_lot SET remaining_nano_usd = remaining_nano_usd + 1",
        "UPDATE credit_lot SET expires_at_ms = 7",
        "DELETE FROM cap_bucket",
        "UPDATE cap_bucket SET spent = spent - 1",
        "UPDATE cap_bucket SET ends_at_ms = ends_at_ms + 1",
    ]
    for table in (
        *("transfer", "posting", "attempt", "receipt", "correction", "cap", "log_leaf", "checkpoint", "audit_log"),
    ):
        column = metadata.tables[table].columns.keys()[-1]
        changes += [f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"]
    for change in changes:
        with pytest.raises(DBAPIError, match="is history"):
            await database.write(executes(change))


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_sqlite_does_not_replace_history_either(database: Database, new_payer: NewPayer) -> None:
    await new_payer(100)
    with pytest.raises(DBAPIError, match="is history"):
        await database.write(executes("INSERT OR REPLACE INTO transfer SELECT * FROM transfer"))


async def test_the_database_itself_refuses_an_overspent_account(database: Database, a_little_history: History) -> None:
    await a_little_history()
    for change in (
        "UPDATE account SET posted_nano_usd = -1, version = version + 1 WHERE kind = 'customer_credit'",
        "UPDATE account SET reserved_nano_usd = 2000000 WHERE kind = 'customer_credit'",
        "UPDATE account SET reserved_nano_usd = -1 WHERE kind = 'promo'",
        "INSERT INTO reservation SELECT 'h', org_id, project_id, key_id, 'r', model, amount_nano_usd + 1, "
        "from_promo_nano_usd, from_paid_nano_usd, fingerprint, created_at_ms, expires_at_ms, state, closed_at_ms, "
        "released_at_ms, release_reason, amount_tokens FROM reservation WHERE request_id = 'req-0'",
        "UPDATE credit_lot SET remaining_nano_usd = -1 WHERE kind = 'customer_credit'",
        "UPDATE cap_bucket SET reserved = reserved + bound",
        "UPDATE cap_bucket SET spent = spent + bound - reserved - spent + 1",
    ):
        with pytest.raises(DBAPIError, match=r"(?i)check constraint"):
            await database.write(executes(change))


TAMPERING = {
    "UPDATE account SET posted_nano_usd = posted_nano_usd + 1 WHERE kind = 'customer_credit'": {
        "posted is the sum of the postings, and version their number",
        "what a customer's account has is what is left of its credit lots",
    },
    "UPDATE credit_lot SET remaining_nano_usd = remaining_nano_usd - 1 WHERE remaining_nano_usd > 0": {
        "what a customer's account has is what is left of its credit lots"
    },
    "UPDATE credit_lot SET granted_nano_usd = granted_nano_usd + 1": {"a credit lot is what its transfer brought"},
    "UPDATE correction SET paid_nano_usd = paid_nano_usd + 1": {"a correction says what was posted"},
    "UPDATE correction SET paid_nano_usd = paid_nano_usd + 50000": {
        "a correction says what was posted",
        "no more of a charge is given back than was charged",
    },
    "UPDATE cap_bucket SET spent = spent + 1": {
        "a bucket of dollars counts the receipts and the open holds of its period"
    },
    "UPDATE cap_bucket SET reserved = reserved - 1": {
        "a bucket of dollars counts the receipts and the open holds of its period"
    },
    "UPDATE cap_bucket SET unit = 'tokens'": {
        "a bucket of tokens counts the receipts and the open holds of its period",
        "a bucket has a cap",
    },
    "UPDATE cap SET revision = 2": {"the revisions of a cap have no gap"},
    "UPDATE receipt SET tokens = tokens + 1": {"a receipt's columns say what its document says"},
    "UPDATE account SET version = version + 1 WHERE kind = 'revenue'": {
        "posted is the sum of the postings, and version their number"
    },
    "UPDATE account SET reserved_nano_usd = reserved_nano_usd - 1 WHERE kind = 'customer_credit'": {
        "reserved is the sum of the open holds"
    },
    "UPDATE posting SET amount_nano_usd = amount_nano_usd + 1 WHERE account_id LIKE '%revenue'": {
        "a correction says what was posted",
        "the postings of a transfer sum to 0",
        "an account's versions and balances chain without a gap",
        "posted is the sum of the postings, and version their number",
    },
    "DELETE FROM posting WHERE account_id LIKE '%/customer_credit' AND account_version = 1": {
        "a credit lot is what its transfer brought",
        "the postings of a transfer sum to 0",
        "an account's versions and balances chain without a gap",
        "posted is the sum of the postings, and version their number",
    },
    "UPDATE receipt SET charged_nano_usd = charged_nano_usd + 1": {
        "a bucket of dollars counts the receipts and the open holds of its period",
        "a receipt says what was posted",
        "a receipt's columns say what its document says",
    },
    "UPDATE receipt SET absorbed_nano_usd = 5": {
        "a receipt says what was posted",
        "a receipt's columns say what its document says",
    },
    "UPDATE receipt SET document = replace(document, '\"openai\"', '\"azure\"')": {
        "a receipt's columns say what its document says",
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "DELETE FROM receipt": {
        "a bucket of dollars counts the receipts and the open holds of its period",
        "a hold has a receipt if and only if it was settled",
        "a settlement has a receipt",
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "UPDATE log_leaf SET kid = 'another'": {"a leaf is the hash of its receipt or audit entry as signed"},
    "DELETE FROM log_leaf WHERE leaf_index = 0": {
        "an audit entry has a leaf in the log",
        "the leaves of the log have no gap, and its head counts them",
    },
    "DELETE FROM log_leaf WHERE entry_id LIKE 'rcpt%'": {
        "a receipt has a leaf in the log",
        "the leaves of the log have no gap, and its head counts them",
    },
    "UPDATE log_leaf SET leaf_index = 99 WHERE leaf_index = 3": {
        "the leaves of the log have no gap, and its head counts them"
    },
    "UPDATE log_head SET size = 99": {"the leaves of the log have no gap, and its head counts them"},
    "UPDATE checkpoint SET root_hash = (SELECT signature FROM log_leaf WHERE leaf_index = 0)": {
        "a checkpoint says the root of the leaves"
    },
    "UPDATE checkpoint SET note = replace(note, '8', '9') WHERE size = 8": {"a checkpoint says the root of the leaves"},
    "UPDATE reservation SET closed_at_ms = 5 WHERE state = 'open'": {
        "a hold has a receipt if and only if it was settled"
    },
}


class Undo(Exception):
    """Ends a transaction without a trace."""


async def test_the_audit_names_the_rule_that_is_broken(
    database: Database, log_service: LogService, a_little_history: History
) -> None:
    await a_little_history()
    assert await log_service.grow() == 1
    assert await audit(database) == []
    found: list[Violation] = []

    def tamper(connection: Connection) -> None:
        unprotect(connection)
        assert connection.execute(text(statement)).rowcount > 0
        found[:] = find_violations(connection)
        raise Undo

    for statement, broken in TAMPERING.items():
        with pytest.raises(Undo):
            await database.write(tamper)
        assert {violation.rule for violation in found} == broken, statement
        assert all(violation.where and violation.detail for violation in found)


def unprotect(connection: Connection) -> None:
    """What someone would do who owns the database."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        return
    connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        connection.execute(text(f"DROP TRIGGER {name}"))


async def test_the_models_and_the_migrations_agree(database: Database) -> None:
    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    assert await database.read(compare) == []


async def test_checks_and_partial_indexes_are_those_of_the_models(database: Database) -> None:
    """compare_metadata looks at neither."""

    def compare(connection: Connection) -> None:
        inspector = inspect(connection)
        for table in metadata.sorted_tables:
            expected = {str(c.name) for c in table.constraints if c.__class__.__name__ == "CheckConstraint"}
            found = {check["name"] for check in inspector.get_check_constraints(table.name)}
            assert found == expected, table.name
            for index in inspector.get_indexes(table.name):
                if "duplicates_constraint" in index:
                    continue
                where = index.get("dialect_options", {}).get(f"{connection.dialect.name}_where")
                model = next(i for i in table.indexes if i.name == index["name"])
                assert (where is None) == (model.dialect_options["sqlite"]["where"] is None), index["name"]

    await database.read(compare)


async def test_migrating_again_changes_nothing(
    database: Database, credit: CreditService, a_little_history: History
) -> None:
    payer = await a_little_history()
    before = await credit.balance(payer.org_id)
    await asyncio.gather(*(migrate(database) for _ in range(3)))
    assert await credit.balance(payer.org_id) == before


async def test_replicas_that_start_together_on_an_empty_database_migrate_it_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: object
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/empty.db"
    else:
        server = request.getfixturevalue("postgresql")
        server.psql("CREATE DATABASE empty_one")
        url = server.get_uri("empty_one")
    replicas = [open_database(url, connections=2, wait_s=20) for _ in range(3)]
    try:
        await asyncio.gather(*(migrate(replica) for replica in replicas))
        assert await audit(replicas[0]) == []
    finally:
        for replica in replicas:
            await replica.close()


async def test_a_new_sqlite_file_that_another_process_writes_to_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # without a WAL yet: making it one is refused at once, not waited for
    replica = open_database(f"sqlite:///{path}", connections=2, wait_s=20)
    try:
        migrated = asyncio.create_task(migrate(replica))
        await asyncio.wait([migrated], timeout=0.2)
        assert not migrated.done()
        other.close()
        await migrated
        assert await audit(replica) == []
    finally:
        other.close()
        await replica.close()


async def test_no_revision_is_taken_back(database: Database) -> None:
    with pytest.raises(RuntimeError, match="not taken back"):
        await database.write(lambda connection: command.downgrade(alembic_config(connection), "base"))
    assert await audit(database) == []
