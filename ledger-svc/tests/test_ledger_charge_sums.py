"""Sums over receipts equal what the receipts say, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from ledger_svc.domain.charge_sums import DAY_MS, SumsWanted
from ledger_svc.domain.charges import ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.service.bills import BillService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.store.charge_sums import ChargeSums
from ledger_svc.store.database import Database
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

FLAT = PriceSnapshot(
    "smart", BillingTier.FLAT, (RateTier(0, Rates(input_pico_usd=3_000_000, output_pico_usd=12_000_000)),)
)
FREE = PriceSnapshot("local/free", BillingTier.FREE, ())


@pytest.fixture
def bills(database: Database) -> BillService:
    return BillService(ChargeSums(database))


async def _history(charging: ChargingService, payer: Principal, clock: FakeClock, new_facts: NewFacts) -> None:
    """Two days of every kind of request."""
    made = [
        (facts, mode)
        for prompt in (10, 200, 300)
        for facts in (
            new_facts(prompt=prompt, answer=3),
            replace(new_facts(prompt=prompt, answer=5, price=FLAT), requested_model="tallygate/fast"),
            new_facts(prompt=prompt, answer=1, price=FREE),
        )
        for mode in (ServedMode.FRESH, ServedMode.EXACT)
    ]
    made.append((new_facts(prompt=7, outcome=Outcome.INTERRUPTED), ServedMode.FRESH))
    for day in range(2):
        for n, (facts, mode) in enumerate(made):
            if mode is ServedMode.FRESH:
                request = f"fresh-{day}-{n}"
                await charging.reserve(payer, request, amount_nano_usd=10**7, ttl_ms=60_000, model=facts.model)
                await charging.settle(payer.org_id, request, facts=facts, attempts=())
            else:
                replayed = replace(facts, served_mode=mode, origin_receipt_id="rcpt_x")
                await charging.charge(payer, f"replay-{day}-{n}", facts=replayed)
        clock.advance(DAY_MS)


async def test_sums_by_day_are_those_of_the_receipts(
    bills: BillService,
    charging: ChargingService,
    receipts: ReceiptService,
    clock: FakeClock,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer, other = await new_payer(10**12), await new_payer(10**12)
    from_ms = clock.now_ms()
    await _history(charging, payer, clock, new_facts)
    await _history(charging, other, clock, new_facts)
    wanted = SumsWanted(payer.org_id, from_ms, clock.now_ms(), by_day=True)
    expected: Counter[tuple[object, ...]] = Counter()
    for receipt in (await receipts.page(payer.org_id, page_size=1_000, page_token=""))[0]:
        facts = receipt.facts
        alias = facts.requested_model if facts.price.tier is BillingTier.FLAT else ""
        day = receipt.created_at_ms // DAY_MS * DAY_MS
        key = (day, facts.price.tier, alias, facts.served_mode is not ServedMode.FRESH)
        expected[*key, "requests"] += 1
        expected[*key, "charged"] += receipt.charged_nano_usd
        expected[*key, "saved"] += receipt.saved_nano_usd
        expected[*key, "input"] += facts.usage.input_tokens
    found: Counter[tuple[object, ...]] = Counter()
    for each in await bills.sums(wanted):
        key = (each.day_ms, each.tier, each.alias, each.is_replay)
        found[*key, "requests"] += each.requests
        found[*key, "charged"] += each.charged_nano_usd
        found[*key, "saved"] += each.saved_nano_usd
        found[*key, "input"] += each.usage.input_tokens
    assert found == expected
    assert len({day for day, *_ in found}) == 2


async def test_sums_by_offer_are_apart_where_the_price_is_another(
    bills: BillService, charging: ChargingService, clock: FakeClock, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**12)
    from_ms = clock.now_ms()
    await _history(charging, payer, clock, new_facts)
    wanted = SumsWanted(payer.org_id, from_ms, clock.now_ms(), by_offer=True, prompt_thresholds=(200, 250))
    found = {
        (each.tier.name, each.is_replay, each.prompt_above): (each.requests, each.usage)
        for each in await bills.sums(wanted)
    }
    # Neither what is free, nor what broke off before anything came. A prompt of 200 is not above 200.
    assert found == {
        (tier, is_replay, above): (requests, Usage(input_tokens=prompt, output_tokens=answer * requests))
        for tier, answer in (("PASSTHROUGH", 3), ("FLAT", 5))
        for is_replay in (False, True)
        for above, requests, prompt in ((0, 4, 420), (250, 2, 600))
    }
    assert await bills.sums(replace(wanted, from_ms=clock.now_ms())) == []


@pytest.mark.parametrize(
    "change",
    [
        {"from_ms": 5, "to_ms": 4},
        {"to_ms": 367 * DAY_MS},
        {"prompt_thresholds": (2, 1)},
        {"prompt_thresholds": (0,)},
        {"prompt_thresholds": tuple(range(1, 66))},
        {"org_id": ""},
    ],
)
async def test_a_period_that_is_none_is_refused(bills: BillService, change: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await bills.sums(replace(SumsWanted("org", 0, DAY_MS), **change))  # type: ignore[arg-type]
