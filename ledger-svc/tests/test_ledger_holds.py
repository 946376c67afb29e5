"""Reserve, Release, expiry and credit on each database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ledger_svc.domain.accounts import MAX_AMOUNT_NANO_USD, MAX_POSTED_NANO_USD, CreditKind
from ledger_svc.domain.errors import (
    ApiKeyRevoked,
    IdempotencyConflict,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    ModelNotAllowed,
    NotFound,
)
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.records import Records
from ledger_svc.store.writer import Writer
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
TTL_MS = 60_000


async def test_a_hold_takes_from_what_is_available_and_not_from_what_is_posted(
    credit: CreditService, charging: ChargingService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000, promo=500)
    hold = await charging.reserve(payer, "req", amount_nano_usd=1_200, ttl_ms=TTL_MS, model="gpt-x")
    assert (hold.amount_nano_usd, hold.expires_at_ms) == (1_200, clock.now_ms() + TTL_MS)
    assert (hold.from_promo_nano_usd, hold.from_paid_nano_usd) == (500, 700)
    balance = await credit.balance(payer.org_id)
    assert (balance.posted_nano_usd, balance.held_nano_usd, balance.available_nano_usd) == (1_500, 1_200, 300)
    with pytest.raises(InsufficientBalance) as refusal:
        await charging.reserve(payer, "two", amount_nano_usd=301, ttl_ms=TTL_MS, model="gpt-x")
    assert refusal.value.metadata == {
        "available_usd": "0.0000003",
        "held_usd": "0.0000012",
        "needed_usd": "0.000000301",
    }
    await charging.reserve(payer, "two", amount_nano_usd=300, ttl_ms=TTL_MS, model="gpt-x")


async def test_a_hold_of_nothing_needs_no_balance(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    hold = await charging.reserve(payer, "req", amount_nano_usd=0, ttl_ms=TTL_MS, model="free")
    assert hold.amount_nano_usd == 0
    assert (await credit.balance(payer.org_id)).open_holds == 1


async def test_reserved_again_is_the_same_hold_and_with_another_content_a_conflict(
    credit: CreditService, charging: ChargingService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    first = await charging.reserve(payer, "req", amount_nano_usd=600, ttl_ms=TTL_MS, model="gpt-x")
    clock.advance(10)
    assert await charging.reserve(payer, "req", amount_nano_usd=600, ttl_ms=TTL_MS, model="gpt-x") == first
    for amount, ttl_ms, model in ((601, TTL_MS, "gpt-x"), (600, TTL_MS + 1, "gpt-x"), (600, TTL_MS, "gpt-y")):
        with pytest.raises(IdempotencyConflict):
            await charging.reserve(payer, "req", amount_nano_usd=amount, ttl_ms=ttl_ms, model=model)
    assert (await credit.balance(payer.org_id)).held_nano_usd == 600


async def test_the_same_request_id_in_another_organisation_is_another_request(
    charging: ChargingService, new_payer: NewPayer
) -> None:
    holds = [
        await charging.reserve(await new_payer(10), "req", amount_nano_usd=10, ttl_ms=TTL_MS, model="gpt-x")
        for _ in range(2)
    ]
    assert holds[0].hold_id != holds[1].hold_id


async def test_the_key_decides_in_the_same_step(
    charging: ChargingService, keys: KeyService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000, allowed_models=("gpt-*", "anthropic/claude-?"))
    other = await new_payer(1_000)
    key, _ = await keys.create_key(payer.org_id, payer.project_id, "short", expires_at_ms=clock.now_ms() + 5)

    async def reserve(principal: Principal, model: str = "gpt-x") -> None:
        await charging.reserve(principal, f"req-{model}", amount_nano_usd=1, ttl_ms=TTL_MS, model=model)

    await reserve(payer, "gpt-x/mini")
    await reserve(payer, "anthropic/claude-5")
    for model in ("o3", "GPT-x", "anthropic/claude-55"):
        with pytest.raises(ModelNotAllowed):
            await reserve(payer, model)
    with pytest.raises(ModelNotAllowed):
        # What the caller believes of the key does not count; what is stored does.
        await reserve(Principal(payer.org_id, payer.project_id, payer.key_id, ()), "o3")
    for stranger in (
        Principal(other.org_id, other.project_id, payer.key_id),
        Principal(payer.org_id, other.project_id, payer.key_id),
        Principal(payer.org_id, payer.project_id, "key_none"),
    ):
        with pytest.raises(InvalidApiKey):
            await reserve(stranger)
    clock.advance(5)
    with pytest.raises(ApiKeyRevoked):
        await reserve(key.principal)
    await keys.revoke_key(payer.key_id, payer.org_id)
    with pytest.raises(ApiKeyRevoked):
        await reserve(payer, "gpt-new")


async def test_a_sweep_ends_holds_past_their_time_and_no_others(
    credit: CreditService, charging: ChargingService, sweeper: Sweeper, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    for n, ttl_ms in enumerate((100, 100, 101)):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=300, ttl_ms=ttl_ms, model="gpt-x")
    clock.advance(99)
    assert await sweeper.sweep() == 0
    clock.advance(1)
    assert await sweeper.sweep() == 2
    assert await sweeper.sweep() == 0
    balance = await credit.balance(payer.org_id)
    assert (balance.held_nano_usd, balance.open_holds) == (300, 1)


async def test_a_sweep_ends_all_that_is_due_a_batch_at_a_time(
    charging: ChargingService, writer: Writer, records: Records, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    for n in range(5):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=1, ttl_ms=100 + n, model="gpt-x")
    clock.advance(1_000)
    sweeper = Sweeper(ledger=writer, records=records, clock=clock, batch_limit=2)
    assert [await sweeper.sweep() for _ in range(2)] == [5, 0]


async def test_a_hold_that_cannot_be_ended_does_not_keep_the_others(
    credit: CreditService,
    charging: ChargingService,
    writer: Writer,
    records: Records,
    clock: FakeClock,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer(1_000)
    for n in range(3):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=1, ttl_ms=100 + n, model="gpt-x")
    clock.advance(1_000)

    class Stumbling:
        async def execute(self, command: Any) -> Any:
            if command.request_id == "req-0":
                raise ZeroDivisionError
            return await writer.execute(command)

    sweeper = Sweeper(ledger=Stumbling(), records=records, clock=clock, batch_limit=100)
    assert await sweeper.sweep() == 2
    assert (await credit.balance(payer.org_id)).open_holds == 1


async def test_credit_is_added_once_under_its_name(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer()

    async def add(amount: int, name: str, kind: CreditKind = CreditKind.PAID) -> int:
        balance = await credit.add(payer.org_id, amount_nano_usd=amount, idempotency_key=name, kind=kind)
        return balance.posted_nano_usd

    assert await add(100, "a") == 100
    assert await add(100, "a") == 100
    assert await add(100, "b", CreditKind.PROMOTIONAL) == 200
    with pytest.raises(IdempotencyConflict):
        await add(101, "a")
    with pytest.raises(IdempotencyConflict):
        await add(100, "a", CreditKind.PROMOTIONAL)
    with pytest.raises(NotFound):
        await credit.add("org_none", amount_nano_usd=1, idempotency_key="a", kind=CreditKind.PAID)


async def test_a_balance_that_would_not_fit_is_refused(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    steps = MAX_POSTED_NANO_USD // MAX_AMOUNT_NANO_USD
    for n in range(steps):
        await credit.add(
            payer.org_id, amount_nano_usd=MAX_AMOUNT_NANO_USD, idempotency_key=str(n), kind=CreditKind.PAID
        )
    with pytest.raises(InvalidRequest):
        await credit.add(payer.org_id, amount_nano_usd=1, idempotency_key="last", kind=CreditKind.PAID)
    balance = await credit.balance(payer.org_id)
    assert balance.posted_nano_usd == MAX_POSTED_NANO_USD


async def test_there_is_no_balance_of_nobody(credit: CreditService, charging: ChargingService) -> None:
    with pytest.raises(NotFound):
        await credit.balance("org_none")


async def test_a_cancelled_command_leaves_the_books_right_and_the_ledger_answering(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer(10_000)
    tasks = [
        asyncio.ensure_future(charging.reserve(payer, f"req-{n}", amount_nano_usd=10, ttl_ms=TTL_MS, model="gpt-x"))
        for n in range(40)
    ]
    for n, task in enumerate(tasks):
        for _ in range(n):
            await asyncio.sleep(0)
        if n % 2:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for n in range(40):
        await charging.reserve(payer, f"req-{n}", amount_nano_usd=10, ttl_ms=TTL_MS, model="gpt-x")
    assert (await credit.balance(payer.org_id)).held_nano_usd == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 201}, "request_id"),
        ({"request_id": "a\x00b"}, "request_id"),
        ({"amount_nano_usd": -1}, "amount_nano_usd"),
        ({"amount_nano_usd": MAX_AMOUNT_NANO_USD + 1}, "amount_nano_usd"),
        ({"ttl_ms": 0}, "ttl_ms"),
        ({"ttl_ms": 86_400_001}, "ttl_ms"),
        ({"model": ""}, "model"),
        ({"principal": Principal("", "p", "k")}, "principal.org_id"),
    ],
)
async def test_what_is_not_a_hold_is_refused_by_name(
    change: dict[str, object], param: str, charging: ChargingService
) -> None:
    values = {
        "principal": Principal("o", "p", "k"),
        "request_id": "req",
        "amount_nano_usd": 1,
        "ttl_ms": 1,
        "model": "m",
    } | change
    with pytest.raises(InvalidRequest) as refusal:
        await charging.reserve(values.pop("principal"), values.pop("request_id"), **values)  # type: ignore[arg-type]
    assert refusal.value.metadata["param"] == param
