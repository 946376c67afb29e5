"""The log on each real database: leaves without gaps, checkpoints, proofs, and receipts that are older than the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.checkpoints import verify_checkpoint
from ledger_svc.domain.errors import InsufficientBalance, InvalidRequest, NotFound
from ledger_svc.domain.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from ledger_svc.domain.receipts import decode
from ledger_svc.domain.signing import Keyring, PublicKeys, load_private_key, verify_jws
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.log import InclusionProof, LogService
from ledger_svc.store.audit import Violation, audit, find_violations
from ledger_svc.store.database import Database
from ledger_svc.store.log import LEAVES_AT_ONCE, ReceiptLog
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import LOG_HEAD, LOG_LEAF, LOG_TILE
from ledger_svc.store.writer import Writer
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

SEED = "b25l" * 10 + "b24"
ENTRIES_OF_A_PAYER = 4
"""Of the audit trail: organisation, project, key, credit."""


@pytest.fixture
def public(log_service: LogService) -> PublicKeys:
    return log_service.keys.public


@pytest.fixture
def charge(charging: ChargingService, new_facts: NewFacts) -> Callable[..., Awaitable[str]]:
    """Charges for a replay; gives the receipt's id."""

    async def run(payer: Principal, request_id: str, answer: int = 1) -> str:
        facts = new_facts(answer=answer, mode=ServedMode.EXACT)
        return (await charging.charge(payer, request_id, facts=facts)).receipt_id

    return run


def check(found: InclusionProof, public: PublicKeys) -> None:
    """What anyone can check who has the keys."""
    _, document = verify_jws(found.receipt.jws, public)
    assert decode(document.decode()) == found.receipt.receipt
    _, said = verify_checkpoint(found.checkpoint.note, public)
    assert (said.size, said.root_hash) == (found.checkpoint.size, found.checkpoint.root_hash)
    leaf = leaf_hash(found.receipt.jws.encode())
    assert verify_inclusion(leaf, found.receipt.leaf_index, said.size, found.hashes, said.root_hash)


async def leaves(database: Database) -> list[tuple[int, str]]:
    query = select(LOG_LEAF.c.leaf_index, LOG_LEAF.c.entry_id).order_by(LOG_LEAF.c.leaf_index)
    return [(row[0], row[1]) for row in await database.read(lambda connection: connection.execute(query).all())]


async def test_two_hundred_settlements_at_once_leave_no_gap(
    database: Database,
    charging: ChargingService,
    charge: Callable[..., Awaitable[str]],
    log_service: LogService,
    new_payer: NewPayer,
    new_facts: NewFacts,
    public: PublicKeys,
) -> None:
    payers = [await new_payer(10**9) for _ in range(5)]
    poor = await new_payer(0)

    async def settle(n: int) -> str:
        payer = payers[n % 5]
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=50_000, ttl_ms=10**6, model="gpt-x")
        return (await charging.settle(payer.org_id, f"req-{n}", facts=new_facts(answer=1), attempts=())).receipt_id

    async def refused(n: int) -> None:
        with pytest.raises(InsufficientBalance):
            await charge(poor, f"poor-{n}")

    growing = asyncio.create_task(log_service.run(0.001))
    written = await asyncio.gather(*(settle(n) for n in range(200)), *(refused(n) for n in range(20)))
    again = [
        await charging.settle(payers[n].org_id, f"req-{n}", facts=new_facts(answer=1), attempts=()) for n in range(3)
    ]
    assert [receipt.receipt_id for receipt in again] == written[:3]
    growing.cancel()
    found = await leaves(database)
    assert [index for index, _ in found] == list(range(200 + 5 * ENTRIES_OF_A_PAYER + 3))
    assert {receipt_id for _, receipt_id in found if receipt_id.startswith("rcpt")} == set(written[:200])
    for receipt_id in written[:200:20]:
        check(await log_service.inclusion("", str(receipt_id), 0), public)


async def test_a_proof_reads_stored_subtrees_and_every_receipt_has_one(
    database: Database,
    log: ReceiptLog,
    log_service: LogService,
    charge: Callable[..., Awaitable[str]],
    new_payer: NewPayer,
    public: PublicKeys,
) -> None:
    await log_service.grow()
    payer = await new_payer(10**9)
    first = ENTRIES_OF_A_PAYER
    sizes, ids = [0], list[str]()
    for step in (1, 2, 254, 1, 90):
        for _ in range(step):
            ids.append(await charge(payer, f"req-{len(ids)}"))
        assert await log_service.grow() == 1
        sizes.append(first + len(ids))
    tiles = await database.read(lambda c: [(row.level, row.tile_index) for row in c.execute(select(LOG_TILE))])
    assert tiles == [(8, 0)]
    with pytest.raises(DBAPIError, match="is history"):
        await database.write(lambda c: c.execute(text("DELETE FROM log_tile")))
    for index in (0, 1, 2, 100, 251, 252, 253, 347):
        found = await log_service.inclusion(payer.org_id, ids[index], 0)
        assert (found.receipt.leaf_index, found.checkpoint.size) == (first + index, first + 348)
        check(found, public)
    early = await log_service.inclusion(payer.org_id, ids[2], first + 257)
    assert early.checkpoint.size == first + 257
    check(early, public)
    states = [await log_service.checkpoint(size) for size in sizes[1:]]
    states.insert(0, await log.checkpoint(0))
    assert states[0].root_hash == EMPTY_ROOT
    for at, old in enumerate(states):
        for new in states[at:]:
            proof = await log_service.consistency(old.size, new.size)
            assert (proof.first_size, proof.second_size) == (old.size, new.size or first + 348)
            if new.size:
                assert verify_consistency(old.size, new.size, old.root_hash, new.root_hash, proof.hashes)


async def test_a_receipt_is_proved_at_once_and_a_checkpoint_is_there_from_the_start(
    log: ReceiptLog,
    log_service: LogService,
    charge: Callable[..., Awaitable[str]],
    new_payer: NewPayer,
    clock: FakeClock,
    public: PublicKeys,
) -> None:
    empty = await log_service.checkpoint(0)
    assert (empty.size, empty.created_at_ms) == (0, clock.now_ms())
    payer = await new_payer(10**9)
    receipt_id = await charge(payer, "req")
    check(await log_service.inclusion(payer.org_id, receipt_id, 0), public)
    assert await log_service.grow() == 0
    assert (await log_service.checkpoint(0)) == (await log_service.checkpoint(ENTRIES_OF_A_PAYER + 1))


async def test_what_can_not_be_proved_is_refused(
    log_service: LogService, charge: Callable[..., Awaitable[str]], new_payer: NewPayer
) -> None:
    payer, other = await new_payer(10**9), await new_payer()
    first = await charge(payer, "req-0")
    await log_service.grow()
    second = await charge(payer, "req-1")
    await log_service.grow()
    one = ENTRIES_OF_A_PAYER + 3 + 1  # the other payer has no credit
    for org_id, receipt_id in ((other.org_id, first), (payer.org_id, "rcpt_none")):
        with pytest.raises(NotFound):
            await log_service.inclusion(org_id, receipt_id, 0)
    for receipt_id, size in ((second, one), (first, one + 2), (first, -1)):
        with pytest.raises(InvalidRequest, match="tree_size"):
            await log_service.inclusion(payer.org_id, receipt_id, size)
    with pytest.raises(NotFound):
        await log_service.checkpoint(one + 2)
    for sizes, name in (((2, 1), "first_size"), ((0, one + 2), "second_size"), ((-1, 2), "first_size")):
        with pytest.raises(InvalidRequest, match=name):
            await log_service.consistency(*sizes)


async def test_replicas_that_grow_the_log_at_once_write_one_log(
    database: Database,
    log: ReceiptLog,
    log_service: LogService,
    charge: Callable[..., Awaitable[str]],
    new_payer: NewPayer,
    clock: FakeClock,
    public: PublicKeys,
) -> None:
    payer = await new_payer(10**9)
    replicas = [LogService(log=log, keys=log_service.keys, origin=log_service.origin, clock=clock) for _ in range(4)]
    for n in range(10):
        receipt_id = await charge(payer, f"req-{n}")
        proofs = await asyncio.gather(*(replica.inclusion("", receipt_id, 0) for replica in replicas))
        for found in proofs:
            check(found, public)
        assert len({found.checkpoint.note for found in proofs}) == 1


async def test_many_leaves_are_taken_in_bounded_steps(unchecked: Database, clock: FakeClock) -> None:
    """The leaves are made up: it is the tree that is looked at."""
    count = 2 * LEAVES_AT_ONCE + 5
    keys = Keyring({"k": load_private_key(SEED)})

    def fill(connection: Connection) -> None:
        values = [
            {"leaf_index": n, "entry_id": f"r{n}", "kid": "k", "signature": b"s", "leaf_hash": leaf_hash(b"%d" % n)}
            for n in range(count)
        ]
        connection.execute(insert(LOG_LEAF), values)
        connection.execute(LOG_HEAD.update().values(size=count))

    await _without_foreign_keys(unchecked, fill)
    async with Writer(unchecked, Sealer(keys)).running() as writer:
        service = LogService(log=ReceiptLog(unchecked, writer, keys, "o"), keys=keys, origin="o", clock=clock)
        assert await service.grow() == 3
        newest = await service.checkpoint(0)
        assert newest.size == count
        old = await service.checkpoint(LEAVES_AT_ONCE)
        proof = await service.consistency(old.size, 0)
        assert verify_consistency(old.size, count, old.root_hash, newest.root_hash, proof.hashes)


async def _without_foreign_keys(database: Database, work: Callable[[Connection], None]) -> None:
    def run(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        if connection.dialect.name == "sqlite":
            # A pragma for foreign keys is ignored inside a transaction: end it, and begin another.
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        work(connection)

    await database.write(run)


async def test_receipts_and_entries_from_before_the_log_get_leaves(
    database: Database,
    log: ReceiptLog,
    log_service: LogService,
    charge: Callable[..., Awaitable[str]],
    new_payer: NewPayer,
    public: PublicKeys,
) -> None:
    payer = await new_payer(10**9)
    ids = [await charge(payer, f"req-{n}") for n in range(3)]

    def forget(connection: Connection) -> None:
        """As the migration finds it, on a database that had receipts."""
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for name in ("log_leaf_refuses_delete", "log_head_refuses_update"):
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text("DELETE FROM log_leaf"))
        connection.execute(text("UPDATE log_head SET size = 0, unlogged = (SELECT count(*) FROM receipt)"))

    await database.write(forget)
    assert {found.rule for found in await audit(database)} == {
        "a receipt has a leaf in the log",
        "an audit entry has a leaf in the log",
    }
    assert sum(await asyncio.gather(*(log.backfill() for _ in range(3)))) == 3 + ENTRIES_OF_A_PAYER
    assert await log.backfill() == 0
    new = await charge(payer, "req-3")
    for receipt_id in (*ids, new):
        check(await log_service.inclusion(payer.org_id, receipt_id, 0), public)
    found = [entry_id for _, entry_id in await leaves(database)]
    assert (found[:3], found[-1]) == (sorted(ids), new)
    assert await audit(database) == []


async def test_a_rewritten_tree_is_found(
    database: Database, log_service: LogService, charge: Callable[..., Awaitable[str]], new_payer: NewPayer
) -> None:
    payer = await new_payer(10**9)
    for n in range(256):
        await charge(payer, f"req-{n}")
    await log_service.grow()

    class Undo(Exception):
        pass

    found: list[Violation] = []

    def tamper(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        else:
            for (name,) in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text(statement))
        found[:] = find_violations(connection)
        raise Undo

    for statement in (
        "DELETE FROM log_tile",
        "UPDATE log_tile SET root_hash = (SELECT leaf_hash FROM log_leaf WHERE leaf_index = 0)",
        "INSERT INTO log_tile SELECT 16, 0, root_hash FROM log_tile",
    ):
        with pytest.raises(Undo):
            await database.write(tamper)
        assert {violation.rule for violation in found} == {"a stored subtree is the hash of its leaves"}, statement


async def test_a_rotated_key_signs_from_then_on_and_the_old_receipts_still_verify(
    database: Database,
    log_service: LogService,
    writer: Writer,
    records: Records,
    charge: Callable[..., Awaitable[str]],
    new_payer: NewPayer,
    new_facts: NewFacts,
    clock: FakeClock,
) -> None:
    payer = await new_payer(10**9)
    old = await charge(payer, "req-old")
    before = (await log_service.inclusion("", old, 0)).checkpoint
    retired = dict(log_service.keys.public)
    keys = Keyring({"2026-12": load_private_key(SEED)}, retired)
    writer._sealer = Sealer(keys)  # as a restart would, with other settings
    log = ReceiptLog(database, writer, keys, log_service.origin)
    service = LogService(log=log, keys=keys, origin=log_service.origin, clock=clock)
    charging = ChargingService(ledger=writer, clock=clock, make_id=lambda kind: f"{kind}_z")
    new = await charging.charge(payer, "req-new", facts=new_facts(answer=1, mode=ServedMode.EXACT))
    for receipt_id, kid in ((old, "2026-11"), (new.receipt_id, "2026-12")):
        found = await service.inclusion("", receipt_id, 0)
        check(found, keys.public)
        assert verify_jws(found.receipt.jws, keys.public)[0] == kid
        assert verify_checkpoint(found.checkpoint.note, keys.public)[0] == kid
    assert verify_checkpoint(before.note, keys.public)[0] == "2026-11"
    grown = await service.consistency(before.size, 0)
    root = (await service.checkpoint(0)).root_hash
    assert verify_consistency(before.size, grown.second_size, before.root_hash, root, grown.hashes)
