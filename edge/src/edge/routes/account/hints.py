"""What other tiers would have cost for the same usage. Exact: integers, rounded up once for each sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.wire.account.billing import Alternative, Hint, UpgradeHint, percent
from meshkit.codec import price_from_proto, rates_from_proto, usage_from_proto
from meshkit.money import (
    BASIS_POINTS,
    BillingTier,
    PriceSnapshot,
    RateTier,
    charge_nano_usd,
    format_usd,
)
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import billing_pb2

SMART_PREFIX = "tallygate/"
PASSTHROUGH = "passthrough"
MIN_REQUESTS = 20
MIN_SAVINGS_BPS = 100
_PREFERRED = ("tallygate/balanced", "tallygate/auto", "tallygate/fast")
_COMPARED = (money_pb2.BILLING_TIER_FLAT, money_pb2.BILLING_TIER_PASSTHROUGH)


def smart_aliases(snapshot: catalog_pb2.Snapshot) -> list[str]:
    """The names at a flat price that are offered."""
    return [alias.name for alias in snapshot.aliases if alias.name.startswith(SMART_PREFIX)]


def prompt_thresholds(snapshot: catalog_pb2.Snapshot) -> list[int]:
    """Where the price of some offer changes with the length of the prompt."""
    return sorted(
        {
            tier.above_input_tokens
            for offer in snapshot.offers
            for tier in offer.price.rate_tiers
            if tier.above_input_tokens
        }
    )


@dataclass(frozen=True, slots=True)
class Prices:
    """What is offered now."""

    by_offer: Mapping[tuple[str, str], PriceSnapshot]
    """By model and source, with the markup."""
    flat: PriceSnapshot
    smart: str
    """The alias to recommend; empty: none is offered."""

    @classmethod
    def of(cls, snapshot: catalog_pb2.Snapshot) -> Prices:
        """As the catalog has them."""
        offered = smart_aliases(snapshot)
        billing = snapshot.billing
        return cls(
            by_offer={
                (offer.model_id, offer.source_id): price_from_proto(offer.price)
                for offer in snapshot.offers
                if offer.HasField("price")
            },
            flat=PriceSnapshot(
                offer_id="smart",
                tier=BillingTier.FLAT,
                rate_tiers=(RateTier(0, rates_from_proto(billing.flat_rates)),),
                replay_bps=billing.replay_bps,
            ),
            smart=next((name for name in _PREFERRED if name in offered), offered[0] if offered else ""),
        )


def upgrade_hint(sums: Iterable[billing_pb2.ChargeSum], prices: Prices, *, days: int) -> UpgradeHint:
    """Compares what was charged with what the same usage costs at today's prices. Images and seconds, what
    was free, and what own keys cost stay out: no tier changes them.
    """
    compared = [found for found in sums if found.tier in _COMPARED and not (found.usage.images or found.usage.seconds)]
    requests = sum(found.requests for found in compared)
    current = sum(found.charged_nano_usd for found in compared)
    costs = {
        PASSTHROUGH: _cost(compared, prices, flat=False),
        prices.smart.removeprefix(SMART_PREFIX): _cost(compared, prices, flat=True),
    }
    offered = {plan: cost for plan, cost in costs.items() if plan and cost is not None}
    alternatives = [
        Alternative(plan=plan, would_cost_usd=format_usd(cost), savings_usd=format_usd(current - cost))
        for plan, cost in sorted(offered.items(), key=lambda item: (item[1], item[0]))
    ]
    answer = UpgradeHint(
        hint=None,
        reason=None,
        days=days,
        requests=requests,
        current_usd=format_usd(current),
        alternatives=alternatives if requests else [],
    )
    if requests < MIN_REQUESTS or not current:
        return answer.model_copy(update={"reason": "too_little_usage"})
    if not prices.smart and all(found.tier == money_pb2.BILLING_TIER_PASSTHROUGH for found in compared):
        return answer.model_copy(update={"reason": "no_other_plan"})
    plan, cost = min(offered.items(), key=lambda item: (item[1], item[0]), default=("", current))
    savings_bps = (current - cost) * BASIS_POINTS // current
    if savings_bps < MIN_SAVINGS_BPS:
        return answer.model_copy(update={"reason": "already_best"})
    hint = Hint(
        recommend_plan=plan,
        savings_pct=percent(savings_bps),
        savings_usd=format_usd(current - cost),
        would_cost_usd=format_usd(cost),
    )
    return answer.model_copy(update={"hint": hint})


def _cost(sums: Sequence[billing_pb2.ChargeSum], prices: Prices, *, flat: bool) -> int | None:
    """What they would have cost, in nano-USD; None: some of it has no price now."""
    total = 0
    for found in sums:
        if (found.tier == money_pb2.BILLING_TIER_FLAT) == flat:
            total += found.charged_nano_usd
            continue
        price = prices.flat if flat else prices.by_offer.get((found.model, found.source_id))
        if price is None:
            return None
        total += _charge(price, found)
    return total


def _charge(price: PriceSnapshot, found: billing_pb2.ChargeSum) -> int:
    """At the rates for prompts of the length that those of this sum had, each: not of all of them together."""
    if price.tier is BillingTier.FREE:
        return 0
    rates = price.rates_for(found.prompt_above + 1)
    alike = PriceSnapshot(
        price.offer_id, price.tier, (RateTier(0, rates),), markup_bps=price.markup_bps, replay_bps=price.replay_bps
    )
    return charge_nano_usd(alike, usage_from_proto(found.usage), replay=found.is_replay)
