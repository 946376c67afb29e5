"""The check of a whole ledger: it names what is broken first, reads any database, and can't write to it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.signing import Keyring, PublicKeys, base64url, load_private_key
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.log import LogService
from ledger_svc.store import receipt_audit, trail_audit
from ledger_svc.store.check import Ruling, Terms, examine
from ledger_svc.store.database import Database
from ledger_svc.store.hold_audit import IN_TIME
from ledger_svc.store.reading import UnreadableError, read_only
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

TTL_MS = 1_000


def keyring() -> Keyring:
    """That of the conftest."""
    return Keyring(
        {kid: load_private_key(base64url(seed * 32)) for kid, seed in (("2026-10", b"o"), ("2026-11", b"n"))}
    )


async def rulings(url: str, terms: Terms | None = None) -> dict[str, Ruling]:
    found = await read_only(url, lambda connection: list(examine(connection, terms or Terms())))
    return {ruling.rule: ruling for ruling in found}


def broken(found: dict[str, Ruling]) -> set[str]:
    return {rule for rule, ruling in found.items() if not ruling.holds}


@pytest.fixture
async def history(
    database: Database, charging: ChargingService, log_service: LogService, new_payer: NewPayer, new_facts: NewFacts
) -> Principal:
    """Three settlements in the log, and an open hold."""
    payer = await new_payer(10**6, promo=10**4)
    for n in range(4):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=50_000, ttl_ms=TTL_MS, model="gpt-x")
    for n in range(3):
        await charging.settle(payer.org_id, f"req-{n}", facts=new_facts(answer=n + 1), attempts=())
    await log_service.grow()
    return payer


async def test_a_right_ledger_holds_every_rule_and_says_against_how_much(
    url: str, history: Principal, clock: FakeClock
) -> None:
    found = await rulings(url, Terms(overdue_before_ms=clock.now_ms(), keys=keyring().public))
    assert broken(found) == set()
    assert not any(ruling.left_out for ruling in found.values())
    counts = {(ruling.table, ruling.checked) for ruling in found.values()}
    assert counts == {
        ("audit_log", 5),
        ("posting", 10),  # two credits of two, three charges of two: the promotional credit covers none of them alone
        ("account", 8),
        ("credit_lot", 2),
        ("correction", 0),
        ("provider_key", 0),
        ("payment", 0),
        ("cap", 0),
        ("cap_bucket", 0),
        ("reservation", 4),
        ("receipt", 3),
        ("transfer", 5),
        ("log_leaf", 8),
        ("log_tile", 0),
        ("checkpoint", 1),
        ("usage_sum", 0),
    }


async def test_without_clock_and_keys_their_rules_are_left_out_and_say_why(url: str, history: Principal) -> None:
    left_out = {rule: ruling.left_out for rule, ruling in (await rulings(url)).items() if ruling.left_out}
    assert left_out == {
        IN_TIME: "no ledger runs that would sweep",
        receipt_audit.ATTESTED: "no keys were given",
        receipt_audit.SEALED: "no keys were given",
        trail_audit.TRAIL_SEALED: "no keys were given",
    }


async def test_a_hold_past_its_time_is_named_until_it_is_swept(url: str, history: Principal, clock: FakeClock) -> None:
    ends_ms = clock.now_ms() + TTL_MS
    assert broken(await rulings(url, Terms(overdue_before_ms=ends_ms - 1))) == set()
    found = await rulings(url, Terms(overdue_before_ms=ends_ms + 7))
    assert broken(found) == {IN_TIME}
    (violation,) = found[IN_TIME].breaks
    assert violation.where.startswith("hold_")
    assert "overdue_ms 7" in violation.detail


@pytest.mark.parametrize(
    "known",
    [
        {"2026-10": keyring().public["2026-10"]},
        {"2026-11": load_private_key(base64url(b"x" * 32)).public_key()},
    ],
    ids=["unknown kid", "another key"],
)
async def test_signatures_of_other_keys_are_named(url: str, history: Principal, known: PublicKeys) -> None:
    found = await rulings(url, Terms(keys=known))
    signed = (receipt_audit.ATTESTED, receipt_audit.SEALED, trail_audit.TRAIL_SEALED)
    assert broken(found) == set(signed)
    assert [len(found[rule].breaks) for rule in signed] == [1, 3, 5]


TAMPERING = {
    """UPDATE receipt SET document = replace(document, '_tokens"\\:2', '_tokens"\\:3')""": {
        receipt_audit.CHARGED,
        receipt_audit.SEALED,
        "a receipt's columns say what its document says",
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "UPDATE receipt SET document = '[]' WHERE charged_nano_usd = 20000": {
        receipt_audit.SEALED,
        "a receipt's columns say what its document says",
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "UPDATE receipt SET hold_id = (SELECT hold_id FROM reservation WHERE state = 'open') WHERE request_id = 'req-1'": {
        "a receipt is of the request and the payer of its hold",
        "a hold has a receipt if and only if it was settled",
        "a receipt's columns say what its document says",
    },
    "UPDATE reservation SET key_id = 'key_of_another' WHERE request_id = 'req-2'": {
        "a receipt is of the request and the payer of its hold",
    },
    "UPDATE log_leaf SET signature = (SELECT signature FROM log_leaf WHERE leaf_index = 0) WHERE leaf_index = 7": {
        receipt_audit.SEALED,
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "UPDATE log_leaf SET signature = (SELECT signature FROM log_leaf WHERE leaf_index = 0) WHERE leaf_index = 1": {
        trail_audit.TRAIL_SEALED,
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    """UPDATE audit_log SET document = replace(document, '"key"', '"KEY"') WHERE action = 'key.created'""": {
        trail_audit.TRAIL_SEALED,
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    """UPDATE audit_log SET document = replace(document, ',"actor"', ', "actor"') WHERE action = 'key.created'""": {
        trail_audit.TRAIL_COLUMNS,
        trail_audit.TRAIL_SEALED,
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "UPDATE audit_log SET actor_id = 'key_of_another' WHERE action = 'key.created'": {trail_audit.TRAIL_COLUMNS},
    "UPDATE audit_log SET document = '[]' WHERE action = 'key.created'": {
        trail_audit.TRAIL_COLUMNS,
        trail_audit.TRAIL_SEALED,
        "a leaf is the hash of its receipt or audit entry as signed",
    },
    "DELETE FROM audit_log WHERE action = 'key.created'": {
        "a leaf is the hash of its receipt or audit entry as signed"
    },
    "UPDATE log_leaf SET entry_id = 'aud_of_nothing' WHERE leaf_index = 0": {
        "an audit entry has a leaf in the log",
        "a leaf is the hash of its receipt or audit entry as signed",
    },
}


class Undo(Exception):
    """Ends a transaction without a trace."""


async def test_what_was_tampered_with_is_named(database: Database, history: Principal) -> None:
    found: dict[str, Ruling] = {}

    def tamper(connection: Connection) -> None:
        unprotect(connection)
        assert connection.execute(text(statement)).rowcount > 0
        found.clear()
        found.update({ruling.rule: ruling for ruling in examine(connection, Terms(keys=keyring().public))})
        raise Undo

    for statement, expected in TAMPERING.items():
        with pytest.raises(Undo):
            await database.write(tamper)
        assert broken(found) == expected, statement


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_a_hold_that_was_settled_twice_is_named(url: str, database: Database, history: Principal) -> None:
    """The schema does not let it; so this is a copy without the schema's word."""
    path = Path(str(make_url(url).database))
    copy = path.with_name(f"copy-{path.name}")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.executescript(
            "CREATE TABLE free AS SELECT * FROM receipt; PRAGMA foreign_keys = OFF; DROP TABLE receipt;"
            "ALTER TABLE free RENAME TO receipt;"
            "INSERT INTO receipt SELECT 'rcpt_twice', org_id, request_id, hold_id, 'xfer_twice', project_id, key_id,"
            " served_mode, model, source_id, held_nano_usd, charged_nano_usd, saved_nano_usd, absorbed_nano_usd,"
            " created_at_ms, fingerprint, document, tokens FROM receipt LIMIT 1;"
        )
    source.close()
    target.close()
    found = await rulings(f"sqlite:///{copy}")
    assert found["a hold is settled once"].breaks[0].detail == "receipts 2"


def unprotect(connection: Connection) -> None:
    """What someone would do who owns the database."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        return
    connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
        connection.execute(text(f"DROP TRIGGER {name}"))


async def test_the_reader_can_not_write(url: str, history: Principal) -> None:
    def write(connection: Connection) -> None:
        connection.execute(text("UPDATE account SET version = version"))

    with pytest.raises(UnreadableError, match=r"(?i)read-?only") as refused:
        await read_only(url, write)
    assert isinstance(refused.value.__cause__, DBAPIError)


async def test_the_reader_sees_one_state_while_the_ledger_goes_on(
    url: str, history: Principal, charging: ChargingService, database: Database
) -> None:
    """What is written in the middle of a check belongs to the next one."""
    counts = text("SELECT count(*) FROM reservation")
    seen = []

    async def reserve_more() -> None:
        await charging.reserve(history, "req-late", amount_nano_usd=1, ttl_ms=1, model="gpt-x")

    if database.__class__.__name__ == "SqliteDatabase":
        path = str(make_url(url).database)
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None) as reader:
            reader.execute("BEGIN")
            seen.append(reader.execute(str(counts)).fetchone()[0])
            await reserve_more()
            seen.append(reader.execute(str(counts)).fetchone()[0])
        reader.close()
    else:
        from sqlalchemy.util import await_only

        def count_around(connection: Connection) -> None:
            seen.append(connection.execute(counts).scalar_one())
            await_only(reserve_more())
            seen.append(connection.execute(counts).scalar_one())

        await read_only(url, count_around)
    assert seen == [4, 4]
    assert (await rulings(url))["a hold is settled once"].holds


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_what_a_killed_ledger_left_in_its_wal_is_checked(url: str, history: Principal, tmp_path: Path) -> None:
    """As after kill -9: nobody has moved the WAL into the file, and its index is gone."""
    path = Path(str(make_url(url).database))
    for name in (path.name, f"{path.name}-wal"):
        shutil.copyfile(path.with_name(name), tmp_path / name)
    before = (tmp_path / path.name).read_bytes()
    found = await rulings(f"sqlite:///{tmp_path / path.name}")
    assert broken(found) == set()
    assert found[receipt_audit.CHARGED].checked == 3
    assert (tmp_path / path.name).read_bytes() == before


async def test_what_is_no_ledger_of_this_version_is_refused(
    url: str, database: Database, tmp_path: Path, history: Principal
) -> None:
    empty, noise = tmp_path / "empty.db", tmp_path / "noise.db"
    sqlite3.connect(empty).close()
    noise.write_bytes(b"no database" * 1_000)
    for wrong, why in (
        (f"sqlite:///{tmp_path}/none.db", "there is no file"),
        (f"sqlite:///{empty}", "not a ledger's database"),
        (f"sqlite:///{noise}", "not a database"),
        ("mysql://h/d", "neither sqlite nor postgresql"),
        ("no url", "not a database URL"),
        (f"postgresql://u:secret@/d?host={tmp_path}", r"\*\*\*.*can't be read"),
    ):
        with pytest.raises(UnreadableError, match=why):
            await rulings(wrong)
    await database.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '0000'")))
    with pytest.raises(UnreadableError, match=r"revision 0000, this version checks \d"):
        await rulings(url)
