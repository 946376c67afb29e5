"""No interleaving overspends, charges twice, or moves a hold twice. The books are audited after each test."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import func, select

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.errors import ApiKeyRevoked, HoldClosed, IdempotencyConflict, InsufficientBalance
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.database import Database
from ledger_svc.store.tables import RECEIPT, TRANSFER
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
TTL_MS = 60_000


async def outcomes(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Everything at once; answers and refusals."""
    return await asyncio.gather(*work, return_exceptions=True)


def reserve(charging: ChargingService, payer: Principal, request_id: str, amount: int) -> Coroutine[Any, Any, Hold]:
    return charging.reserve(payer, request_id, amount_nano_usd=amount, ttl_ms=TTL_MS, model="gpt-x")


async def test_of_200_concurrent_reserves_exactly_the_affordable_50_succeed(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer(30 * 7, promo=20 * 7 + 6)
    found = await outcomes(*(reserve(charging, payer, f"req-{n}", 7) for n in range(200)))
    assert Counter(type(result) for result in found) == {Hold: 50, InsufficientBalance: 150}
    balance = await credit.balance(payer.org_id)
    assert (balance.held_nano_usd, balance.available_nano_usd, balance.open_holds) == (350, 6, 50)


async def test_concurrent_charges_never_pass_the_balance(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(20 * 2_500 + 2_499)
    facts = new_facts(answer=1, mode=ServedMode.EXACT)
    found = await outcomes(*(charging.charge(payer, f"req-{n}", facts=facts) for n in range(60)))
    assert Counter(type(result) for result in found) == {Receipt: 20, InsufficientBalance: 40}
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 2_499


async def test_concurrent_duplicates_of_a_reserve_are_one_hold(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    found = await outcomes(*(reserve(charging, payer, "req", 400) for _ in range(20)))
    assert len({hold.hold_id for hold in found}) == 1
    assert (await credit.balance(payer.org_id)).held_nano_usd == 400


async def test_concurrent_duplicates_with_another_content_conflict(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    found = await outcomes(*(reserve(charging, payer, "req", 100 + n % 2) for n in range(20)))
    assert Counter(type(result) for result in found) == {Hold: 10, IdempotencyConflict: 10}
    assert (await credit.balance(payer.org_id)).open_holds == 1


async def test_concurrent_duplicates_of_a_settlement_are_one_receipt(
    credit: CreditService, charging: ChargingService, database: Database, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**9)
    await reserve(charging, payer, "req", 10**6)
    facts = new_facts(prompt=10, answer=5)
    found = await outcomes(*(charging.settle(payer.org_id, "req", facts=facts, attempts=()) for _ in range(20)))
    assert len({receipt.receipt_id for receipt in found}) == 1
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 10**9 - 60_000
    count = await database.read(lambda connection: connection.scalar(select(func.count()).select_from(RECEIPT)))
    assert count == 1


async def test_concurrent_duplicates_of_a_charge_and_of_a_credit_count_once(
    credit: CreditService, charging: ChargingService, database: Database, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**6)
    facts = new_facts(answer=4, mode=ServedMode.EXACT)
    receipts = await outcomes(*(charging.charge(payer, "req", facts=facts) for _ in range(10)))
    assert len({receipt.receipt_id for receipt in receipts}) == 1
    await outcomes(
        *(
            credit.add(payer.org_id, amount_nano_usd=500, idempotency_key="twice", kind=CreditKind.PAID)
            for _ in range(10)
        )
    )
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 10**6 - 10_000 + 500
    count = await database.read(lambda connection: connection.scalar(select(func.count()).select_from(TRANSFER)))
    assert count == 3


@pytest.mark.parametrize("seed", range(3))
async def test_settle_release_and_expiry_race_for_each_hold_and_one_wins(
    credit: CreditService,
    seed: int,
    charging: ChargingService,
    sweeper: Sweeper,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    requests = [f"req-{n}" for n in range(30)]
    for request_id in requests:
        await reserve(charging, payer, request_id, 10**6)
    clock.advance(TTL_MS)
    facts = new_facts(answer=3)
    settles = [charging.settle(payer.org_id, r, facts=facts, attempts=()) for r in requests]
    releases = [charging.release(payer.org_id, r, reason="gave up", attempts=()) for r in requests]
    sweeps = [sweeper.sweep() for _ in range(3)]
    work = list(enumerate([*settles, *releases, *sweeps]))
    random.Random(seed).shuffle(work)
    results = dict(zip((n for n, _ in work), await outcomes(*(w for _, w in work)), strict=True))
    for n in range(len(requests)):
        pair = {type(results[n]), type(results[n + len(requests)])}
        assert pair in ({Receipt, HoldClosed}, {HoldClosed, int}), pair
    settled = sum(isinstance(results[n], Receipt) for n in range(len(requests)))
    balance = await credit.balance(payer.org_id)
    assert balance.posted_nano_usd == 10**9 - settled * 30_000
    assert (balance.held_nano_usd, balance.open_holds) == (0, 0)


async def test_a_revoked_key_reserves_nothing_after_the_revocation_is_answered(
    charging: ChargingService, keys: KeyService, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**9)
    revoked = False

    async def revoke() -> None:
        nonlocal revoked
        await keys.revoke_key(payer.key_id, payer.org_id)
        revoked = True

    async def try_reserve(n: int) -> None:
        began_revoked = revoked
        try:
            await reserve(charging, payer, f"req-{n}", 1)
        except ApiKeyRevoked:
            return
        assert not began_revoked

    assert await outcomes(*(revoke() if n == 20 else try_reserve(n) for n in range(60))) == [None] * 60
    with pytest.raises(ApiKeyRevoked):
        await reserve(charging, payer, "after", 1)


async def test_many_organisations_at_once_do_not_disturb_each_other(
    credit: CreditService, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payers = [await new_payer(10**6, promo=10**6) for _ in range(4)]

    async def one(payer: Principal, n: int) -> None:
        await reserve(charging, payer, f"req-{n}", 10_000)
        await charging.settle(payer.org_id, f"req-{n}", facts=new_facts(answer=n % 3), attempts=())

    await asyncio.gather(*(one(payer, n) for n in range(24) for payer in payers))
    for payer in payers:
        balance = await credit.balance(payer.org_id)
        assert (balance.posted_nano_usd, balance.held_nano_usd) == (2 * 10**6 - 24 * 10_000, 0)
