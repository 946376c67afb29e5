"""Rates of what became of the items, their exact intervals, and what a cache would save.

With S replays that were right, B that were wrong, N items and R of them reusable:

    safe hit rate S/N, recall S/R, bad hit rate B/N, wrong share of the replays B/(S+B)

The intervals are those of Clopper and Pearson, two-sided, 95%: exact for any number of items (C. J. Clopper and
E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from scipy.special import betaincinv

from meshkit.money import NANO_PER_USD
from tallygate_deploy.cache_safety.items import Family, Item, Label

CONFIDENCE = 0.95
THOUSAND, BASIS_POINTS = 1_000, 10_000
FAILURES_SHOWN = 24


class Outcome(Enum):
    """What a cache did with the new request of an item."""

    SAFE = "safe"  # replayed an answer that is right
    BAD = "bad"  # replayed one that is not
    MISSED = "missed"  # replayed nothing, and could have
    HELD = "held"  # replayed nothing, as it must not


@dataclass(frozen=True, slots=True)
class Judged:
    """An item and what became of it. ``evidence``: what told the replay from a fresh answer; empty: there was none."""

    item: Item
    outcome: Outcome
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Pricing:
    """``default_cost_nano_usd``: of a fresh call, where the item does not say. ``replay_bps``: what a replay costs of
    that, in basis points.
    """

    default_cost_nano_usd: int
    replay_bps: int

    def saved_nano_usd(self, item: Item) -> int:
        """By one replay in place of a call."""
        cost = self.default_cost_nano_usd if item.cost_nano_usd is None else item.cost_nano_usd
        return cost * (BASIS_POINTS - self.replay_bps) // BASIS_POINTS


@dataclass(frozen=True, slots=True)
class Interval:
    """``observed`` is ``count`` of ``total``; the true share lies within ``low`` and ``high`` with 95% confidence."""

    count: int
    total: int
    low: float
    high: float

    @property
    def observed(self) -> float:
        """The share; 0 of none."""
        return self.count / self.total if self.total else 0.0


def clopper_pearson(count: int, total: int) -> Interval:
    """The exact two-sided 95% interval of a share. Of none it is all that a share can be, 0 to 1."""
    assert 0 <= count <= total, "a count is a part of its total"
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return Interval(count, total, low, high)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many items of one category met which end."""

    category: str
    family: Family
    safe: int = 0
    bad: int = 0
    missed: int = 0
    held: int = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.safe + self.bad + self.missed + self.held


@dataclass(frozen=True, slots=True)
class Score:
    """What became of all items under one tier, or at one endpoint. ``refusal``: why it replays nothing, if it says so.
    ``notes``: what a reader has to know of how it was judged. ``failures``: some of the wrong replays.
    """

    tier: str
    tallies: tuple[Tally, ...]
    budget: float
    saved_if_trusted_nano_usd: int
    reusable: int
    safe_on_reusable: int
    refusal: str = ""
    notes: tuple[str, ...] = ()
    evidence: tuple[tuple[str, int], ...] = ()
    failures: tuple[Judged, ...] = ()

    @property
    def n(self) -> int:
        """N."""
        return sum(tally.n for tally in self.tallies)

    @property
    def traps(self) -> int:
        """Items whose old answer must not be replayed."""
        return self.n - self.reusable

    @property
    def safe(self) -> int:
        """S."""
        return sum(tally.safe for tally in self.tallies)

    @property
    def bad(self) -> int:
        """B."""
        return sum(tally.bad for tally in self.tallies)

    @property
    def safe_hit_rate(self) -> float:
        """S/N."""
        return self.safe / self.n if self.n else 0.0

    @property
    def recall(self) -> float:
        """S/R, of the reusable ones."""
        return self.safe_on_reusable / self.reusable if self.reusable else 0.0

    @property
    def bad_hits(self) -> Interval:
        """B/N."""
        return clopper_pearson(self.bad, self.n)

    @property
    def bad_replays(self) -> Interval:
        """B/(S+B): the share of replays that are wrong, which is what a budget is of."""
        return clopper_pearson(self.bad, self.safe + self.bad)

    @property
    def trap_failures(self) -> int:
        """Traps that a replay was given to."""
        return sum(tally.bad for tally in self.tallies if tally.family is not Family.REUSABLE)

    def failures_of(self, family: Family) -> int:
        """Those of one family; of ``Family.MEANING``: the semantic trap failures."""
        return sum(tally.bad for tally in self.tallies if tally.family is family)

    @property
    def within_budget(self) -> bool:
        """The upper bounds of both bad rates are within the budget: enough was seen, and it was good enough."""
        return max(self.bad_hits.high, self.bad_replays.high) <= self.budget

    @property
    def over_budget(self) -> bool:
        """More replays were wrong than the budget has room for: it is broken, not only unproven."""
        return self.bad_replays.observed > self.budget

    @property
    def saved_per_1k_nano_usd(self) -> int:
        """By the safe replays of 1,000 such requests; 0 unless the cache is within its budget."""
        return self.saved_if_trusted_nano_usd * THOUSAND // self.n if self.within_budget else 0

    def line(self) -> dict[str, object]:
        """What a program reads of it: one line of JSON."""
        fields: dict[str, object] = {
            "tier": self.tier,
            "n": self.n,
            "safe_hit_rate": round(self.safe_hit_rate, 6),
            "bad_hit_rate": round(self.bad_hits.observed, 6),
            "bad_hit_upper95": round(self.bad_hits.high, 6),
            "trap_failures": self.trap_failures,
            # A number, not a text as elsewhere: it is an estimate to compare, and nothing that is owed.
            "saved_per_1k_usd": self.saved_per_1k_nano_usd / NANO_PER_USD,
        }
        return {**fields, "refused": self.refusal} if self.refusal else fields


def score(
    tier: str,
    judged: Sequence[Judged],
    *,
    budget: float,
    pricing: Pricing,
    refusal: str = "",
    notes: Iterable[str] = (),
) -> Score:
    """Counts."""
    counts: dict[tuple[Family, str], dict[Outcome, int]] = {}
    evidence: dict[str, int] = {}
    for one in judged:
        ends = counts.setdefault((one.item.family, one.item.category), dict.fromkeys(Outcome, 0))
        ends[one.outcome] += 1
        if one.evidence:
            evidence[one.evidence] = evidence.get(one.evidence, 0) + 1
    tallies = [
        Tally(category, family, **{end.value: count for end, count in ends.items()})
        for (family, category), ends in counts.items()
    ]
    order = list(Family)
    safe = [one for one in judged if one.outcome is Outcome.SAFE]
    return Score(
        tier=tier,
        tallies=tuple(sorted(tallies, key=lambda tally: (order.index(tally.family), tally.category))),
        budget=budget,
        saved_if_trusted_nano_usd=sum(pricing.saved_nano_usd(one.item) for one in safe),
        reusable=sum(one.item.label is Label.REUSABLE for one in judged),
        safe_on_reusable=sum(one.item.label is Label.REUSABLE for one in safe),
        refusal=refusal,
        notes=tuple(notes),
        evidence=tuple(sorted(evidence.items())),
        failures=tuple(_spread([one for one in judged if one.outcome is Outcome.BAD])),
    )


def _spread(failures: Sequence[Judged]) -> list[Judged]:
    """Some of them, from as many categories as there are."""
    by_category: dict[str, list[Judged]] = {}
    for one in failures:
        by_category.setdefault(one.item.category, []).append(one)
    each = max(1, FAILURES_SHOWN // max(1, len(by_category)))
    return [one for members in by_category.values() for one in members[:each]][:FAILURES_SHOWN]
