"""``/billing``: what the organisation has, what it was charged, what things cost, whether another tier costs less."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query

from edge.account import Account
from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.routes.account.guard import CallerOf, account_router
from edge.routes.account.hints import Prices, prompt_thresholds, smart_aliases, upgrade_hint
from edge.wire.account.base import Page
from edge.wire.account.billing import (
    Balance,
    BillingUsage,
    ByokTier,
    Credit,
    DayUsage,
    PassthroughTier,
    Payments,
    Plan,
    SmartTier,
    SpendCaps,
    Spent,
    Tiers,
    UpgradeHint,
    percent,
)
from edge.wire.times import day_of
from meshkit.clock import Clock
from meshkit.money import format_usd
from tallygate.catalog.v1 import catalog_pb2
from tallygate.ledger.v1 import billing_pb2, ledger_pb2, usage_pb2

DAY_MS = 24 * 3600 * 1000
HINT_DAYS = 30
TIERS = ("fast", "balanced", "auto", "passthrough", "byok")

Days = Annotated[int, Query(ge=1, le=366, description="So many days (UTC), today among them.")]


def billing_router(account: Account, authenticator: Authenticator, catalog: CatalogView, clock: Clock) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Billing")

    @router.get("/billing/balance", summary="Get the balance")
    async def get_balance(caller: CallerOf) -> Balance:
        """What the organisation has, holds and can spend."""
        return Balance.of(await _funds(caller.org_id))

    @router.get("/billing/credits", summary="List credit")
    async def list_credits(caller: CallerOf) -> Page[Credit]:
        """The credit that the balance is made of, in the order in which it is spent. All of it is one page."""
        request = ledger_pb2.ListCreditLotsRequest(org_id=caller.org_id)
        found = await account.ask(account.ledger.ListCreditLots, request)
        return Page[Credit].of([Credit.of(lot) for lot in found.lots], "")

    @router.get("/billing/usage", summary="What was charged")
    async def get_usage(caller: CallerOf, days: Days = 30) -> BillingUsage:
        """What was charged by day and by tier."""
        from_ms, to_ms = _period(clock, days)
        request = usage_pb2.QueryUsageRequest(
            org_id=caller.org_id,
            from_ms=from_ms,
            to_ms=to_ms,
            group_by=[usage_pb2.USAGE_DIMENSION_DAY, usage_pb2.USAGE_DIMENSION_TIER],
        )
        found = await account.ask(account.usage.QueryUsage, request)
        return usage_of(found.groups, days=days)

    @router.get("/billing/plan", summary="What things cost")
    async def get_plan(caller: CallerOf) -> Plan:
        """What each tier costs, and the organisation's limits."""
        funds = await _funds(caller.org_id)
        caps = await account.ask(account.ledger.ListCaps, ledger_pb2.ListCapsRequest(org_id=caller.org_id))
        return plan_of(catalog.snapshot(), caps.caps, funds)

    @router.get("/billing/upgrade-hint", summary="Whether another tier would have cost less")
    async def get_upgrade_hint(caller: CallerOf) -> UpgradeHint:
        """What the usage of the last 30 days would have cost in other tiers, and the best of them."""
        snapshot = catalog.snapshot()
        from_ms, to_ms = _period(clock, HINT_DAYS)
        request = billing_pb2.SumChargesRequest(
            org_id=caller.org_id,
            from_ms=from_ms,
            to_ms=to_ms,
            by_offer=True,
            prompt_thresholds=prompt_thresholds(snapshot),
        )
        found = await account.ask(account.billing.SumCharges, request)
        return upgrade_hint(found.sums, Prices.of(snapshot), days=HINT_DAYS)

    async def _funds(org_id: str) -> billing_pb2.GetFundsResponse:
        return await account.ask(account.billing.GetFunds, billing_pb2.GetFundsRequest(org_id=org_id))

    return router


def _period(clock: Clock, days: int) -> tuple[int, int]:
    """From when until when, Unix milliseconds: whole days, today among them."""
    tomorrow_ms = (clock.now_ms() // DAY_MS + 1) * DAY_MS
    return tomorrow_ms - days * DAY_MS, tomorrow_ms


def usage_of(groups: Iterable[usage_pb2.UsageGroup], *, days: int) -> BillingUsage:
    """Sums by day and tier, added up. Requests that ended in an error alone cost nothing and have no tier."""
    by_tier: dict[str, list[usage_pb2.UsageSums]] = {tier: [] for tier in TIERS}
    by_day: defaultdict[int, dict[str, usage_pb2.UsageSums]] = defaultdict(dict)
    for group in groups:
        if group.sums.requests:
            day_ms, tier = int(group.values[0]), group.values[1]
            by_tier.setdefault(tier, []).append(group.sums)
            by_day[day_ms][tier] = group.sums
    everything = _spent(sums for day in by_day.values() for sums in day.values())
    return BillingUsage(
        days=days,
        total_usd=everything.cost_usd,
        saved_usd=everything.saved_usd,
        requests=everything.requests,
        by_tier={tier: _spent(parts) for tier, parts in by_tier.items()},
        by_day=[_day(day_ms, by_day[day_ms]) for day_ms in sorted(by_day)],
    )


def _day(day_ms: int, by_tier: Mapping[str, usage_pb2.UsageSums]) -> DayUsage:
    return DayUsage(
        **_spent(by_tier.values()).model_dump(),
        date=day_of(day_ms),
        by_tier={tier: format_usd(sums.charged_nano_usd) for tier, sums in sorted(by_tier.items())},
    )


def _spent(sums: Iterable[usage_pb2.UsageSums]) -> Spent:
    parts = list(sums)
    return Spent(
        requests=sum(part.requests for part in parts),
        cost_usd=format_usd(sum(part.charged_nano_usd for part in parts)),
        saved_usd=format_usd(sum(part.saved_nano_usd for part in parts)),
    )


def plan_of(
    snapshot: catalog_pb2.Snapshot, caps: Iterable[ledger_pb2.Cap], funds: billing_pb2.GetFundsResponse
) -> Plan:
    """What the catalog's policy says, and the caps of the organisation."""
    billing = snapshot.billing
    limits = {
        cap.period: format_usd(cap.limit)
        for cap in caps
        if cap.scope == ledger_pb2.CAP_SCOPE_ORGANIZATION and cap.unit == ledger_pb2.CAP_UNIT_NANO_USD
    }
    # A rate is in pico-USD per token, which is micro-USD per million.
    rates = billing.flat_rates
    return Plan(
        tiers=Tiers(
            smart=SmartTier(
                models=smart_aliases(snapshot),
                input_usd_per_million=format_usd(rates.input_pico_usd * 1_000),
                output_usd_per_million=format_usd(rates.output_pico_usd * 1_000),
            ),
            passthrough=PassthroughTier(markup_pct=percent(billing.markup_bps)),
            byok=ByokTier(
                fee_pct=percent(billing.byok_fee_bps),
                fee_usd_per_call=_format_pico_usd(billing.byok_fee_per_call_pico_usd),
            ),
        ),
        replay_pct=percent(billing.replay_bps),
        limits=SpendCaps(
            monthly_spend_cap_usd=limits.get(ledger_pb2.CAP_PERIOD_MONTH),
            daily_spend_cap_usd=limits.get(ledger_pb2.CAP_PERIOD_DAY),
        ),
        payments=Payments(
            provider=funds.payment_provider or None,
            minimum_usd=format_usd(funds.min_payment_nano_usd),
            maximum_usd=format_usd(funds.max_payment_nano_usd),
        ),
        catalog_revision=snapshot.revision,
    )


def _format_pico_usd(pico_usd: int) -> str:
    whole, pico = divmod(pico_usd, 10**12)
    return f"{whole}.{pico:012d}".rstrip("0").rstrip(".")
