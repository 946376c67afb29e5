"""Databases of earlier revisions, brought to the newest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.holds import Hold, HoldState
from ledger_svc.domain.journal import Transfer, TransferKind
from ledger_svc.domain.keys import Peppers, mint_secret
from ledger_svc.domain.merkle import leaf_hash, verify_consistency, verify_inclusion
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.signing import JwsKind, Keyring, load_private_key, verify_jws
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.log import LogService
from ledger_svc.service.trail import TrailService
from ledger_svc.store import rows
from ledger_svc.store.audit import audit
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.migrate import alembic_config, migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG, CREDIT_LOT, LOG_LEAF, ORG, RECEIPT, RESERVATION, TRANSFER
from ledger_svc.store.trail import Trail
from ledger_svc.store.trail_records import TrailRecords
from ledger_svc.store.writer import Writer
from meshkit.principal import OPERATOR
from meshkit.testing import FakeClock

NewFacts = Callable[..., ChargeFacts]
SEED = "b25l" * 10 + "b24"


@pytest.fixture
async def empty(kind: str, request: pytest.FixtureRequest, tmp_path: object) -> AsyncIterator[Database]:
    """A database without a schema."""
    url, name = f"sqlite:///{tmp_path}/old.db", f"old_{abs(hash(request.node.name))}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        server.psql(f"CREATE DATABASE {name}")
        url = server.get_uri(name)
    database = open_database(url, connections=2, wait_s=20)
    try:
        yield database
    finally:
        await database.close()


def insert_as_it_was(connection: Connection, n: int, facts: ChargeFacts) -> None:
    """A settled hold with its receipt, as revision 0002 has them."""
    hold = Hold(
        *(f"hold_{n}", "org", "prj", "key", f"req_{n}", "gpt-x", 0, 0, 0, "", 1, 2),
        state=HoldState.SETTLED,
        closed_at_ms=1,
    )
    transfer = Transfer(f"xfer_{n}", "org", TransferKind.SETTLEMENT, f"settle:req_{n}", "", 1)
    receipt = Receipt(
        f"rcpt_{n}",
        hold.hold_id,
        hold.request_id,
        "org",
        "prj",
        "key",
        facts,
        0,
        0,
        0,
        0,
        (),
        1,
        version=1,
    )
    entry = ReceiptEntry(receipt, transfer.transfer_id, "")
    for table, record, since in (
        (RESERVATION, rows.hold_record(hold), 1),
        (TRANSFER, rows.transfer_record(transfer), 0),
        (RECEIPT, rows.receipt_record(entry), 1),
    ):
        names = [column.name for column in table.columns]
        old = dict(list(zip(names, record, strict=True))[: len(names) - since])
        connection.execute(text(f"INSERT INTO {table.name} ({', '.join(old)}) VALUES (:{', :'.join(old)})"), old)


async def test_a_database_from_before_the_log_is_migrated_and_its_receipts_are_proved(
    empty: Database, new_facts: NewFacts, clock: FakeClock
) -> None:
    keys = Keyring({"k": load_private_key(SEED)})

    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0002_writer_epoch")
        connection.execute(insert(ORG).values(org_id="org", name="Acme", created_at_ms=1))
        for n in range(3):
            insert_as_it_was(connection, n, new_facts(prompt=n))

    await empty.write(make_old)
    await migrate(empty)
    async with Writer(empty, Sealer(keys)).running() as writer:
        log = ReceiptLog(empty, writer, keys, "o")
        service = LogService(log=log, keys=keys, origin="o", clock=clock)
        assert await log.backfill() == 3
        for n in range(3):
            found = await service.inclusion("org", f"rcpt_{n}", 0)
            verify_jws(found.receipt.jws, keys.public)
            leaf = leaf_hash(found.receipt.jws.encode())
            at = found.checkpoint
            assert verify_inclusion(leaf, found.receipt.leaf_index, at.size, found.hashes, at.root_hash)
    assert await audit(empty) == []
    counted = await empty.read(lambda c: c.scalars(select(RECEIPT.c.tokens).order_by(RECEIPT.c.receipt_id)).all())
    assert counted == [0, 1, 2]


async def test_an_older_database_gets_lots_of_what_its_accounts_have(empty: Database) -> None:
    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0003_receipt_log")
        run = connection.exec_driver_sql
        run("INSERT INTO org VALUES ('org', 'Acme', 1)")
        for account, balance, version in (("customer_credit", 60, 3), ("promo", 0, 0), ("credit_source", -90, 2)):
            run(f"INSERT INTO account VALUES ('org/{account}', 'org', '{account}', {balance}, 0, 0, {version})")
        run("INSERT INTO account VALUES ('org/revenue', 'org', 'revenue', 30, 0, 0, 1)")
        for n, what, amount, source in ((1, "credit", 40, -40), (2, "credit", 50, -90), (3, "manual", -30, 30)):
            run(f"INSERT INTO transfer VALUES ('xfer_{n}', 'org', '{what}', 'k{n}', '', {n})")
            after = {1: 40, 2: 90, 3: 60}[n]
            run(f"INSERT INTO posting VALUES ('org/customer_credit', {n}, 'xfer_{n}', {amount}, {after})")
            other, version = ("credit_source", n) if amount > 0 else ("revenue", 1)
            run(f"INSERT INTO posting VALUES ('org/{other}', {version}, 'xfer_{n}', {-amount}, {source})")

    await empty.write(make_old)
    await migrate(empty)
    assert await audit(empty) == []
    query = select(CREDIT_LOT.c.lot_id, CREDIT_LOT.c.remaining_nano_usd).order_by(CREDIT_LOT.c.lot_id)
    found = await empty.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in found] == [("xfer_1", 10), ("xfer_2", 50)]


async def test_a_log_of_receipts_is_kept_and_the_audit_trail_joins_it(
    empty: Database, new_facts: NewFacts, clock: FakeClock
) -> None:
    keys = Keyring({"k": load_private_key(SEED)})
    entries = [
        TrailEntry(f"aud_{n}", "org", 1, OPERATOR, "key.created", f"key_{n}", after={"name": "x"}) for n in range(2)
    ]
    leaves: list[tuple[Any, ...]] = []

    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0005_audit_trail")
        connection.execute(insert(ORG).values(org_id="org", name="Acme", created_at_ms=1))
        for n in range(3):
            insert_as_it_was(connection, n, new_facts())
            document = connection.execute(
                text("SELECT document FROM receipt WHERE receipt_id = :id"), {"id": f"rcpt_{n}"}
            ).scalar_one()
            seal = keys.seal(document.encode())
            leaves.append((n, f"rcpt_{n}", seal.kid, seal.signature, seal.leaf_hash))
            names = ("leaf_index", "receipt_id", "kid", "signature", "leaf_hash")
            connection.execute(
                text("INSERT INTO log_leaf VALUES (:leaf_index, :receipt_id, :kid, :signature, :leaf_hash)"),
                dict(zip(names, leaves[-1], strict=True)),
            )
        connection.execute(text("UPDATE log_head SET size = 3"))
        connection.execute(insert(AUDIT_LOG), [entry_values(entry) for entry in entries])

    await empty.write(make_old)
    await migrate(empty)
    query = select(LOG_LEAF).order_by(LOG_LEAF.c.leaf_index)
    kept = await empty.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in kept] == leaves
    async with Writer(empty, Sealer(keys)).running() as writer:
        log = ReceiptLog(empty, writer, keys, "o")
        service = LogService(log=log, keys=keys, origin="o", clock=clock)
        before = await service.checkpoint(0)
        assert before.size == 3
        assert await log.backfill() == 2
        trail = TrailService(
            TrailRecords(empty, writer, Trail(Sealer(keys))), service, clock=clock, make_id=lambda kind: kind
        )
        for entry in entries:
            proof = await trail.prove("org", entry.entry_id, 0)
            verify_jws(proof.entry.jws, keys.public, JwsKind.AUDIT_ENTRY)
            leaf, at = leaf_hash(proof.entry.jws.encode()), proof.checkpoint
            assert verify_inclusion(leaf, proof.entry.leaf_index, at.size, proof.hashes, at.root_hash)
        grown = await service.consistency(3, 0)
        root = (await service.checkpoint(0)).root_hash
        assert verify_consistency(3, grown.second_size, before.root_hash, root, grown.hashes)
    assert grown.second_size == 5
    assert {found.rule for found in await audit(empty)} == set()
    for change in ("UPDATE log_leaf SET kid = kid", "DELETE FROM log_leaf"):
        with pytest.raises(DBAPIError, match="is history"):
            await empty.write(executes(change))


def entry_values(entry: TrailEntry) -> dict[str, Any]:
    return dict(zip(AUDIT_LOG.columns.keys(), rows.entry_record(entry), strict=True))


def executes(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


async def test_keys_of_before_they_could_have_two_secrets_are_known_as_ever(empty: Database, clock: FakeClock) -> None:
    peppers = Peppers({1: "pepper-for-tests"})
    secret = mint_secret(lambda _: 7)
    digest = peppers.digest(secret)

    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0005_audit_trail")
        run = connection.exec_driver_sql
        run("INSERT INTO org VALUES ('org', 'Acme', 1)")
        run("INSERT INTO project VALUES ('prj', 'org', 'web', 1)")
        for key, hmac, revoked in (("key_1", digest.hmac_sha256_hex, 0), ("key_2", "b", 5)):
            run(
                "INSERT INTO api_key VALUES "
                f"('{key}', 'org', 'prj', 'old', 'tg-777777', '{hmac}', 1, '[\"gpt-*\"]', 1, 0, {revoked}, '{{}}')"
            )

    await empty.write(make_old)
    await migrate(empty)
    async with Writer(empty, Sealer(Keyring({"k": load_private_key(SEED)}))).running() as writer:
        directory = Directory(empty, writer, Trail(Sealer(Keyring({"k": load_private_key(SEED)}))))
        found = await directory.find_key(peppers.digests(secret))
        assert found is not None
        assert (found[0].key_id, found[0].allowed_models, found[1].expires_at_ms) == ("key_1", ("gpt-*",), 0)
        assert (await directory.key("org", "key_2")).revoked_at_ms == 5
        assert await directory.newest_change() == 0


async def test_a_key_of_before_cache_policies_keeps_its_cache_off(empty: Database) -> None:
    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0011_provider_keys")
        run = connection.exec_driver_sql
        run("INSERT INTO org VALUES ('org', 'Acme', 1)")
        run("INSERT INTO project VALUES ('prj', 'org', 'web', 1)")
        for key, policy in (
            ("key_on", '{"allowed_cidrs":[],"cache_default":"on","scope":"inference"}'),
            ("key_off", '{"allowed_cidrs":[],"cache_default":"off","scope":"inference"}'),
            ("key_old", "{}"),
        ):
            run(f"INSERT INTO api_key VALUES ('{key}', 'org', 'prj', 'old', 'tg-777777', '[]', 1, 0, 0, '{policy}', 0)")

    await empty.write(make_old)
    await migrate(empty)
    query = text("SELECT key_id, cache_policy FROM api_key ORDER BY key_id")
    found = await empty.read(lambda connection: connection.execute(query).all())
    assert [(row.key_id, row.cache_policy) for row in found] == [
        ("key_off", '{"default":"off"}'),
        ("key_old", "{}"),
        ("key_on", "{}"),
    ]
