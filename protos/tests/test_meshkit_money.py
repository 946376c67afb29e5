"""Money: exact, rounded once, up."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.money import (
    USAGE_CLASSES,
    BillingTier,
    PriceSnapshot,
    Provenance,
    Rates,
    RateTier,
    Usage,
    charge_nano_usd,
    format_usd,
    parse_usd,
    worst_case_nano_usd,
)

UNIT_OF_CLASS = {
    "input_tokens": "input_pico_usd",
    "cached_input_tokens": "cached_input_pico_usd",
    "cache_write_tokens": "cache_write_pico_usd",
    "output_tokens": "output_pico_usd",
    "reasoning_tokens": "reasoning_pico_usd",
    "images": "image_pico_usd",
    "seconds": "second_pico_usd",
    "calls": "call_pico_usd",
}

counts = st.integers(0, 10_000_000)
pico = st.integers(0, 10**12)
rates = st.builds(Rates, **dict.fromkeys(UNIT_OF_CLASS.values(), pico))
usages = st.builds(Usage, **dict.fromkeys(USAGE_CLASSES, counts), provenance=st.sampled_from(Provenance))


@st.composite
def prices(draw: st.DrawFn) -> PriceSnapshot:
    thresholds = sorted(draw(st.sets(st.integers(1, 2_000_000), max_size=3)))
    tiers = tuple(RateTier(above, draw(rates)) for above in [0, *thresholds])
    tier = draw(st.sampled_from([BillingTier.FLAT, BillingTier.PASSTHROUGH, BillingTier.BYOK]))
    return PriceSnapshot(
        "s/m", tier, tiers, markup_bps=draw(st.integers(0, 20_000)), replay_bps=draw(st.integers(0, 10_000))
    )


def flat(markup_bps: int = 0, replay_bps: int = 2_500, **rate: int) -> PriceSnapshot:
    return PriceSnapshot("s/m", BillingTier.FLAT, (RateTier(0, Rates(**rate)),), markup_bps, replay_bps)


def exact(price: PriceSnapshot, usage: Usage, *, replay: bool) -> Fraction:
    """The charge before it is rounded, worked out another way."""
    tier_rates = price.rates_for(usage.prompt_tokens)
    usd_pico = sum(getattr(usage, name) * getattr(tier_rates, unit) for name, unit in UNIT_OF_CLASS.items())
    share = Fraction(price.replay_bps, 10_000) if replay else Fraction(1)
    return Fraction(usd_pico, 1_000) * (1 + Fraction(price.markup_bps, 10_000)) * share


@pytest.mark.parametrize(
    ("price", "usage", "replay", "nano"),
    [
        # 1,000 tokens at 3 USD and 500 at 12 USD per million
        (
            flat(input_pico_usd=3_000_000, output_pico_usd=12_000_000),
            Usage(input_tokens=1_000, output_tokens=500),
            False,
            9_000_000,
        ),
        (
            flat(input_pico_usd=3_000_000, output_pico_usd=12_000_000),
            Usage(input_tokens=1_000, output_tokens=500),
            True,
            2_250_000,
        ),
        # one pico rounds up to a nano; so do two classes of half a nano together, once
        (flat(input_pico_usd=1), Usage(input_tokens=1), False, 1),
        (flat(input_pico_usd=500, output_pico_usd=500), Usage(input_tokens=1, output_tokens=1), False, 1),
        (flat(markup_bps=500, input_pico_usd=1_000_000), Usage(input_tokens=100), False, 105_000),
        (flat(call_pico_usd=5_000_000_000), Usage(calls=2), False, 10_000_000),
        (flat(input_pico_usd=7), Usage(), False, 0),
        (PriceSnapshot("s/m", BillingTier.FREE, ()), Usage(input_tokens=10**6), False, 0),
    ],
)
def test_charges(price: PriceSnapshot, usage: Usage, replay: bool, nano: int) -> None:
    assert charge_nano_usd(price, usage, replay=replay) == nano


@given(prices(), usages, st.booleans())
def test_a_charge_is_the_exact_price_rounded_once_up(price: PriceSnapshot, usage: Usage, replay: bool) -> None:
    charge = charge_nano_usd(price, usage, replay=replay)
    assert 0 <= charge - exact(price, usage, replay=replay) < 1


@given(prices(), usages)
def test_a_replay_never_costs_more_than_fresh(price: PriceSnapshot, usage: Usage) -> None:
    assert charge_nano_usd(price, usage, replay=True) <= charge_nano_usd(price, usage)


@given(prices(), st.data())
def test_the_worst_case_covers_every_charge_within_its_bounds(price: PriceSnapshot, data: st.DataObject) -> None:
    prompt = data.draw(st.integers(0, 3_000_000), "prompt_tokens")
    answer = data.draw(st.integers(0, 1_000_000), "answer_tokens")
    read = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - read))
    reasoning = data.draw(st.integers(0, answer))
    usage = Usage(
        input_tokens=data.draw(st.integers(0, prompt - read - written)),
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=data.draw(st.integers(0, answer - reasoning)),
        reasoning_tokens=reasoning,
        calls=data.draw(st.integers(0, 1)),
    )
    bound = worst_case_nano_usd(price, prompt_tokens=prompt, answer_tokens=answer)
    assert charge_nano_usd(price, usage) <= bound


def test_the_worst_case_tries_a_lower_tier_that_is_dearer() -> None:
    tiers = (RateTier(0, Rates(input_pico_usd=5_000)), RateTier(100, Rates(input_pico_usd=1_000)))
    price = PriceSnapshot("s/m", BillingTier.FLAT, tiers)
    assert charge_nano_usd(price, Usage(input_tokens=100)) == 500
    assert charge_nano_usd(price, Usage(input_tokens=101)) == 101
    assert worst_case_nano_usd(price, prompt_tokens=101, answer_tokens=0) == 505


def test_the_worst_case_of_what_is_free_is_nothing() -> None:
    assert worst_case_nano_usd(PriceSnapshot("s/m", BillingTier.FREE, ()), prompt_tokens=9, answer_tokens=9) == 0


@pytest.mark.parametrize(("prompt", "threshold"), [(0, 0), (200_000, 0), (200_001, 200_000), (900_000, 200_000)])
def test_a_rate_tier_begins_above_its_threshold(prompt: int, threshold: int) -> None:
    tiers = tuple(RateTier(above, Rates(input_pico_usd=above)) for above in (0, 200_000))
    assert PriceSnapshot("s/m", BillingTier.FLAT, tiers).rates_for(prompt).input_pico_usd == threshold


@pytest.mark.parametrize("name", USAGE_CLASSES)
def test_usage_is_not_negative(name: str) -> None:
    negative: Any = {name: -1}
    with pytest.raises(ValueError, match=name):
        Usage(**negative)


@pytest.mark.parametrize("name", Rates.__dataclass_fields__)
def test_rates_are_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Rates(**{name: -1})


@pytest.mark.parametrize(
    ("tiers", "markup_bps", "replay_bps"),
    [
        ((), 0, 0),
        ((RateTier(1, Rates()),), 0, 0),
        ((RateTier(0, Rates()), RateTier(5, Rates()), RateTier(5, Rates())), 0, 0),
        ((RateTier(0, Rates()), RateTier(5, Rates()), RateTier(4, Rates())), 0, 0),
        ((RateTier(0, Rates()),), -1, 0),
        ((RateTier(0, Rates()),), 0, -1),
        ((RateTier(0, Rates()),), 0, 10_001),
    ],
)
def test_prices_that_are_not_well_formed(tiers: tuple[RateTier, ...], markup_bps: int, replay_bps: int) -> None:
    with pytest.raises(ValueError, match="s/m"):
        PriceSnapshot("s/m", BillingTier.FLAT, tiers, markup_bps, replay_bps)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (420, "0.00000042"),
        (1_500_000_000, "1.5"),
        (-1_500_000_000, "-1.5"),
        (10**10, "10"),
    ],
)
def test_amounts_as_text(nano: int, text: str) -> None:
    assert format_usd(nano) == text
    assert parse_usd(text) == nano


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_amount_survives_its_text(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano
    assert "e" not in format_usd(nano)


@pytest.mark.parametrize(
    "text", ["", " ", "1,5", "1e3", "+1", ".5", "5.", "1.0000000001", "12345678901", "NaN", "٣", "1_000", "--1", "1\n2"]
)
def test_what_is_not_an_amount(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        parse_usd(text)


@pytest.mark.parametrize(("text", "nano"), [(" 20 ", 20 * 10**9), ("-0", 0), ("0020.50", 20_500_000_000)])
def test_lenient_amounts(text: str, nano: int) -> None:
    assert parse_usd(text) == nano
