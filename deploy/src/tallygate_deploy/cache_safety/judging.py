"""Drives a cache through items: each old request is answered and kept, then the new ones are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from tallygate_deploy.cache_safety.items import Group, Item, Label
from tallygate_deploy.cache_safety.metrics import Judged, Outcome

T = TypeVar("T")
_REASONS_TOLD = 8


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nothing was replayed."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Something was. ``right``: it may be given to whoever asked. ``evidence``: what told it from a fresh answer."""

    right: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class NotJudged:
    """The item says nothing about this cache; why."""

    why: str


class Cache(Protocol):
    """A cache under judgement."""

    async def keep(self, group: Group) -> str:
        """Has the old request of a group answered, so that a later one may be replayed. Returns why its items can't be
        judged; empty: they can.
        """

    async def ask(self, group: Group, item: Item) -> Fresh | Replay | NotJudged:
        """Asks the new request of an item of the group, which was kept."""


@dataclass(slots=True)
class Verdicts:
    """What became of the items; ``left_out`` counts those that were not judged, by why."""

    judged: list[Judged] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, why: str, count: int = 1) -> None:
        """``count`` items say nothing."""
        self.left_out[why] = self.left_out.get(why, 0) + count

    def notes(self) -> list[str]:
        """The same in words, the most frequent first."""
        by_count = sorted(self.left_out.items(), key=lambda why: (-why[1], why[0]))
        told = [f"{count} items not judged: {why}" for why, count in by_count[:_REASONS_TOLD]]
        rest = sum(count for _, count in by_count[_REASONS_TOLD:])
        return [*told, *([f"{rest} items not judged for other reasons"] if rest else [])]


async def judge(
    cache: Cache, groups: Sequence[Group], only: Iterable[Item] | None = None, *, at_once: int = 1
) -> Verdicts:
    """What becomes of the items, or of some ``only``. ``at_once``: how many requests are under way."""
    wanted = None if only is None else {item.id for item in only}
    taken = [
        (group, items)
        for group in groups
        if (items := [item for item in group.items if wanted is None or item.id in wanted])
    ]
    verdicts = Verdicts()
    # All old ones first: a cache that has much in it has more to confuse, and time passes before the new ones.
    kept = await _each(at_once, [partial(cache.keep, group) for group, _ in taken])
    for (_, items), why in zip(taken, kept, strict=True):
        if why:
            verdicts.leave_out(why, len(items))
    asked = [(group, item) for (group, items), why in zip(taken, kept, strict=True) if not why for item in items]
    found = await _each(at_once, [partial(cache.ask, group, item) for group, item in asked])
    for (_, item), one in zip(asked, found, strict=True):
        _enter(verdicts, item, one)
    return verdicts


async def _each(at_once: int, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What the calls give, in their order."""
    if at_once == 1:
        return [await call() for call in calls]
    free = asyncio.Semaphore(at_once)

    async def in_turn(call: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await call()

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(in_turn(call)) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in running]


def _enter(verdicts: Verdicts, item: Item, found: Fresh | Replay | NotJudged) -> None:
    match found:
        case NotJudged(why):
            verdicts.leave_out(why)
        case Replay(right, evidence):
            verdicts.judged.append(Judged(item, Outcome.SAFE if right else Outcome.BAD, evidence))
        case Fresh():
            outcome = Outcome.MISSED if item.label is Label.REUSABLE else Outcome.HELD
            verdicts.judged.append(Judged(item, outcome))
