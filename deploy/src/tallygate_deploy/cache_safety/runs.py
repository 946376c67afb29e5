"""Whole runs of the bench: which items, which caches, which scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import httpx

from cache_svc.wiring import SemanticMissing
from meshkit.clock import SystemClock
from tallygate_deploy.cache_safety import published, report, telling
from tallygate_deploy.cache_safety.against.cache import EndpointCache
from tallygate_deploy.cache_safety.against.endpoint import Endpoint, EndpointError
from tallygate_deploy.cache_safety.generate import frequent_items, generated_items
from tallygate_deploy.cache_safety.items import Item, grouped, halves
from tallygate_deploy.cache_safety.judging import judge
from tallygate_deploy.cache_safety.metrics import Judged, Outcome, Pricing, Score, clopper_pearson, score
from tallygate_deploy.cache_safety.options import TIER_NAMES, Options, Target
from tallygate_deploy.cache_safety.reading import read_items
from tallygate_deploy.cache_safety.tiers import TierCache, cache_service, settings_of, sign_of

__all__ = ["EndpointError", "Result", "run"]

DEFAULT_LIMIT_AGAINST = 400
REPLAY_BPS = 2_500
"""What a replay is billed at, in basis points of the fresh price: the catalog's default."""
_ENDPOINT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """Of a run. ``attribution``: what the data asks to be shown with it."""

    scores: tuple[Score, ...]
    attribution: str

    def tell(self) -> None:
        """Prints it; the last lines are JSON, one a score."""
        telling.tell(self.scores, self.attribution)

    def html(self) -> str:
        """The report."""
        return report.page(self.scores, self.attribution)


async def run(options: Options) -> Result:
    """Judges what the options name.

    Raises:
        DataError: the items can't be used.
        EndpointError: nobody is at the endpoint, or it answers nothing that is asked.
    """
    items, attribution = collect(options.data)
    if options.target:
        items = evenly(items, options.limit or DEFAULT_LIMIT_AGAINST)
        return Result((await _judge_endpoint(options.target, items, options),), attribution)
    if options.limit:
        items = evenly(items, options.limit)
    return Result(tuple([await _judge_tier(tier, items, options) for tier in options.tiers or TIER_NAMES]), attribution)


def collect(path: Path | None) -> tuple[list[Item], str]:
    """The items of a file; or those made by rules and those of fow-cache, with the attribution that these ask for.

    Raises:
        DataError: the file, or the package, can't be used.
    """
    if path is not None:
        return read_items(path), ""
    items = [*generated_items(), *frequent_items(), *published.published_items()]
    return items, published.ATTRIBUTION


def evenly(items: Sequence[Item], limit: int) -> list[Item]:
    """At most ``limit`` of the items, in turn from each category, and from all over each."""
    by_category: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_category.setdefault((item.label.value, item.category), []).append(item)
    spread = [sorted(members, key=lambda item: item.new.digest()) for members in by_category.values()]
    rounds = max(map(len, spread), default=0)
    chosen = [members[place] for place in range(rounds) for members in spread if place < len(members)][:limit]
    wanted = {item.id for item in chosen}
    return [item for item in items if item.id in wanted]


async def _judge_endpoint(target: Target, items: Sequence[Item], options: Options) -> Score:
    """Whatever answers there, on two requests an item."""
    nonce = token_hex(4)  # of this run
    async with httpx.AsyncClient(timeout=_ENDPOINT_TIMEOUT_S) as http:
        cache = EndpointCache(Endpoint(http, target, SystemClock(), nonce))
        notes = await cache.calibrate()
        verdicts = await judge(cache, grouped(items), at_once=target.at_once)
    notes += verdicts.notes()
    return score(target.base_url, verdicts.judged, budget=options.budget, pricing=_pricing(options), notes=notes)


async def _judge_tier(tier: str, items: Sequence[Item], options: Options) -> Score:
    """A tier of a cache service of its own, which is empty at first."""
    if tier == "semantic":
        return await _judge_learning_tier(tier, items, options)
    async with cache_service(settings_of(tier)) as channel:
        verdicts = await judge(TierCache(channel, tier, max_error=options.budget), grouped(items))
    notes = [*_own_replays(tier, verdicts.judged), *verdicts.notes()]
    return score(tier, verdicts.judged, budget=options.budget, pricing=_pricing(options), notes=notes)


async def _judge_learning_tier(tier: str, items: Sequence[Item], options: Options) -> Score:
    """The same of one that learns: from half of the items, and is measured on the other."""
    groups, budget, pricing = grouped(items), options.budget, _pricing(options)
    learnt, measured = halves(groups)
    try:
        async with cache_service(settings_of(tier)) as channel:
            cache = TierCache(channel, tier, max_error=budget)
            await cache.teach(groups, learnt)
            verdicts = await judge(cache, groups, measured)
    except SemanticMissing as error:
        return score(tier, [], budget=budget, pricing=pricing, refusal=str(error))
    own = _own_replays(tier, verdicts.judged)
    refusal = "" if own else f"it trusted no answer enough to replay it at a bound of {budget:.2%}"
    notes = [f"learnt from {len(learnt)} items, measured on the other {len(measured)}", *own, *verdicts.notes()]
    return score(tier, verdicts.judged, budget=budget, pricing=pricing, refusal=refusal, notes=notes)


def _own_replays(tier: str, judged: Sequence[Judged]) -> list[str]:
    """What became of those that the tier gave itself, not one before it; none: it gave none."""
    own = [one for one in judged if one.evidence == sign_of(tier)]
    wrong = clopper_pearson(sum(one.outcome is Outcome.BAD for one in own), len(own))
    said = (
        f"of the replays that the tier gave itself, {wrong.count} of {wrong.total} were wrong, up to {wrong.high:.2%}"
    )
    return [f"{said} may be (95%)"] if own else []


def _pricing(options: Options) -> Pricing:
    return Pricing(options.cost_nano_usd, REPLAY_BPS)
