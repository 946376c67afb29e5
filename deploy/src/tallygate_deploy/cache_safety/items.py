"""An item of the bench: a request that was answered, a new one, and whether the old answer may be replayed for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import orjson

FIRST_TENANT = "first"
"""Whose requests are asked, where an item does not say."""


class Label(Enum):
    """Whether the old answer is right for the new request, and the new asker's to see."""

    REUSABLE = "reusable"
    TRAP = "trap"


class Family(Enum):
    """What tells the two requests of an item apart."""

    REUSABLE = "reusable"  # nothing that matters
    MEANING = "meaning"  # what is asked
    REQUEST = "request"  # what is sent beside it
    OWNER = "owner"  # who asks


REQUEST_CATEGORIES = frozenset({"system_prompt", "tools", "schema", "seed", "temperature", "model", "parameters"})
"""Traps that lie in another part of the request than its last message."""
OWNER_CATEGORIES = frozenset({"tenant", "user"})
"""Traps that lie in who asks."""
MEANING_CATEGORIES = frozenset(
    {
        "polarity", "direction", "number", "unit", "date", "entity", "scope", "output_format", "language", "identifier",
        "freshness", "ellipsis", "collision",
    }
)  # fmt: skip
"""Traps that lie in what is asked; so is a category that is not known here."""
TRAP_CATEGORIES = MEANING_CATEGORIES | REQUEST_CATEGORIES | OWNER_CATEGORIES


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is sent. ``body``: of chat/completions, verbatim. ``tenant``: "ORG" or "ORG/PROJECT".

    ``max_age_s``: the oldest answer that the asker takes, in seconds; None: any. ``allow_sampled``: a replay is
    accepted though the request asks for a fresh sample.
    """

    body: bytes
    tenant: str = FIRST_TENANT
    max_age_s: int | None = None
    allow_sampled: bool = False

    def last_text(self) -> str:
        """What the last message says, for whoever reads of it."""
        messages = orjson.loads(self.body)["messages"]
        content = messages if isinstance(messages, str) else messages[-1].get("content")
        return content if isinstance(content, str) else orjson.dumps(content).decode()

    def digest(self) -> str:
        """Names the request, 64 hex digits."""
        facts = "\0".join((self.tenant, str(self.max_age_s), str(self.allow_sampled)))
        return hashlib.sha256(facts.encode() + b"\0" + self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Item:
    """``old`` was answered with ``old_answer``, now ``new`` is asked. ``new_answer``: what a fresh call would answer;
    empty: nobody knows, and one is made up that is like no other. ``cost_nano_usd``: of that call; None: not known.
    """

    id: str
    category: str
    label: Label
    old: Asked
    old_answer: str
    new: Asked
    new_answer: str = ""
    cost_nano_usd: int | None = None

    @property
    def fresh_answer(self) -> str:
        """What a fresh call answers to ``new``."""
        if self.new_answer:
            return self.new_answer
        return self.old_answer if self.label is Label.REUSABLE else made_up_answer(self.new)

    def is_right(self, answer: str) -> bool:
        """Whether ``answer`` may be given to ``new``."""
        return answer == self.fresh_answer or (self.label is Label.REUSABLE and answer == self.old_answer)

    def difference(self) -> str:
        """The names of what its two requests differ in."""
        old, new = orjson.loads(self.old.body), orjson.loads(self.new.body)
        names = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
        how = [name for name in ("tenant", "max_age_s") if getattr(self.old, name) != getattr(self.new, name)]
        return ", ".join([*names, *how]) or "the time"

    @property
    def asks_the_same(self) -> bool:
        """The same owner sends the same bytes again."""
        return (self.new.body, self.new.tenant) == (self.old.body, self.old.tenant)

    @property
    def family(self) -> Family:
        """What its two requests differ in."""
        if self.label is Label.REUSABLE:
            return Family.REUSABLE
        if self.category in REQUEST_CATEGORIES:
            return Family.REQUEST
        return Family.OWNER if self.category in OWNER_CATEGORIES else Family.MEANING


@dataclass(frozen=True, slots=True)
class Group:
    """Items of one old request. They are judged in a world of their own: they meet no other group's answers."""

    name: str
    items: tuple[Item, ...]

    @property
    def old(self) -> Asked:
        """The request that was answered."""
        return self.items[0].old

    @property
    def old_answer(self) -> str:
        """What it was answered."""
        return self.items[0].old_answer


def grouped(items: Iterable[Item]) -> list[Group]:
    """Items by their old request, in the order in which it first comes."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.old.digest(), []).append(item)
    return [Group(digest[:16], tuple(members)) for digest, members in found.items()]


def halves(groups: Iterable[Group]) -> tuple[list[Item], list[Item]]:
    """Items to learn from and items to measure with: of each group, and in it of each label, every other one.

    What is learnt about an answer is kept with that answer, so the same answers have to be in both. An item that asks
    the very same again is not learnt from: its answer would take the old one's place, and what is right would change.
    """
    learnt: list[Item] = []
    measured: list[Item] = []
    for group in groups:
        turn = int(group.name, 16) % 2  # so that of those that are alone, half are in each
        for label in Label:
            members = [item for item in group.items if item.label is label and not item.asks_the_same]
            members.sort(key=lambda item: item.new.digest())
            learnt += members[turn::2]
            measured += members[1 - turn :: 2]
        measured += [item for item in group.items if item.asks_the_same]
    return learnt, measured


def made_up_answer(asked: Asked) -> str:
    """An answer that no other request has; long enough that nobody gives it by chance."""
    return f"The answer to request {asked.digest()[:32]}."
