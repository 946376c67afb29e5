"""Alerts of caps: each threshold once in its period, told in the transaction that notes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from ledger_statements import statements
from ledger_webhooks import Hooks
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from ledger_svc.domain.alerts import Alert, crossed
from ledger_svc.domain.caps import UNLIMITED, Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.errors import Standby
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.store.database import Database
from ledger_svc.store.opening import open_database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import WEBHOOK_DELIVERY
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
SetCap = Callable[..., Awaitable[object]]
Spend = Callable[..., Awaitable[None]]
DAY_MS = 24 * 3_600 * 1_000


@pytest.fixture
def hooks(database: Database, writer: Writer, clock: FakeClock, make_id: MakeId) -> Hooks:
    return Hooks(database, writer, clock, make_id)


@pytest.fixture
async def payer(new_payer: NewPayer) -> Principal:
    return await new_payer(10**9)


@pytest.fixture
def set_cap(budgets: BudgetService) -> SetCap:
    async def set_one(
        payer: Principal,
        limit: int,
        *,
        scope: CapScope = CapScope.KEY,
        period: CapPeriod = CapPeriod.MONTH,
        unit: CapUnit = CapUnit.USD,
    ) -> None:
        scope_id = {CapScope.KEY: payer.key_id, CapScope.PROJECT: payer.project_id}.get(scope, payer.org_id)
        await budgets.set_cap(payer.org_id, scope, scope_id, period=period, unit=unit, limit=limit)

    return set_one


@pytest.fixture
def spend(charging: ChargingService, new_facts: NewFacts, make_id: MakeId) -> Spend:
    """Spends ``tokens`` of a prompt, at 1,000 nano-USD each."""

    async def one(payer: Principal, tokens: int, *, held: int = 0) -> None:
        name = make_id("req")
        await charging.reserve(
            payer, name, amount_nano_usd=held or tokens * 1_000, ttl_ms=60_000, model="gpt-x", amount_tokens=tokens
        )
        await charging.settle(payer.org_id, name, facts=new_facts(prompt=tokens), attempts=[])

    return one


def percents(alerts: list[Alert]) -> list[int]:
    return [alert.threshold_percent for alert in alerts]


async def test_each_threshold_is_told_once_as_spending_reaches_it(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, clock: FakeClock
) -> None:
    endpoint_id, _ = await hooks.make(payer.org_id)
    await set_cap(payer, 100_000)
    told = [await hooks.alerts.look()]
    for tokens in (49, 1, 29, 1, 19, 1):
        clock.advance(1)
        await spend(payer, tokens)
        told.append(await hooks.alerts.look())
    assert [percents(alerts) for alerts in told] == [[], [], [50], [], [80], [], [100]]
    assert await hooks.alerts.look() == []
    assert await hooks.deliver() == 3
    contents = [json.loads(message.body) for message in hooks.carrier.carried]
    assert [content["data"]["threshold_percent"] for content in contents] == [50, 80, 100]
    assert contents[1]["type"] == "cap.threshold_reached"
    assert contents[1]["data"] == {
        "alert_id": told[4][0].alert_id,
        "organization_id": payer.org_id,
        "scope": "key",
        "scope_id": payer.key_id,
        "name": "key",
        "period": "month",
        "unit": "usd",
        "threshold_percent": 80,
        "cap_usd": "0.0001",
        "spent_usd": "0.00008",
        "resets_at": 1_751_328_000,
    }
    listed, token = await hooks.alerts.page(payer.org_id, page_size=2, page_token="")
    rest, end = await hooks.alerts.page(payer.org_id, page_size=2, page_token=token)
    assert sorted(percents(listed + rest)) == [50, 80, 100]
    assert end == ""
    deliveries, _ = await hooks.webhooks.deliveries(payer.org_id, endpoint_id, page_size=0, page_token="")
    assert len(deliveries) == 3


async def test_what_is_held_is_not_spent_and_a_jump_tells_all_thresholds(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, charging: ChargingService
) -> None:
    await set_cap(payer, 100_000)
    await charging.reserve(payer, "held", amount_nano_usd=90_000, ttl_ms=60_000, model="gpt-x")
    assert await hooks.alerts.look() == []
    await charging.release(payer.org_id, "held", reason="", attempts=())
    await spend(payer, 100)
    assert percents(await hooks.alerts.look()) == [50, 80, 100]


async def test_every_scope_period_and_unit_has_its_own(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend
) -> None:
    for scope in CapScope:
        await set_cap(payer, 100_000, scope=scope)
        await set_cap(payer, 100_000, scope=scope, period=CapPeriod.DAY)
    await set_cap(payer, 100, unit=CapUnit.TOKENS)
    await hooks.alerts.look()
    await spend(payer, 50)
    told = await hooks.alerts.look()
    assert sorted((a.scope.value, a.period.value, a.unit.value, a.name) for a in told) == [
        ("key", "day", "usd", "key"),
        ("key", "month", "tokens", "key"),
        ("key", "month", "usd", "key"),
        ("organization", "day", "usd", "Acme"),
        ("organization", "month", "usd", "Acme"),
        ("project", "day", "usd", "web"),
        ("project", "month", "usd", "web"),
    ]


async def test_the_next_period_begins_anew_and_a_late_settlement_counts_for_the_one_of_its_hold(
    hooks: Hooks,
    payer: Principal,
    set_cap: SetCap,
    spend: Spend,
    clock: FakeClock,
    charging: ChargingService,
    new_facts: NewFacts,
) -> None:
    await set_cap(payer, 100_000, period=CapPeriod.DAY)
    await spend(payer, 50)
    assert percents(await hooks.alerts.look()) == [50]
    await charging.reserve(payer, "late", amount_nano_usd=40_000, ttl_ms=60_000, model="gpt-x")
    clock.advance(DAY_MS - clock.now_ms() % DAY_MS + 1_000)
    await charging.settle(payer.org_id, "late", facts=new_facts(prompt=40), attempts=[])
    (late,) = await hooks.alerts.look()
    assert (late.threshold_percent, late.ends_at_ms) == (80, clock.now_ms() - clock.now_ms() % DAY_MS)
    await spend(payer, 60)
    assert percents(await hooks.alerts.look()) == [50]


async def test_a_cap_that_changes_tells_what_is_reached_and_nothing_twice(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend
) -> None:
    await spend(payer, 60)
    assert await hooks.alerts.look() == []
    await set_cap(payer, 100_000)  # nothing has asked for its bucket yet
    assert percents(await hooks.alerts.look()) == [50]
    await set_cap(payer, 60_000)
    assert percents(await hooks.alerts.look()) == [80, 100]
    await set_cap(payer, 1_000_000)
    await set_cap(payer, 60_000)
    assert await hooks.alerts.look() == []
    await set_cap(payer, UNLIMITED)
    await spend(payer, 60)
    assert await hooks.alerts.look() == []


def test_a_cleared_cap_and_one_of_nothing_have_no_thresholds() -> None:
    bucket = Bucket("key_1", CapPeriod.DAY, CapUnit.USD, 0, DAY_MS, "org_1", 0, 0, 0)
    for limit in (0, UNLIMITED):
        cap = Cap("key_1", CapPeriod.DAY, CapUnit.USD, 1, "org_1", CapScope.KEY, limit, 0)
        assert crossed(cap, bucket) == []


async def test_a_keys_own_webhook_is_told_of_that_key_only(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, new_payer: NewPayer
) -> None:
    other = await new_payer(10**9)
    await hooks.make(payer.org_id, "https://example.com/all")
    await hooks.make(payer.org_id, "https://example.com/key", key_id=payer.key_id)
    await hooks.make(payer.org_id, "https://example.com/tests", ("webhook.test",))
    await hooks.make(other.org_id, "https://example.com/other")
    await set_cap(payer, 100_000)
    await set_cap(payer, 100_000, scope=CapScope.ORGANIZATION)
    await spend(payer, 50)
    assert len(await hooks.alerts.look()) == 2
    await hooks.deliver()
    found = {url: len(hooks.carrier.to(f"https://example.com/{url}")) for url in ("all", "key", "tests", "other")}
    assert found == {"all": 2, "key": 1, "tests": 0, "other": 0}


async def test_under_concurrent_spending_and_looking_each_fires_once(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend
) -> None:
    endpoint_id, _ = await hooks.make(payer.org_id)
    await set_cap(payer, 200_000)
    await set_cap(payer, 400_000, scope=CapScope.PROJECT, period=CapPeriod.DAY)
    running = asyncio.create_task(hooks.alerts.run(0.001))
    try:
        await asyncio.gather(*(spend(payer, 1) for _ in range(200)))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await hooks.alerts.look()
    listed, _ = await hooks.alerts.page(payer.org_id, page_size=0, page_token="")
    found = sorted((alert.scope.value, alert.threshold_percent) for alert in listed)
    assert found == [("key", 50), ("key", 80), ("key", 100), ("project", 50)]
    deliveries, _ = await hooks.webhooks.deliveries(payer.org_id, endpoint_id, page_size=0, page_token="")
    assert len(deliveries) == len({delivery.event_id for delivery in deliveries}) == 4


@pytest.fixture
async def second(url: str) -> AsyncIterator[Database]:
    database = open_database(url, connections=2, wait_s=20)
    try:
        yield database
    finally:
        await database.close()


async def test_after_a_takeover_between_commit_and_delivery_it_is_delivered_and_not_told_again(
    hooks: Hooks,
    payer: Principal,
    set_cap: SetCap,
    spend: Spend,
    clock: FakeClock,
    make_id: MakeId,
    second: Database,
    writer: Writer,
) -> None:
    await hooks.make(payer.org_id)
    await set_cap(payer, 100_000)
    await spend(payer, 50)
    assert percents(await hooks.alerts.look()) == [50]
    await spend(payer, 30)  # and the process ends here
    sealer = Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))
    await writer._drop_lease(Standby)
    async with Writer(second, sealer).running() as successor:
        after = Hooks(second, successor, clock, make_id)
        assert percents(await after.alerts.look()) == [80]
        assert await after.alerts.look() == []
        assert await after.deliver() == 2
        percent = [json.loads(message.body)["data"]["threshold_percent"] for message in after.carrier.carried]
        assert percent == [50, 80]


async def test_telling_again_after_a_commit_in_doubt_writes_nothing_twice(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, database: Database
) -> None:
    await hooks.make(payer.org_id)
    await set_cap(payer, 100_000)
    await spend(payer, 50)
    store = hooks.alerts._alerts
    mark = await store.watermark()
    alerts: list[Alert] = []
    has_more = True
    while has_more:
        look = await store.look(mark, (), 0)
        alerts, has_more, mark = alerts + look.alerts, look.has_more, replace(mark, leaf_index=look.leaf_index)
    assert len(await store.tell(alerts, mark)) == 1
    assert await store.tell(alerts, mark) == []
    count = await database.read(lambda connection: len(connection.execute(select(WEBHOOK_DELIVERY)).all()))
    assert count == 1


async def test_a_look_where_nothing_was_spent_reads_no_bucket(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, new_payer: NewPayer
) -> None:
    """What a look costs depends on what was spent since the last, not on how many buckets there are."""
    await set_cap(payer, 100_000)
    await spend(payer, 50)
    await hooks.alerts.look()
    with statements() as found:
        assert await hooks.alerts.look() == []
    assert found == []
    await new_payer(0)  # leaves that no batch wrote
    with statements() as found:
        assert await hooks.alerts.look() == []
    assert found
    assert not [statement for statement in found if "cap_bucket" in statement]


async def test_what_was_spent_without_caps_is_not_read_and_with_caps_its_receipts_are_not(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, new_payer: NewPayer
) -> None:
    capped = await new_payer(10**9)
    await set_cap(capped, 100_000)
    await hooks.alerts.look()
    await spend(payer, 50)
    with statements() as found:
        assert await hooks.alerts.look() == []
    assert found == []
    await spend(payer, 10)
    await spend(capped, 50)
    with statements() as found:
        assert percents(await hooks.alerts.look()) == [50]
    assert [statement for statement in found if "cap_bucket" in statement]
    assert not [statement for statement in found if "JOIN receipt" in statement]


async def test_receipts_that_another_process_wrote_are_looked_at_too(
    hooks: Hooks,
    payer: Principal,
    set_cap: SetCap,
    spend: Spend,
    writer: Writer,
    second: Database,
    clock: FakeClock,
    make_id: MakeId,
    new_facts: NewFacts,
) -> None:
    await set_cap(payer, 100_000)
    await spend(payer, 10)
    assert await hooks.alerts.look() == []
    await writer._drop_lease(Standby)
    async with Writer(second, Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))).running() as other:
        charging = ChargingService(ledger=other, clock=clock, make_id=make_id)
        await charging.reserve(payer, "theirs", amount_nano_usd=60_000, ttl_ms=60_000, model="gpt-x")
        await charging.settle(payer.org_id, "theirs", facts=new_facts(prompt=45), attempts=[])
    await writer._stand_by()
    assert writer.is_leading
    await spend(payer, 26)
    assert percents(await hooks.alerts.look()) == [50, 80]


async def test_an_alert_is_history(
    hooks: Hooks, payer: Principal, set_cap: SetCap, spend: Spend, database: Database
) -> None:
    await set_cap(payer, 100_000)
    await spend(payer, 50)
    await hooks.alerts.look()
    for change in ("UPDATE cap_alert SET spent = 0", "DELETE FROM cap_alert"):

        def make(connection: Connection, change: str = change) -> None:
            connection.execute(text(change))

        with pytest.raises(DBAPIError, match="is history"):
            await database.write(make)
