"""Settle and Charge on each database: what is charged, what is absorbed, what is told again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.errors import (
    ApiKeyRevoked,
    HoldClosed,
    IdempotencyConflict,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    ModelNotAllowed,
    NotFound,
)
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.database import Database
from ledger_svc.store.tables import ACCOUNT, ATTEMPT
from meshkit.money import Rates, RateTier
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
TTL_MS = 60_000
WINNER = Attempt("openai/gpt-x", 10, 20, 200, won=True)
LOSER = Attempt("azure/gpt-x", 5, 4, 503, won=False, failure="status")


async def hold(charging: ChargingService, payer: Principal, amount: int, request_id: str = "req") -> None:
    await charging.reserve(payer, request_id, amount_nano_usd=amount, ttl_ms=TTL_MS, model="gpt-x")


def amounts(receipt: Receipt) -> tuple[int, int, int, int]:
    return (
        receipt.held_nano_usd,
        receipt.charged_nano_usd,
        receipt.saved_nano_usd,
        receipt.absorbed_nano_usd,
    )


async def posted(database: Database, org_id: str) -> dict[str, int]:
    query = select(ACCOUNT.c.kind, ACCOUNT.c.posted_nano_usd).where(ACCOUNT.c.org_id == org_id)
    found = await database.read(lambda connection: connection.execute(query).all())
    return {row.kind: row.posted_nano_usd for row in found if row.posted_nano_usd}


async def test_a_settlement_charges_what_was_used_and_frees_the_rest(
    credit: CreditService,
    charging: ChargingService,
    receipts: ReceiptService,
    database: Database,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(1_000_000)
    await hold(charging, payer, 500_000)
    facts = new_facts(prompt=7, answer=3, trace_id="ab" * 16)
    receipt = await charging.settle(payer.org_id, "req", facts=facts, attempts=[LOSER, WINNER])
    assert amounts(receipt) == (500_000, 37_000, 0, 0)
    assert (receipt.facts, receipt.attempts) == (facts, (LOSER, WINNER))
    assert (receipt.org_id, receipt.project_id, receipt.key_id) == (payer.org_id, payer.project_id, payer.key_id)
    assert (await receipts.get(payer.org_id, receipt.receipt_id)).receipt == receipt
    balance = await credit.balance(payer.org_id)
    assert (balance.posted_nano_usd, balance.held_nano_usd, balance.open_holds) == (963_000, 0, 0)
    assert await posted(database, payer.org_id) == {
        "customer_credit": 963_000,
        "revenue": 37_000,
        "credit_source": -1_000_000,
    }
    kept = await database.read(
        lambda connection: connection.execute(select(ATTEMPT.c.offer_id).order_by(ATTEMPT.c.ordinal)).scalars().all()
    )
    assert kept == ["azure/gpt-x", "openai/gpt-x"]


async def test_promotional_credit_is_spent_before_paid_credit(
    charging: ChargingService, database: Database, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000, promo=30_000)
    await hold(charging, payer, 90_000)
    await charging.settle(payer.org_id, "req", facts=new_facts(answer=5), attempts=())
    assert await posted(database, payer.org_id) == {
        "customer_credit": 80_000,
        "revenue": 50_000,
        "credit_source": -100_000,
        "promo_expense": -30_000,
    }


async def test_a_charge_above_the_hold_draws_on_the_balance_and_the_rest_is_absorbed(
    credit: CreditService, charging: ChargingService, database: Database, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(60_000, promo=5_000)
    await hold(charging, payer, 20_000)
    await hold(charging, payer, 25_000, "other")
    receipt = await charging.settle(payer.org_id, "req", facts=new_facts(answer=10), attempts=[WINNER])
    assert amounts(receipt) == (20_000, 40_000, 0, 60_000)
    balance = await credit.balance(payer.org_id)
    assert (balance.posted_nano_usd, balance.held_nano_usd, balance.available_nano_usd) == (25_000, 25_000, 0)
    ledger = await posted(database, payer.org_id)
    assert (ledger["revenue"], ledger["platform_loss"]) == (100_000, -60_000)


async def test_an_expired_hold_is_settled_as_far_as_the_balance_goes(
    charging: ChargingService, sweeper: Sweeper, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 80_000)
    clock.advance(TTL_MS)
    assert await sweeper.sweep() == 1
    await hold(charging, payer, 70_000, "later")
    receipt = await charging.settle(payer.org_id, "req", facts=new_facts(answer=8), attempts=[WINNER])
    assert amounts(receipt) == (80_000, 30_000, 0, 50_000)
    assert await charging.settle(payer.org_id, "req", facts=new_facts(answer=8), attempts=[WINNER]) == receipt
    with pytest.raises(HoldClosed):
        await charging.release(payer.org_id, "req", reason="late", attempts=())


@pytest.mark.parametrize(
    ("outcome", "prompt", "answer", "charged"),
    [
        (Outcome.COMPLETE, 10, 0, 10_000),
        (Outcome.CLIENT_GONE, 10, 0, 10_000),
        (Outcome.INTERRUPTED, 10, 0, 0),
        (Outcome.CLIENT_GONE, 10, 1, 20_000),
        (Outcome.INTERRUPTED, 10, 1, 20_000),
    ],
)
async def test_an_answer_that_never_came_is_not_charged(
    credit: CreditService,
    outcome: Outcome,
    prompt: int,
    answer: int,
    charged: int,
    charging: ChargingService,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    facts = new_facts(prompt=prompt, answer=answer, outcome=outcome)
    receipt = await charging.settle(payer.org_id, "req", facts=facts, attempts=())
    assert amounts(receipt) == (50_000, charged, 0, 0)
    assert (await credit.balance(payer.org_id)).available_nano_usd == 100_000 - charged


async def test_settled_again_is_the_same_receipt_and_with_another_content_a_conflict(
    charging: ChargingService, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    facts = new_facts(answer=2, trace_id="a" * 32)
    first = await charging.settle(payer.org_id, "req", facts=facts, attempts=[WINNER])
    clock.advance(5_000)
    again = await charging.settle(payer.org_id, "req", facts=new_facts(answer=2, trace_id="b" * 32), attempts=[WINNER])
    assert again == first
    for other, attempts in ((new_facts(answer=3), [WINNER]), (facts, [LOSER, WINNER])):
        with pytest.raises(IdempotencyConflict):
            await charging.settle(payer.org_id, "req", facts=other, attempts=attempts)
    with pytest.raises(HoldClosed):
        await charging.release(payer.org_id, "req", reason="", attempts=())


async def test_settling_needs_a_hold_of_the_organisation(
    charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, stranger = await new_payer(100_000), await new_payer(100_000)
    await hold(charging, payer, 50_000)
    for org_id, request_id in ((payer.org_id, "another"), (stranger.org_id, "req"), ("org_none", "req")):
        with pytest.raises(NotFound):
            await charging.settle(org_id, request_id, facts=new_facts(), attempts=())
        with pytest.raises(NotFound):
            await charging.release(org_id, request_id, reason="", attempts=())


async def test_a_released_hold_is_not_settled(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    assert await charging.release(payer.org_id, "req", reason="all sources failed", attempts=[LOSER]) == 50_000
    assert await charging.release(payer.org_id, "req", reason="again", attempts=[LOSER]) == 50_000
    assert (await credit.balance(payer.org_id)).available_nano_usd == 100_000
    with pytest.raises(HoldClosed):
        await charging.settle(payer.org_id, "req", facts=new_facts(answer=1), attempts=())


async def test_a_hold_that_was_released_after_its_time_is_not_settled(
    charging: ChargingService, sweeper: Sweeper, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    clock.advance(TTL_MS)
    await sweeper.sweep()
    assert await charging.release(payer.org_id, "req", reason="gave up", attempts=()) == 50_000
    with pytest.raises(HoldClosed):
        await charging.settle(payer.org_id, "req", facts=new_facts(answer=1), attempts=())


async def test_a_revoked_key_pays_for_what_was_delivered(
    charging: ChargingService, keys: KeyService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    await keys.revoke_key(payer.key_id, payer.org_id)
    receipt = await charging.settle(payer.org_id, "req", facts=new_facts(answer=1), attempts=())
    assert receipt.charged_nano_usd == 10_000


@pytest.mark.parametrize("mode", [ServedMode.EXACT, ServedMode.CANONICAL, ServedMode.SEMANTIC])
async def test_a_replay_costs_a_quarter_and_says_what_it_saved(
    credit: CreditService, mode: ServedMode, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    facts = new_facts(prompt=2, answer=1, mode=mode)
    receipt = await charging.charge(payer, "req", facts=facts)
    assert amounts(receipt) == (3_000, 3_000, 9_000, 0)
    assert await charging.charge(payer, "req", facts=facts) == receipt
    with pytest.raises(IdempotencyConflict):
        await charging.charge(payer, "req", facts=new_facts(prompt=3, answer=1, mode=mode))
    with pytest.raises(HoldClosed):
        await hold(charging, payer, 3_000)
    with pytest.raises(IdempotencyConflict):
        await charging.settle(payer.org_id, "req", facts=facts, attempts=())
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 97_000


async def test_a_replay_is_refused_as_a_hold_would_be(
    charging: ChargingService, keys: KeyService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(2_000, allowed_models=("claude-*",))
    facts = new_facts(answer=1, mode=ServedMode.EXACT)
    with pytest.raises(ModelNotAllowed):
        await charging.charge(payer, "req", facts=facts)
    poor = await new_payer(2_499)
    with pytest.raises(InsufficientBalance) as refusal:
        await charging.charge(poor, "req", facts=facts)
    assert refusal.value.metadata == {"available_usd": "0.000002499", "held_usd": "0", "needed_usd": "0.0000025"}
    with pytest.raises(InvalidApiKey):
        await charging.charge(Principal(poor.org_id, poor.project_id, payer.key_id), "req", facts=facts)
    with pytest.raises(InvalidRequest):
        await charging.charge(poor, "req", facts=new_facts(answer=1))
    await keys.revoke_key(poor.key_id, "")
    with pytest.raises(ApiKeyRevoked):
        await charging.charge(poor, "req", facts=facts)


async def test_a_charge_too_large_to_write_is_refused_and_the_hold_stays(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(100_000)
    await hold(charging, payer, 50_000)
    dear = RateTier(0, Rates(output_pico_usd=10**15))
    facts = new_facts(answer=10**9)
    with pytest.raises(InvalidRequest, match="more than any"):
        await charging.settle(
            payer.org_id, "req", facts=replace(facts, price=replace(facts.price, rate_tiers=(dear,))), attempts=()
        )
    assert (await credit.balance(payer.org_id)).open_holds == 1
