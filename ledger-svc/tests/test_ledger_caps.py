"""Caps in dollars and in tokens on each database."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from ledger_svc.domain.caps import UNLIMITED, CapPeriod, CapScope, CapUnit, period_end_ms, period_start_ms
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.errors import BudgetExceeded, HoldClosed, InvalidRequest, NotFound
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
DAY_MS = 24 * 3600 * 1000
TTL_MS = 60_000


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


@pytest.fixture
def hold(charging: ChargingService) -> Callable[..., Awaitable[object]]:
    async def run(payer: Principal, name: str, amount: int, *, tokens: int = 0) -> object:
        return await charging.reserve(
            payer, name, amount_nano_usd=amount, ttl_ms=TTL_MS, model="gpt-x", amount_tokens=tokens
        )

    return run


Hold = Callable[..., Awaitable[object]]


@pytest.mark.parametrize(
    ("moment", "day", "month", "day_ends", "month_ends"),
    [
        ("2026-02-28T23:59:59.999+00:00", "2026-02-28", "2026-02-01", "2026-03-01", "2026-03-01"),
        ("2028-02-29T00:00:00+00:00", "2028-02-29", "2028-02-01", "2028-03-01", "2028-03-01"),
        ("2026-12-31T12:00:00+00:00", "2026-12-31", "2026-12-01", "2027-01-01", "2027-01-01"),
        ("2026-01-01T00:00:00+00:00", "2026-01-01", "2026-01-01", "2026-01-02", "2026-02-01"),
    ],
)
def test_periods_are_those_of_utc(moment: str, day: str, month: str, day_ends: str, month_ends: str) -> None:
    for period, start, end in ((CapPeriod.DAY, day, day_ends), (CapPeriod.MONTH, month, month_ends)):
        starts_at_ms = period_start_ms(period, at(moment))
        assert starts_at_ms == at(f"{start}T00:00:00+00:00")
        assert period_end_ms(period, starts_at_ms) == at(f"{end}T00:00:00+00:00")


@pytest.mark.parametrize("scope", list(CapScope))
async def test_a_cap_refuses_what_would_pass_it_and_says_which_and_when_it_resets(
    scope: CapScope,
    hold: Hold,
    charging: ChargingService,
    credit: CreditService,
    budgets: BudgetService,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    scope_id = {
        CapScope.KEY: payer.key_id,
        CapScope.PROJECT: payer.project_id,
        CapScope.ORGANIZATION: payer.org_id,
    }[scope]
    cap, bucket = await budgets.set_cap(
        payer.org_id, scope, scope_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=100_000
    )
    assert (cap.revision, bucket.spent, bucket.reserved) == (1, 0, 0)
    await hold(payer, "one", 60_000)
    await charging.settle(payer.org_id, "one", facts=new_facts(answer=3), attempts=())
    await hold(payer, "two", 50_000)
    with pytest.raises(BudgetExceeded) as refusal:
        await hold(payer, "three", 20_001)
    resets_at = dt.datetime.fromtimestamp(bucket.ends_at_ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert refusal.value.metadata == {
        "scope": scope.value,
        "scope_id": scope_id,
        "period": "day",
        "unit": "usd",
        "limit": "0.0001",
        "spent": "0.00003",
        "held": "0.00005",
        "needed": "0.000020001",
        "resets_at": resets_at,
    }
    assert f"resets at {resets_at}" in str(refusal.value)
    with pytest.raises(BudgetExceeded):  # a replay costs money too
        await charging.charge(payer, "replay", facts=new_facts(answer=9, mode=ServedMode.EXACT))
    assert (await credit.balance(payer.org_id)).held_nano_usd == 50_000
    await hold(payer, "three", 20_000)
    await charging.release(payer.org_id, "two", reason="", attempts=())
    await charging.charge(payer, "replay", facts=new_facts(answer=9, mode=ServedMode.EXACT))
    ((listed, now),) = await budgets.caps(payer.org_id)
    assert (listed, now.spent, now.reserved) == (cap, 52_500, 20_000)
    clock.advance(bucket.ends_at_ms - clock.now_ms())
    await hold(payer, "next day", 100_000)


async def test_the_narrowest_cap_that_is_in_the_way_is_named(
    hold: Hold, budgets: BudgetService, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**9)
    for scope, scope_id, limit in (
        (CapScope.ORGANIZATION, payer.org_id, 10),
        (CapScope.PROJECT, payer.project_id, 20),
        (CapScope.KEY, payer.key_id, 30),
    ):
        await budgets.set_cap(payer.org_id, scope, scope_id, period=CapPeriod.MONTH, unit=CapUnit.USD, limit=limit)
    for amount, named in ((31, "key"), (21, "project"), (11, "organization")):
        with pytest.raises(BudgetExceeded) as refusal:
            await hold(payer, "req", amount)
        assert (refusal.value.metadata["scope"], refusal.value.metadata["period"]) == (named, "month")
    await hold(payer, "req", 10)


async def test_of_two_caps_of_one_scope_the_same_is_named_on_each_database(
    hold: Hold, budgets: BudgetService, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**9)
    usd, tokens = CapUnit.USD, CapUnit.TOKENS
    for period, unit in ((CapPeriod.MONTH, usd), (CapPeriod.MONTH, tokens), (CapPeriod.DAY, usd)):
        await budgets.set_cap(payer.org_id, CapScope.KEY, payer.key_id, period=period, unit=unit, limit=10)
    for amount, named in ((11, ("day", "usd")), (10, ("month", "tokens"))):
        with pytest.raises(BudgetExceeded) as refusal:
            await hold(payer, "one", amount, tokens=11)
        assert (refusal.value.metadata["period"], refusal.value.metadata["unit"]) == named


async def test_two_hundred_at_once_on_a_cap_for_fifty(
    hold: Hold,
    budgets: BudgetService,
    charging: ChargingService,
    keys: KeyService,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**12)
    other, _ = await keys.create_key(payer.org_id, payer.project_id, "second")
    await budgets.set_cap(
        payer.org_id, CapScope.PROJECT, payer.project_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=500_000
    )

    async def one(n: int) -> bool:
        principal = payer if n % 2 else other.principal
        try:
            await hold(principal, f"req-{n}", 10_000)
        except BudgetExceeded:
            return False
        await charging.settle(payer.org_id, f"req-{n}", facts=new_facts(answer=1), attempts=())
        return True

    assert sum(await asyncio.gather(*(one(n) for n in range(200)))) == 50
    ((_, bucket),) = await budgets.caps(payer.org_id)
    assert (bucket.spent, bucket.reserved) == (500_000, 0)


async def test_a_cap_counts_what_was_spent_and_held_before_it_was_set_and_while_it_was_cleared(
    hold: Hold, budgets: BudgetService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**9)

    async def set_cap(limit: int) -> tuple[int, int]:
        _, bucket = await budgets.set_cap(
            payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.MONTH, unit=CapUnit.USD, limit=limit
        )
        return bucket.spent, bucket.reserved

    await hold(payer, "one", 50_000)
    await charging.settle(payer.org_id, "one", facts=new_facts(answer=4), attempts=())
    await hold(payer, "two", 30_000)
    assert await set_cap(75_000) == (40_000, 30_000)
    with pytest.raises(BudgetExceeded):
        await hold(payer, "three", 5_001)
    assert await set_cap(UNLIMITED) == (40_000, 30_000)
    assert await budgets.caps(payer.org_id) == []
    await hold(payer, "three", 90_000)
    await charging.settle(payer.org_id, "three", facts=new_facts(answer=6), attempts=())
    assert await set_cap(110_000) == (100_000, 30_000)
    with pytest.raises(BudgetExceeded):
        await hold(payer, "four", 1)
    assert await set_cap(110_000) == (100_000, 30_000)  # the same again: no new revision
    ((cap, _),) = await budgets.caps(payer.org_id)
    assert cap.revision == 3


async def test_a_charge_above_its_hold_stops_at_the_cap_and_the_rest_is_the_operators(
    hold: Hold, budgets: BudgetService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**9)
    await budgets.set_cap(
        payer.org_id, CapScope.ORGANIZATION, payer.org_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=50_000
    )
    await hold(payer, "one", 20_000)
    await hold(payer, "two", 20_000)
    receipt = await charging.settle(payer.org_id, "one", facts=new_facts(answer=9), attempts=())
    assert (receipt.charged_nano_usd, receipt.absorbed_nano_usd) == (30_000, 60_000)
    # What was admitted is charged whatever came meanwhile, also a lower cap.
    await budgets.set_cap(
        payer.org_id, CapScope.ORGANIZATION, payer.org_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=1
    )
    receipt = await charging.settle(payer.org_id, "two", facts=new_facts(answer=3), attempts=())
    assert (receipt.charged_nano_usd, receipt.absorbed_nano_usd) == (20_000, 10_000)


async def test_an_expired_hold_that_is_settled_late_is_charged_as_far_as_its_cap_has_room(
    hold: Hold,
    budgets: BudgetService,
    charging: ChargingService,
    sweeper: Sweeper,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=50_000
    )
    await hold(payer, "late", 40_000)
    clock.advance(TTL_MS)
    assert await sweeper.sweep() == 1
    await hold(payer, "other", 30_000)
    receipt = await charging.settle(payer.org_id, "late", facts=new_facts(answer=4), attempts=())
    assert (receipt.charged_nano_usd, receipt.absorbed_nano_usd) == (20_000, 20_000)


async def test_the_period_of_a_hold_is_that_of_its_beginning(
    hold: Hold,
    budgets: BudgetService,
    charging: ChargingService,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    _, bucket = await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=50_000
    )
    clock.advance(bucket.ends_at_ms - clock.now_ms() - 1)
    await hold(payer, "over midnight", 50_000)
    clock.advance(1)
    await hold(payer, "today", 50_000)
    await charging.settle(payer.org_id, "over midnight", facts=new_facts(answer=5), attempts=())
    with pytest.raises(BudgetExceeded):
        await hold(payer, "more", 1)
    ((_, today),) = await budgets.caps(payer.org_id)
    assert (today.spent, today.reserved) == (0, 50_000)


async def test_a_cap_set_over_a_hold_of_yesterday_does_not_count_it_today(
    hold: Hold,
    budgets: BudgetService,
    charging: ChargingService,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    clock.advance(period_end_ms(CapPeriod.DAY, period_start_ms(CapPeriod.DAY, clock.now_ms())) - clock.now_ms() - 1)
    await hold(payer, "yesterday", 50_000)
    clock.advance(1)
    await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=10_000
    )
    receipt = await charging.settle(payer.org_id, "yesterday", facts=new_facts(answer=5), attempts=())
    assert (receipt.charged_nano_usd, receipt.absorbed_nano_usd) == (50_000, 0)
    await hold(payer, "today", 10_000)


async def test_a_cap_in_tokens_counts_what_sources_processed_and_not_replays(
    hold: Hold, budgets: BudgetService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**9)
    await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.MONTH, unit=CapUnit.TOKENS, limit=100
    )
    with pytest.raises(InvalidRequest, match="cap in tokens"):
        await hold(payer, "unsaid", 1)
    with pytest.raises(BudgetExceeded) as refusal:
        await hold(payer, "one", 1, tokens=101)
    assert refusal.value.metadata["limit"] == "100"
    assert "cap 100 tokens" in str(refusal.value)
    await hold(payer, "one", 500_000, tokens=60)
    await hold(payer, "two", 1, tokens=40)
    await charging.settle(payer.org_id, "one", facts=new_facts(prompt=30, answer=50), attempts=())
    await charging.charge(payer, "replay", facts=new_facts(prompt=50, answer=1, mode=ServedMode.EXACT))
    ((_, bucket),) = await budgets.caps(payer.org_id)
    assert (bucket.spent, bucket.reserved) == (80, 40)  # tokens that were used can't be unused
    await charging.release(payer.org_id, "two", reason="", attempts=())
    await hold(payer, "three", 1, tokens=20)


async def test_a_cap_is_of_something_that_the_organisation_has(budgets: BudgetService, new_payer: NewPayer) -> None:
    payer, stranger = await new_payer(1), await new_payer(1)
    for scope, scope_id in (
        (CapScope.KEY, stranger.key_id),
        (CapScope.KEY, payer.project_id),
        (CapScope.PROJECT, stranger.project_id),
        (CapScope.ORGANIZATION, stranger.org_id),
    ):
        with pytest.raises(NotFound):
            await budgets.set_cap(payer.org_id, scope, scope_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=1)
    with pytest.raises(InvalidRequest, match="limit"):
        await budgets.set_cap(
            payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=-2
        )


async def test_a_clock_that_is_behind_writes_no_receipt_before_its_hold(
    hold: Hold,
    writer: Writer,
    budgets: BudgetService,
    clock: FakeClock,
    make_id: MakeId,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    clock.advance(2 * DAY_MS)
    await hold(payer, "one", 50_000)
    made_at_ms = clock.now_ms()
    behind = ChargingService(ledger=writer, clock=FakeClock(), make_id=make_id)
    receipt = await behind.settle(payer.org_id, "one", facts=new_facts(answer=5), attempts=())
    assert receipt.created_at_ms == made_at_ms
    _, bucket = await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=10
    )
    assert bucket.spent == 50_000


async def test_a_hold_is_extended_while_it_is_open_and_never_shortened(
    charging: ChargingService, sweeper: Sweeper, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    first = await charging.reserve(payer, "long", amount_nano_usd=5, ttl_ms=1_000, model="gpt-x")
    clock.advance(900)
    longer = await charging.extend(payer.org_id, "long", ttl_ms=1_000)
    assert longer == replace(first, expires_at_ms=clock.now_ms() + 1_000)
    assert await charging.extend(payer.org_id, "long", ttl_ms=10) == longer
    clock.advance(999)
    assert await sweeper.sweep() == 0
    clock.advance(1)
    assert await sweeper.sweep() == 1
    with pytest.raises(HoldClosed) as refusal:
        await charging.extend(payer.org_id, "long", ttl_ms=1_000)
    assert refusal.value.metadata == {"state": "expired"}
    with pytest.raises(NotFound):
        await charging.extend(payer.org_id, "none", ttl_ms=1_000)
    with pytest.raises(InvalidRequest, match="ttl_ms"):
        await charging.extend(payer.org_id, "long", ttl_ms=0)


async def test_a_hold_that_is_closed_is_not_given_again(
    hold: Hold,
    charging: ChargingService,
    sweeper: Sweeper,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**6)
    for name in ("settled", "released", "expired", "late", "given back"):
        await hold(payer, name, 20_000)
    receipt = await charging.settle(payer.org_id, "settled", facts=new_facts(answer=1), attempts=())
    await charging.release(payer.org_id, "released", reason="", attempts=())
    clock.advance(TTL_MS)
    assert await sweeper.sweep() == 3
    late = await charging.settle(payer.org_id, "late", facts=new_facts(answer=1), attempts=())
    await charging.release(payer.org_id, "given back", reason="", attempts=())
    for name, expected in {
        "settled": {"state": "settled", "receipt_id": receipt.receipt_id},
        "released": {"state": "released"},
        "expired": {"state": "expired"},
        "late": {"state": "settled", "receipt_id": late.receipt_id},
        "given back": {"state": "released"},
    }.items():
        for amount in (20_000, 1):
            with pytest.raises(HoldClosed) as refusal:
                await hold(payer, name, amount)
            assert refusal.value.metadata == expected
