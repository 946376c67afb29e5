"""The charts: what became of the items by category, intervals against the budget, and a map of the traps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tallygate_deploy.cache_safety.items import Family
from tallygate_deploy.cache_safety.metrics import Interval, Outcome, Score, Tally
from tallygate_deploy.cache_safety.report.svg import drawing, element, text, titled

WIDTH, LABELS, ROW, HEAD = 1000, 190, 20, 34
GAP = 24
ENDS = {
    Outcome.SAFE: "right replay",
    Outcome.BAD: "wrong replay",
    Outcome.MISSED: "could have been replayed, was not",
    Outcome.HELD: "must not be replayed, was not",
}
FAMILIES = {
    Family.REUSABLE: "May be replayed",
    Family.MEANING: "Traps: something else is asked",
    Family.REQUEST: "Traps: another request around it",
    Family.OWNER: "Traps: somebody else asks",
}
_NAME_CHARS = 15
_Place = Callable[[float], float]
_TICKS = (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)
_FINEST = 10_000  # a share of 0.01% is told from none
HATCH = element(
    "defs",
    element(
        "pattern",
        element("rect", width=6, height=6, class_="bad"),
        element("path", d="M0 6L6 0", class_="hatch"),
        id="hatch",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    ),
)
"""Wrong replays are hatched too, for those who don't see their colour."""


def stacked(scores: Sequence[Score]) -> str:
    """For each category a row, for each tier a column of bars: the share of the items that met each end."""
    column = (WIDTH - LABELS) / len(scores)
    drawn = [HATCH, *_heads(scores, column)]
    y = HEAD
    for family, title in FAMILIES.items():
        categories = _categories(scores, family)
        if not categories:
            continue
        y += 26
        drawn.append(text(0, y - 8, title, "family"))
        for category in categories:
            drawn.append(text(0, y + 13, category.replace("_", " "), "label"))
            for place, score in enumerate(scores):
                tally = _tally(score, family, category)
                if tally:
                    drawn.append(_bar(score.tier, tally, LABELS + place * column, y, column - GAP))
            y += ROW
    description = (
        "Bars of right, wrong and missed replays for each category of items; the numbers are in the table below."
    )
    return drawing("by-category", "What became of the items, by category", description, WIDTH, y + 6, *drawn)


def intervals(scores: Sequence[Score]) -> str:
    """For each tier both rates of wrong replays with their intervals, on one axis with the budget."""
    left, right = LABELS + 40, WIDTH - 30
    height = HEAD + 58 * len(scores) + 30

    def place(share: float) -> float:
        # Logarithmic, and still with a place for 0.
        return left + (right - left) * math.log1p(share * _FINEST) / math.log1p(_FINEST)

    drawn: list[str] = []
    for tick in _TICKS:
        drawn.append(element("path", d=f"M{place(tick):.1f} {HEAD - 8}V{height - 24}", class_="grid"))
        drawn.append(text(place(tick), height - 8, f"{tick:.2%}".replace(".00", ""), "tick", text_anchor="middle"))
    budget = scores[0].budget
    drawn.append(element("path", d=f"M{place(budget):.1f} {HEAD - 16}V{height - 24}", class_="budget"))
    drawn.append(text(place(budget) + 5, HEAD - 16, f"budget {budget:.2%}", "budget-label"))
    for row, score in enumerate(scores):
        y = HEAD + 58 * row + 18
        drawn.append(text(0, y + 14, _short(score.tier), "tier"))
        for offset, name, interval in ((0, "of replays", score.bad_replays), (22, "of requests", score.bad_hits)):
            drawn.append(text(left - 12, y + offset + 4, name, "label", text_anchor="end"))
            drawn.append(_whisker(score.tier, name, interval, place, y + offset, over=interval.high > budget))
    description = (
        "Observed shares of wrong replays with their exact 95% intervals; what ends right of the budget is unproven."
    )
    return drawing("intervals", "Wrong replays against the budget", description, WIDTH, height, *drawn)


def heat_map(scores: Sequence[Score]) -> str:
    """For each category of traps a cell a tier: how many of them were answered by a replay."""
    column = (WIDTH - LABELS) / len(scores)
    drawn = list(_heads(scores, column))
    y = HEAD
    for family in (Family.MEANING, Family.REQUEST, Family.OWNER):
        for category in _categories(scores, family):
            drawn.append(text(0, y + 17, category.replace("_", " "), "label"))
            for place, score in enumerate(scores):
                tally = _tally(score, family, category)
                if tally:
                    drawn.append(_cell(score.tier, tally, LABELS + place * column, y, column - 4))
            y += 28
        y += 8
    description = "Cells from calm to alarming: how many traps of each category were answered by a replay."
    return drawing("trap-map", "Traps that a replay was given to", description, WIDTH, y, *drawn)


def _bar(tier: str, tally: Tally, x: float, y: float, width: float) -> str:
    pieces: list[str] = []
    counts = {end: getattr(tally, end.value) for end in ENDS}
    for end, count in counts.items():
        if not count:
            continue
        # However rare, a wrong replay is seen.
        share = count / tally.n * width
        shown = max(share, 3.0) if end is Outcome.BAD else share
        said = f"{tier}, {tally.category}: {ENDS[end]}, {count} of {tally.n}"
        pieces.append(
            element(
                "rect", titled(said), x=x, y=y, width=shown, height=ROW - 5, class_=end.value,
                data_tier=tier, data_category=tally.category, data_family=tally.family.value, data_end=end.value,
                data_count=str(count),
            )
        )  # fmt: skip
        x += share
    # Drawn last, so that the next piece does not cover it.
    return "".join(sorted(pieces, key=lambda piece: 'data-end="bad"' in piece))


def _whisker(tier: str, name: str, interval: Interval, place: _Place, y: float, *, over: bool) -> str:
    low, high, seen = place(interval.low), place(interval.high), place(interval.observed)
    said = (
        f"{tier}, wrong {name}: {interval.count} of {interval.total}, {interval.observed:.3%}, "
        f"95% interval {interval.low:.3%} to {interval.high:.3%}"
    )
    return element(
        "g",
        titled(said),
        element(
            "path", d=f"M{low:.1f} {y:g}H{high:.1f}M{low:.1f} {y - 5:g}v10M{high:.1f} {y - 5:g}v10", class_="whisker"
        ),
        element("circle", cx=seen, cy=y, r=5, class_="seen"),
        text(min(high + 8, WIDTH - 52), y + 4 if high + 8 <= WIDTH - 52 else y - 8, f"{interval.high:.2%}", "value"),
        class_="over" if over else "within",
        data_tier=tier,
        data_rate=name,
        data_low=f"{interval.low:.6f}",
        data_observed=f"{interval.observed:.6f}",
        data_high=f"{interval.high:.6f}",
    )


def _cell(tier: str, tally: Tally, x: float, y: float, width: float) -> str:
    share = tally.bad / tally.n
    level = 0 if not tally.bad else next(step for step, upper in enumerate((0.01, 0.1, 0.5, 1.0), 1) if share <= upper)
    said = f"{tier}, {tally.category}: {tally.bad} of {tally.n} traps were answered by a replay"
    return element(
        "g",
        titled(said),
        element("rect", x=x, y=y, width=width, height=24, rx=4, class_=f"heat{level}"),
        text(x + width / 2, y + 16, f"{tally.bad} of {tally.n}", f"cell on-heat{level}", text_anchor="middle"),
        data_tier=tier,
        data_category=tally.category,
        data_failures=str(tally.bad),
        data_traps=str(tally.n),
    )


def _heads(scores: Sequence[Score], column: float) -> list[str]:
    return [text(LABELS + place * column, 18, _short(score.tier), "tier") for place, score in enumerate(scores)]


def _short(name: str) -> str:
    """That has room beside a chart; of an address, its host."""
    host = name.partition("://")[2].partition("/")[0] or name
    return host if len(host) <= _NAME_CHARS else f"{host[: _NAME_CHARS - 1]}…"


def _categories(scores: Sequence[Score], family: Family) -> list[str]:
    return sorted({tally.category for score in scores for tally in score.tallies if tally.family is family})


def _tally(score: Score, family: Family, category: str) -> Tally | None:
    return next((one for one in score.tallies if (one.family, one.category) == (family, category)), None)
