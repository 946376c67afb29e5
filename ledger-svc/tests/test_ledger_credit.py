"""Credit lots, expiry, refunds and corrections on each database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select, text

from ledger_svc.domain.accounts import AccountKind, CreditKind
from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.errors import IdempotencyConflict, InsufficientBalance, InvalidRequest, NotFound
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.database import Database
from ledger_svc.store.tables import ACCOUNT
from ledger_svc.store.writer import Writer
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
TTL_MS = 60_000


async def left(credit: CreditService, payer: Principal) -> list[tuple[str, int]]:
    """What lots have, in the order in which they are spent; named by what they were given."""
    return [(lot.kind.value, lot.remaining_nano_usd) for lot in await credit.lots(payer.org_id)]


async def posted(database: Database, payer: Principal, kind: AccountKind) -> int:
    query = select(ACCOUNT.c.posted_nano_usd).where(ACCOUNT.c.org_id == payer.org_id, ACCOUNT.c.kind == kind.value)
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


async def spend(charging: ChargingService, payer: Principal, name: str, facts: ChargeFacts) -> str:
    await charging.reserve(payer, name, amount_nano_usd=200_000, ttl_ms=TTL_MS, model="gpt-x")
    return (await charging.settle(payer.org_id, name, facts=facts, attempts=())).receipt_id


async def test_lots_are_spent_by_priority_then_expiry_then_age_and_promotional_credit_first(
    charging: ChargingService, credit: CreditService, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer()
    soon, later = clock.now_ms() + 10**6, clock.now_ms() + 10**7
    for name, amount, kind, priority, expires_at_ms in (
        ("paid", 100_000, CreditKind.PAID, 100, 0),
        ("paid first", 100_001, CreditKind.PAID, 5, 0),
        ("forever", 10_000, CreditKind.PROMOTIONAL, 100, 0),
        ("later", 20_000, CreditKind.PROMOTIONAL, 100, later),
        ("soon", 30_000, CreditKind.PROMOTIONAL, 100, soon),
        ("last", 40_000, CreditKind.PROMOTIONAL, 101, soon),
    ):
        clock.advance(1)
        await credit.add(
            payer.org_id,
            amount_nano_usd=amount,
            idempotency_key=name,
            kind=kind,
            priority=priority,
            expires_at_ms=expires_at_ms,
        )
    expected = [30_000, 20_000, 10_000, 40_000, 100_001, 100_000]
    assert [amount for _, amount in await left(credit, payer)] == expected
    await spend(charging, payer, "one", new_facts(answer=4))
    assert [amount for _, amount in await left(credit, payer)] == [10_000, 10_000, 40_000, 100_001, 100_000]
    await spend(charging, payer, "two", new_facts(answer=7))
    assert await left(credit, payer) == [("customer_credit", 90_001), ("customer_credit", 100_000)]


async def test_promotional_credit_expires_but_for_what_an_open_hold_counts_on(
    charging: ChargingService,
    credit: CreditService,
    sweeper: Sweeper,
    clock: FakeClock,
    database: Database,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**6)
    at_ms = clock.now_ms() + 1_000
    await credit.add(
        payer.org_id, amount_nano_usd=100_000, idempotency_key="p", kind=CreditKind.PROMOTIONAL, expires_at_ms=at_ms
    )
    await charging.reserve(payer, "held", amount_nano_usd=60_000, ttl_ms=TTL_MS, model="gpt-x")
    clock.advance(999)
    await sweeper.sweep()
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 1_100_000
    clock.advance(1)
    await sweeper.sweep()
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 1_060_000
    await sweeper.sweep()
    assert await left(credit, payer) == [("promo", 60_000), ("customer_credit", 10**6)]
    receipt = await charging.settle(payer.org_id, "held", facts=new_facts(answer=5), attempts=())
    assert receipt.charged_nano_usd == 50_000
    assert await left(credit, payer) == [("promo", 10_000), ("customer_credit", 10**6)]
    await sweeper.sweep()
    assert await left(credit, payer) == [("customer_credit", 10**6)]
    assert await posted(database, payer, AccountKind.PROMO) == 0
    assert await posted(database, payer, AccountKind.PROMO_EXPENSE) == -50_000


async def test_of_credit_past_its_time_what_would_be_spent_last_goes_first(
    charging: ChargingService,
    credit: CreditService,
    sweeper: Sweeper,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer()
    soon = clock.now_ms() + 1_000
    for name, amount, priority, expires_at_ms in (
        ("first", 50_000, 1, soon),
        ("forever", 100_000, 50, 0),
        ("last", 50_001, 100, soon),
    ):
        await credit.add(
            payer.org_id,
            amount_nano_usd=amount,
            idempotency_key=name,
            kind=CreditKind.PROMOTIONAL,
            priority=priority,
            expires_at_ms=expires_at_ms,
        )
    await charging.reserve(payer, "held", amount_nano_usd=160_000, ttl_ms=TTL_MS, model="gpt-x")
    clock.advance(1_000)
    await sweeper.sweep()
    assert [amount for _, amount in await left(credit, payer)] == [50_000, 100_000, 10_000]
    await charging.settle(payer.org_id, "held", facts=new_facts(answer=6), attempts=())
    await sweeper.sweep()
    assert await left(credit, payer) == [("promo", 90_000)]


async def test_expired_credit_admits_nothing_even_before_it_is_swept(
    charging: ChargingService, credit: CreditService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    await credit.add(
        payer.org_id,
        amount_nano_usd=500,
        idempotency_key="p",
        kind=CreditKind.PROMOTIONAL,
        expires_at_ms=clock.now_ms() + 1,
    )
    clock.advance(1)
    with pytest.raises(InsufficientBalance) as refusal:
        await charging.reserve(payer, "one", amount_nano_usd=1_001, ttl_ms=TTL_MS, model="gpt-x")
    assert refusal.value.metadata["available_usd"] == "0.000001"
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 1_000
    hold = await charging.reserve(payer, "one", amount_nano_usd=1_000, ttl_ms=TTL_MS, model="gpt-x")
    assert hold.from_promo_nano_usd == 0


async def test_credit_is_added_once_also_after_it_has_expired(
    credit: CreditService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    at_ms = clock.now_ms() + 10

    async def add(expires_at_ms: int = at_ms, kind: CreditKind = CreditKind.PROMOTIONAL, key: str = "p") -> int:
        balance = await credit.add(
            payer.org_id, amount_nano_usd=5, idempotency_key=key, kind=kind, expires_at_ms=expires_at_ms
        )
        return balance.posted_nano_usd

    assert await add() == 5
    clock.advance(100)
    assert await add() == 5
    with pytest.raises(IdempotencyConflict):
        await add(at_ms + 1)
    with pytest.raises(InvalidRequest, match="has passed"):
        await add(key="late")
    with pytest.raises(InvalidRequest, match="only promotional"):
        await add(at_ms + 1_000, CreditKind.PAID, "paid")


async def test_a_refund_takes_paid_credit_that_nobody_holds_and_only_once(
    charging: ChargingService, credit: CreditService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000, promo=100)
    await charging.reserve(payer, "held", amount_nano_usd=400, ttl_ms=TTL_MS, model="gpt-x")

    async def refund(amount: int, key: str = "r") -> int:
        return (
            await credit.refund(payer.org_id, amount_nano_usd=amount, reason="asked", idempotency_key=key)
        ).posted_nano_usd

    with pytest.raises(InsufficientBalance, match="does not cover this refund"):
        await refund(701)
    assert await refund(700) == 400
    assert await refund(700) == 400
    with pytest.raises(IdempotencyConflict):
        await refund(1)
    with pytest.raises(InsufficientBalance):
        await refund(1, "again")
    assert await posted(database, payer, AccountKind.REFUNDS) == 700
    with pytest.raises(NotFound):
        await credit.refund("org_none", amount_nano_usd=1, reason="", idempotency_key="r")


async def test_a_correction_gives_a_charge_back_once_and_never_more_than_was_charged(
    charging: ChargingService,
    credit: CreditService,
    receipts: ReceiptService,
    database: Database,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer, stranger = await new_payer(10**6, promo=30_000), await new_payer(10**6)
    receipt_id = await spend(charging, payer, "one", new_facts(answer=5))
    before = await receipts.get(payer.org_id, receipt_id)

    async def correct(amount: int, key: str, principal: Principal = payer) -> tuple[int, int, int]:
        made, balance = await credit.correct(
            principal.org_id, receipt_id, amount_nano_usd=amount, reason="wrong", idempotency_key=key
        )
        return made.paid_nano_usd, made.promo_nano_usd, balance.posted_nano_usd

    assert await correct(15_000, "a") == (15_000, 0, 995_000)
    assert await correct(15_000, "a") == (15_000, 0, 995_000)
    assert await correct(20_000, "b") == (5_000, 15_000, 1_015_000)
    with pytest.raises(InvalidRequest, match="only 15000 are left"):
        await correct(15_001, "c")
    with pytest.raises(IdempotencyConflict):
        await correct(1, "a")
    with pytest.raises(NotFound):
        await correct(1, "d", stranger)
    assert await correct(15_000, "c") == (0, 15_000, 1_030_000)
    assert await receipts.corrected_nano_usd(receipt_id) == 50_000
    assert await receipts.get(payer.org_id, receipt_id) == before
    assert await posted(database, payer, AccountKind.REVENUE) == 0
    assert sum(amount for _, amount in await left(credit, payer)) == 1_030_000


async def test_credit_pays_a_debt_first_where_the_floor_is_below_zero(
    charging: ChargingService, credit: CreditService, writer: Writer, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10_000)
    floor = "UPDATE account SET hard_floor_nano_usd = -1000000 WHERE account_id = :id"
    name = {"id": f"{payer.org_id}/customer_credit"}
    await writer.write(lambda connection: connection.execute(text(floor), name))
    await spend(charging, payer, "one", new_facts(answer=3))
    assert (await credit.balance(payer.org_id)).posted_nano_usd == -20_000
    assert await left(credit, payer) == []
    await credit.add(payer.org_id, amount_nano_usd=50_000, idempotency_key="x", kind=CreditKind.PAID)
    assert await left(credit, payer) == [("customer_credit", 30_000)]
