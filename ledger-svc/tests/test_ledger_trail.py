"""The audit trail on each real database: what is told of each change, once, in the log, and without secrets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from ledger_trail import a_repricing, an_entry, told
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.caps import UNLIMITED, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.checkpoints import verify_checkpoint
from ledger_svc.domain.errors import IdempotencyConflict, InvalidRequest
from ledger_svc.domain.merkle import leaf_hash, verify_inclusion
from ledger_svc.domain.signing import InvalidSignatureError, JwsKind, verify_jws
from ledger_svc.domain.trail import decode
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.service.trail import TrailService
from ledger_svc.store.audit import audit
from ledger_svc.store.database import Database
from ledger_svc.store.tables import AUDIT_LOG
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.money import NANO_PER_USD
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

ADA = Actor(ActorKind.API_KEY, "key_ada", "2001:db8::7", "ab" * 16)
CATALOG = Actor(ActorKind.SYSTEM, "catalog")
USD = NANO_PER_USD


async def test_credit_is_told_once_with_the_balance_before_and_after(
    credit: CreditService, trail: TrailService, new_payer: NewPayer, clock: FakeClock
) -> None:
    payer = await new_payer(10 * USD)
    for _ in range(2):
        await credit.add(
            payer.org_id, amount_nano_usd=5 * USD // 2, idempotency_key="more", kind=CreditKind.PAID, actor=ADA
        )
    with pytest.raises(IdempotencyConflict):
        await credit.add(payer.org_id, amount_nano_usd=1, idempotency_key="more", kind=CreditKind.PAID, actor=ADA)
    for _ in range(2):
        await credit.refund(payer.org_id, amount_nano_usd=3 * USD, reason="sorry", idempotency_key="back", actor=ADA)
    first, second = (await told(trail, payer.org_id, "credit."))[1:]
    assert (first.action, first.actor, first.created_at_ms) == ("credit.added", ADA, clock.now_ms())
    assert first.before == {"kind": "paid", "posted_usd": "10"}
    assert first.after == {
        "kind": "paid",
        "posted_usd": "12.5",
        "amount_usd": "2.5",
        "priority": 100,
        "expires_at_ms": 0,
        "idempotency_key": "more",
    }
    assert (second.action, second.actor) == ("credit.refunded", ADA)
    assert second.before == {"kind": "paid", "posted_usd": "12.5"}
    assert (second.after["posted_usd"], second.after["amount_usd"], second.after["reason"]) == ("9.5", "3", "sorry")


async def test_a_correction_is_told_with_what_was_given_back(
    charging: ChargingService, credit: CreditService, trail: TrailService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(USD)
    receipt = await charging.charge(payer, "req", facts=new_facts(answer=40, mode=ServedMode.EXACT))
    for key, amount in (("a", 100), ("a", 100), ("b", 50)):
        await credit.correct(
            payer.org_id, receipt.receipt_id, amount_nano_usd=amount, reason="late", idempotency_key=key, actor=ADA
        )
    first, second = await told(trail, payer.org_id, "charge.corrected")
    assert (first.subject, first.actor) == (receipt.receipt_id, ADA)
    assert (first.before, second.before) == ({"corrected_usd": "0"}, {"corrected_usd": "0.0000001"})
    assert (first.after["corrected_usd"], second.after["corrected_usd"]) == ("0.0000001", "0.00000015")
    assert (second.after["paid_usd"], second.after["promotional_usd"]) == ("0.00000005", "0")


async def test_caps_are_told_as_they_change_and_what_changes_nothing_is_not(
    budgets: BudgetService, trail: TrailService, new_payer: NewPayer
) -> None:
    payer = await new_payer()

    async def cap(limit: int, unit: CapUnit = CapUnit.USD) -> None:
        await budgets.set_cap(
            payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.MONTH, unit=unit, limit=limit, actor=ADA
        )

    for limit in (UNLIMITED, 5 * USD, 5 * USD, 7 * USD, UNLIMITED, UNLIMITED, USD):
        await cap(limit)
    await cap(10**17, CapUnit.TOKENS)
    found = await told(trail, payer.org_id, "cap.")
    shown = {"scope": "key", "period": "month", "unit": "usd"}
    five, seven, one = (shown | {"limit_usd": usd} for usd in ("5", "7", "1"))
    tokens = {"scope": "key", "period": "month", "unit": "tokens", "limit_tokens": str(10**17)}
    assert [(entry.action, entry.before, entry.after) for entry in found] == [
        ("cap.set", {}, five),
        ("cap.set", five, seven),
        ("cap.cleared", seven, {}),
        ("cap.set", {}, one),
        ("cap.set", {}, tokens),
    ]
    assert {(entry.subject, entry.actor) for entry in found} == {(payer.key_id, ADA)}


async def test_credit_that_expires_is_told_by_the_system_once_whoever_meets_it_first(
    credit: CreditService,
    charging: ChargingService,
    sweeper: Sweeper,
    trail: TrailService,
    new_payer: NewPayer,
    clock: FakeClock,
) -> None:
    payers = [await new_payer(USD), await new_payer(USD)]
    for payer in payers:
        await credit.add(
            payer.org_id,
            amount_nano_usd=USD,
            idempotency_key="gift",
            kind=CreditKind.PROMOTIONAL,
            expires_at_ms=clock.now_ms() + 1_000,
        )
    clock.advance(1_001)
    await charging.reserve(payers[0], "req", amount_nano_usd=1, ttl_ms=9, model="gpt-x")
    for _ in range(2):
        await sweeper.sweep()
    for payer in payers:
        (entry,) = await told(trail, payer.org_id, "credit.expired")
        assert entry.actor == Actor(ActorKind.SYSTEM)
        assert (entry.before, entry.after) == ({"remaining_usd": "1"}, {"remaining_usd": "0"})


@pytest.mark.parametrize("death", ["before", "after"])
async def test_a_change_whose_commit_is_in_doubt_is_told_once(
    death: str,
    deaths: list[str],
    keys: KeyService,
    credit: CreditService,
    budgets: BudgetService,
    trail: TrailService,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer(USD)
    before = len(await told(trail, payer.org_id))

    async def dying(work: Awaitable[Any]) -> None:
        deaths[:] = [death]
        await work
        assert not deaths

    await dying(keys.create_project(payer.org_id, "two", actor=ADA))
    await dying(keys.create_key(payer.org_id, payer.project_id, "two", actor=ADA))
    await dying(keys.revoke_key(payer.key_id, payer.org_id, actor=ADA))
    await dying(credit.add(payer.org_id, amount_nano_usd=1, idempotency_key="x", kind=CreditKind.PAID, actor=ADA))
    await dying(credit.refund(payer.org_id, amount_nano_usd=1, reason="", idempotency_key="x", actor=ADA))
    await dying(
        budgets.set_cap(
            payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=1, actor=ADA
        )
    )
    await dying(trail.record_revision(a_repricing("1"), actor=CATALOG))
    found = (await told(trail, payer.org_id))[before:]
    assert [entry.action for entry in found] == [
        *("project.created", "key.created", "key.revoked", "credit.added", "credit.refunded", "cap.set"),
        "catalog.revised",
    ]


async def test_a_change_that_is_refused_is_not_told(
    keys: KeyService, credit: CreditService, trail: TrailService, new_payer: NewPayer
) -> None:
    payer = await new_payer(USD)
    before = await told(trail, payer.org_id)
    with pytest.raises(InvalidRequest):
        await keys.create_project(payer.org_id, "web", actor=ADA)
    with pytest.raises(Exception, match="does not cover"):
        await credit.refund(payer.org_id, amount_nano_usd=2 * USD, reason="", idempotency_key="x", actor=ADA)
    assert await told(trail, payer.org_id) == before


async def test_entries_and_receipts_are_leaves_of_one_log_and_each_is_proved(
    charging: ChargingService,
    log_service: LogService,
    trail: TrailService,
    keys: KeyService,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(USD)
    growing = asyncio.create_task(log_service.run(0.001))
    facts = new_facts(answer=1, mode=ServedMode.EXACT)

    async def charge(n: int) -> str:
        return (await charging.charge(payer, f"req-{n}", facts=facts)).receipt_id

    receipts, _ = await asyncio.gather(
        asyncio.gather(*map(charge, range(40))),
        asyncio.gather(*(keys.create_project(payer.org_id, f"p{n}", actor=ADA) for n in range(20))),
    )
    growing.cancel()
    await log_service.grow()
    seen = set()
    public = log_service.keys.public
    for entry in await told(trail, payer.org_id):
        proof = await trail.prove(payer.org_id, entry.entry_id, 0)
        assert proof.entry.entry == entry
        _, document = verify_jws(proof.entry.jws, public, JwsKind.AUDIT_ENTRY)
        assert decode(document.decode()) == entry
        with pytest.raises(InvalidSignatureError, match="not that of a receipt"):
            verify_jws(proof.entry.jws, public)
        _, said = verify_checkpoint(proof.checkpoint.note, public)
        leaf = leaf_hash(proof.entry.jws.encode())
        assert verify_inclusion(leaf, proof.entry.leaf_index, said.size, proof.hashes, said.root_hash)
        seen.add(proof.entry.leaf_index)
    for receipt_id in receipts:
        found = await log_service.inclusion(payer.org_id, receipt_id, 0)
        seen.add(found.receipt.leaf_index)
    assert seen == set(range(64))
    with pytest.raises(InvalidRequest, match="tree_size"):
        await trail.prove(payer.org_id, entry.entry_id, 10**6)


async def test_no_entry_has_a_secret(
    database: Database, keys: KeyService, new_payer: NewPayer, trail: TrailService
) -> None:
    payer = await new_payer(USD)
    secrets = [(await keys.create_key(payer.org_id, payer.project_id, f"k{n}", actor=ADA))[1] for n in range(3)]
    await keys.revoke_key(payer.key_id, payer.org_id, actor=ADA)
    everything = await database.read(lambda c: "\n".join(c.scalars(select(AUDIT_LOG.c.document)).all()))
    digests = await database.read(lambda c: c.execute(text("SELECT hmac_sha256_hex FROM key_secret")).scalars().all())
    assert len(digests) == 4
    for secret in (*secrets, *digests):
        assert secret[9:] not in everything


def executes(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


async def test_the_trail_refuses_to_be_changed(database: Database, new_payer: NewPayer) -> None:
    await new_payer()
    for change in (
        "UPDATE audit_log SET actor_id = 'another'",
        "UPDATE audit_log SET document = document",
        "DELETE FROM audit_log",
        "UPDATE log_leaf SET entry_id = entry_id",
        "DELETE FROM log_leaf",
    ):
        with pytest.raises(DBAPIError, match="is history"):
            await database.write(executes(change))


async def test_an_entry_that_does_not_fit_the_canonical_form_is_refused_with_its_change(
    database: Database, writer: Writer, changes_trail: Trail
) -> None:
    def change(connection: Connection) -> None:
        connection.execute(text("INSERT INTO org (org_id, name, created_at_ms) VALUES ('org_x', 'Acme', 1)"))
        changes_trail.record(connection, replace(an_entry(), after={"tokens": 2**53}))

    with pytest.raises(TypeError):
        await writer.write(change)
    assert await database.read(lambda c: c.execute(text("SELECT count(*) FROM org")).scalar_one()) == 0
    assert await audit(database) == []


def test_a_document_is_read_as_it_was_written() -> None:
    entry = replace(an_entry(), actor=ADA, before={"a": ["x", 1, None, True]}, after={"naïve": "漢\U0001f600"})
    assert decode(entry.document()) == entry
    document = json.loads(entry.document())
    for change in ({"v": 2}, {"actor": {"kind": "nobody", "id": "", "address": "", "trace_id": ""}}):
        with pytest.raises(ValueError, match=r"not known|not a valid"):
            decode(json.dumps(document | change))
