"""What the bench found, for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from meshkit.money import format_usd
from tallygate_deploy.cache_safety.items import Family
from tallygate_deploy.cache_safety.metrics import Interval, Score

_WIDTH = 118


def tell(scores: Sequence[Score], attribution: str) -> None:
    """Tables, what stands beside them, and one line of JSON for each score."""
    console = Console(width=_WIDTH, highlight=False, soft_wrap=True)
    console.print(_summary(scores))
    console.print(_by_category(scores))
    for score in scores:
        for note in _notes(score):
            console.print(f"{score.tier}: {note}", markup=False)
    if attribution:
        console.print(f"\n{attribution}\n", markup=False)
    for score in scores:
        print(json.dumps(score.line()))


def why_saved(score: Score) -> str:
    """Why the savings are what they are, in words."""
    bound, budget = max(score.bad_hits.high, score.bad_replays.high), score.budget
    if score.within_budget:
        return f"at most {bound:.3%} of its replays are wrong (95%), within the budget of {budget:.2%}"
    if score.over_budget:
        return (
            f"counted as 0: {score.bad} of {score.safe + score.bad} replays were wrong, over the budget of {budget:.2%}"
        )
    return (
        f"counted as 0: up to {bound:.3%} of its replays may be wrong (95%), above the budget of {budget:.2%}; "
        "with more items it may turn out to be within"
    )


def _summary(scores: Sequence[Score]) -> Table:
    table = Table(box=box.SIMPLE, title="CacheSafety Bench", title_justify="left")
    table.add_column("")
    for score in scores:
        table.add_column(score.tier, justify="right")
    rows = (
        ("items N (traps)", lambda score: f"{score.n} ({score.traps})"),
        ("safe hit rate S/N", lambda score: f"{score.safe_hit_rate:.2%}"),
        ("recall S/R", lambda score: f"{score.recall:.2%}"),
        ("bad hit rate B/N, 95%", lambda score: _interval(score.bad_hits)),
        ("wrong replays B/(S+B), 95%", lambda score: _interval(score.bad_replays)),
        ("trap failures, semantic ones", lambda score: f"{score.trap_failures}, {score.failures_of(Family.MEANING)}"),
        ("saved per 1,000 requests", lambda score: f"${format_usd(score.saved_per_1k_nano_usd)}"),
    )
    for name, of in rows:
        table.add_row(name, *map(of, scores))
    return table


def _by_category(scores: Sequence[Score]) -> Table:
    table = Table(box=box.SIMPLE, title="Wrong replays of traps, right replays of the rest", title_justify="left")
    table.add_column("category")
    table.add_column("differs in")
    for score in scores:
        table.add_column(score.tier, justify="right")
    keys = dict.fromkeys((tally.family, tally.category) for score in scores for tally in score.tallies)
    for family, category in sorted(keys, key=lambda key: (list(Family).index(key[0]), key[1])):
        cells = []
        for score in scores:
            tally = next((one for one in score.tallies if (one.family, one.category) == (family, category)), None)
            if tally is None:
                cells.append("-")
            else:
                replays = tally.safe if family is Family.REUSABLE else tally.bad
                cells.append(f"{replays} of {tally.n}")
        table.add_row(category, family.value if family is not Family.REUSABLE else "nothing", *cells)
    return table


def _notes(score: Score) -> list[str]:
    refusal = [f"refuses: {score.refusal}"] if score.refusal else []
    evidence = [f"replays told by {', '.join(f'{sign} ({count})' for sign, count in score.evidence)}"]
    return [*refusal, *score.notes, *(evidence if score.evidence else []), f"savings {why_saved(score)}"]


def _interval(interval: Interval) -> str:
    return f"{interval.observed:.2%} ({interval.low:.2%} to {interval.high:.2%})"
