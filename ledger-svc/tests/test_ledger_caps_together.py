"""Several caps of one thing at once: all of them, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from ledger_trail import told

from ledger_svc.domain.capping import CapLimit
from ledger_svc.domain.caps import UNLIMITED, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.errors import InvalidRequest, LedgerUnavailable
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.trail import TrailService
from meshkit.principal import Principal

NewPayer = Callable[..., Awaitable[Principal]]
DAILY = CapLimit(CapPeriod.DAY, CapUnit.USD, 5)
MONTHLY = CapLimit(CapPeriod.MONTH, CapUnit.USD, 100)
GONE = ["before", ""] * 4
"""A connection that is lost at each COMMIT, and taken anew."""


async def limits_of(budgets: BudgetService, payer: Principal) -> dict[CapPeriod, int]:
    return {cap.period: cap.limit for cap, _ in await budgets.caps(payer.org_id)}


@pytest.mark.parametrize("deaths_before", [0, 1])
async def test_both_are_set_or_neither(
    deaths_before: int, deaths: list[str], budgets: BudgetService, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    deaths[:] = [""] * (1 - deaths_before) + GONE
    if deaths_before:
        with pytest.raises(LedgerUnavailable):
            await budgets.set_caps(payer.org_id, CapScope.KEY, payer.key_id, [MONTHLY, DAILY])
        assert await limits_of(budgets, payer) == {}
    else:
        await budgets.set_caps(payer.org_id, CapScope.KEY, payer.key_id, [MONTHLY, DAILY])
        assert await limits_of(budgets, payer) == {CapPeriod.DAY: 5, CapPeriod.MONTH: 100}
        assert deaths == GONE, "one transaction"


async def test_each_is_told_to_the_trail_and_what_is_the_same_is_not(
    budgets: BudgetService, trail: TrailService, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    await budgets.set_caps(payer.org_id, CapScope.KEY, payer.key_id, [MONTHLY, DAILY])
    cleared = CapLimit(CapPeriod.MONTH, CapUnit.USD, UNLIMITED)
    found = await budgets.set_caps(payer.org_id, CapScope.KEY, payer.key_id, [cleared, DAILY])
    assert [(cap.period, cap.limit, cap.revision) for cap, _ in found] == [
        (CapPeriod.MONTH, UNLIMITED, 2),
        (CapPeriod.DAY, 5, 1),
    ]
    entries = await told(trail, payer.org_id, "cap.")
    assert sorted((entry.action, {**entry.before, **entry.after}["period"]) for entry in entries) == [
        ("cap.cleared", "month"),
        ("cap.set", "day"),
        ("cap.set", "month"),
    ]


@pytest.mark.parametrize("limits", [[], [DAILY, DAILY], [DAILY, CapLimit(CapPeriod.DAY, CapUnit.USD, 6)]])
async def test_what_says_nothing_or_two_things_is_refused(
    limits: list[CapLimit], budgets: BudgetService, new_payer: NewPayer
) -> None:
    payer = await new_payer(1_000)
    with pytest.raises(InvalidRequest, match="limits"):
        await budgets.set_caps(payer.org_id, CapScope.KEY, payer.key_id, limits)
    assert await limits_of(budgets, payer) == {}
