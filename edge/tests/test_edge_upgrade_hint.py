"""What other tiers would have cost, to the nano-dollar."""

from __future__ import annotations

from typing import Any

import pytest

from edge.routes.account.hints import Prices, prompt_thresholds, upgrade_hint
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import billing_pb2

FLAT, PASSTHROUGH = money_pb2.BILLING_TIER_FLAT, money_pb2.BILLING_TIER_PASSTHROUGH


def snapshot(*aliases: str) -> catalog_pb2.Snapshot:
    """One model at 1 and 2 USD per million tokens, twice that for prompts above 1,000; flat prices of 3 and 12."""
    tiers = [
        money_pb2.RateTier(
            above_input_tokens=above,
            rates=money_pb2.Rates(input_pico_usd=factor * 1_000_000, output_pico_usd=factor * 2_000_000),
        )
        for above, factor in ((0, 1), (1_000, 2))
    ]
    price = money_pb2.PriceSnapshot(
        offer_id="s/m", tier=PASSTHROUGH, rate_tiers=tiers, markup_bps=500, replay_bps=2_500
    )
    return catalog_pb2.Snapshot(
        revision="r",
        offers=[catalog_pb2.Offer(id="s/m", model_id="m", source_id="s", price=price)],
        aliases=[catalog_pb2.Alias(name=name, model_id="m") for name in aliases],
        billing=catalog_pb2.BillingPolicy(
            replay_bps=2_500, flat_rates=money_pb2.Rates(input_pico_usd=3_000_000, output_pico_usd=12_000_000)
        ),
    )


def charged(tier: int, nano_usd: int, *, prompt: int, answer: int, **fields: Any) -> billing_pb2.ChargeSum:
    usual: dict[str, Any] = {
        "tier": tier,
        "requests": 100,
        "charged_nano_usd": nano_usd,
        "model": "m",
        "source_id": "s",
    }
    return billing_pb2.ChargeSum(
        **usual | fields,
        usage=money_pb2.Usage(input_tokens=prompt, output_tokens=answer, provenance=money_pb2.USAGE_PROVENANCE_NONE),
    )


def test_flat_usage_that_costs_less_at_the_source_is_hinted_at() -> None:
    sums = [
        charged(FLAT, 3_000 * 1_000 + 12_000 * 500, prompt=1_000, answer=500, alias="tallygate/fast"),
        # Long prompts, each above 1,000 tokens, replayed: a quarter.
        charged(FLAT, 3_000 * 5_000 // 4, prompt=5_000, answer=0, is_replay=True, prompt_above=1_000),
    ]
    prices = Prices.of(snapshot("tallygate/fast", "tallygate/balanced"))
    answer = upgrade_hint(sums, prices, days=30)
    current, would = 9_000_000 + 3_750_000, 2_100_000 + 2_625_000  # 1,000 x 1.05 and 1,000 x 1.05; 10,000 x 1.05 / 4
    assert answer.reason is None
    assert answer.hint is not None
    assert answer.hint.recommend_plan == "passthrough"
    assert answer.hint.would_cost_usd == f"0.{would:09d}".rstrip("0")
    assert answer.current_usd == f"0.{current:09d}".rstrip("0")
    assert answer.hint.savings_pct == "62.94"
    assert [other.plan for other in answer.alternatives] == ["passthrough", "balanced"]
    assert answer.alternatives[1].savings_usd == "0"


def test_passthrough_usage_that_costs_less_flat_is_hinted_at() -> None:
    dear = charged(PASSTHROUGH, 50_000_000, prompt=1_000, answer=500)
    answer = upgrade_hint([dear], Prices.of(snapshot("tallygate/auto")), days=30)
    assert answer.hint is not None
    assert (answer.hint.recommend_plan, answer.hint.would_cost_usd) == ("auto", "0.009")
    assert answer.hint.savings_pct == "82"


@pytest.mark.parametrize(
    ("sums", "aliases", "reason"),
    [
        ([], ("tallygate/auto",), "too_little_usage"),
        ([charged(PASSTHROUGH, 10**9, prompt=1, answer=1, requests=19)], ("tallygate/auto",), "too_little_usage"),
        ([charged(PASSTHROUGH, 1_000, prompt=1_000, answer=500)], ("tallygate/auto",), "already_best"),
        ([charged(PASSTHROUGH, 10**9, prompt=1_000, answer=500)], (), "no_other_plan"),
        (
            [charged(FLAT, 10**9, prompt=1_000, answer=500, model="gone", alias="tallygate/auto")],
            ("tallygate/auto",),
            "already_best",
        ),
        ([charged(money_pb2.BILLING_TIER_BYOK, 10**9, prompt=1, answer=1)], ("tallygate/auto",), "too_little_usage"),
    ],
)
def test_without_a_hint_there_is_a_reason(
    sums: list[billing_pb2.ChargeSum], aliases: tuple[str, ...], reason: str
) -> None:
    answer = upgrade_hint(sums, Prices.of(snapshot(*aliases)), days=30)
    assert (answer.hint, answer.reason) == (None, reason)


def test_thresholds_are_those_of_the_offers() -> None:
    assert prompt_thresholds(snapshot()) == [1_000]
