"""What usage is made of: requests, counted in groups of a time.

Sums are kept for each hour and each day, once over all requests and once more for each key of their tags. The keys of a
sum that is over all requests have no tag: ``tag_key`` is "".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

import orjson

from ledger_svc.domain.charges import Tags
from ledger_svc.domain.latency import Latencies, latencies_of
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.values import value

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

COUNTS = (
    "requests",
    "errors",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "charged_nano_usd",
    "saved_nano_usd",
    "absorbed_nano_usd",
)
"""What is counted, beside latencies."""
_FAILED = (0, 1, *[0] * (len(COUNTS) - 2))


class Period(Enum):
    """How long a sum's time is."""

    HOUR = "hour"
    DAY = "day"


PERIOD_MS = {Period.HOUR: HOUR_MS, Period.DAY: DAY_MS}


class Dimension(Enum):
    """By what requests are put in groups. Times are those of UTC."""

    DAY = "day"
    HOUR = "hour"
    KEY = "key"
    PROJECT = "project"
    MODEL = "model"
    SOURCE = "source"
    TIER = "tier"
    SERVED_MODE = "served_mode"
    TAG = "tag"


@value(frozen=True, slots=True)
class Group:
    """Whose requests a sum is over. What a failed request has not is ""."""

    project_id: str
    key_id: str
    model: str
    source_id: str = ""
    tier: str = ""
    served_mode: str = ""
    tag_value: str = ""


@value(frozen=True, slots=True)
class Use:
    """One request, as usage counts it, or some that differ in nothing else: ``counts`` of ``COUNTS``; ``latencies`` 0:
    none of it is among them.
    """

    org_id: str
    group: Group
    at_ms: int
    tags: Tags
    counts: tuple[int, ...]
    latencies: Latencies


SumName = tuple[str, str, str, int, Group]
"""Of one sum: organisation, tag key, period, start of its time in Unix milliseconds, whose requests."""


@dataclass(slots=True)
class Sums:
    """Counts of ``COUNTS``, and latencies."""

    counts: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    latencies: Latencies = 0

    def add(self, counts: Iterable[int], latencies: Latencies) -> None:
        """Adds others."""
        self.counts = [mine + other for mine, other in zip(self.counts, counts, strict=True)]
        self.latencies += latencies

    def less(self, other: Sums) -> Sums:
        """Without those of ``other``, which are among these."""
        rest = [mine - others for mine, others in zip(self.counts, other.counts, strict=True)]
        return Sums(rest, self.latencies - other.latencies)

    @property
    def is_empty(self) -> bool:
        """Whether there is no request."""
        return not any(self.counts)


def failed_use(org_id: str, project_id: str, key_id: str, model: str, *, at_ms: int, tags: Tags) -> Use:
    """A request that ended in an error."""
    return Use(org_id, Group(project_id, key_id, model), at_ms, tags, _FAILED, 0)


def receipt_use(receipt: Receipt, *, held_at_ms: int) -> Use:
    """What was charged for. ``held_at_ms``: when its hold was made."""
    facts, used = receipt.facts, receipt.facts.usage
    return Use(
        receipt.org_id,
        Group(
            receipt.project_id,
            receipt.key_id,
            facts.model,
            facts.source_id,
            tier_of(facts.price.tier.name.lower(), facts.requested_model),
            facts.served_mode.value,
        ),
        receipt.created_at_ms,
        facts.tags,
        (
            *(1, 0, used.input_tokens, used.cached_input_tokens, used.cache_write_tokens),
            *(used.output_tokens, used.reasoning_tokens),
            *(receipt.charged_nano_usd, receipt.saved_nano_usd, receipt.absorbed_nano_usd),
        ),
        latencies_of(latency_of(receipt.created_at_ms, facts.started_at_ms, held_at_ms)),
    )


def tier_of(billing_tier: str, requested_model: str) -> str:
    """The tier of a charge: for a smart alias its name, such as "fast" for "tallygate/fast"; else how it is billed:
    "passthrough", "byok", "free".
    """
    return requested_model.removeprefix("tallygate/") if billing_tier == "flat" else billing_tier


def latency_of(created_at_ms: int, started_at_ms: int, held_at_ms: int) -> int:
    """From the arrival at the edge to the charge, in milliseconds; from the hold on where the arrival is not known."""
    return max(0, created_at_ms - (started_at_ms or held_at_ms))


def names_of(use: Use) -> Iterator[SumName]:
    """The sums that a request is part of."""
    group = use.group
    tagged = [("", group)]
    for key, text in use.tags:
        tagged.append(
            (
                key,
                Group(
                    group.project_id, group.key_id, group.model, group.source_id, group.tier, group.served_mode, text
                ),
            )
        )
    for period, length_ms in PERIOD_MS.items():
        starts_at_ms = use.at_ms - use.at_ms % length_ms
        for key, whose in tagged:
            yield use.org_id, key, period.value, starts_at_ms, whose


def sum_up(uses: Iterable[Use]) -> dict[SumName, Sums]:
    """The sums over some requests."""
    sums: dict[SumName, Sums] = {}
    for use in uses:
        for name in names_of(use):
            if name not in sums:
                sums[name] = Sums()
            sums[name].add(use.counts, use.latencies)
    return sums


class Tally:
    """Uses, of which those of an hour that differ in nothing but their counts are one."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, Group, int, Tags], Sums] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, use: Use) -> None:
        """Takes in one more."""
        name = (use.org_id, use.group, use.at_ms - use.at_ms % HOUR_MS, use.tags)
        sums = self._sums.get(name)
        if sums is None:
            sums = self._sums[name] = Sums()
        sums.add(use.counts, use.latencies)

    def uses(self) -> list[Use]:
        """What it has; the time of each is the start of its hour."""
        return [Use(*name, tuple(sums.counts), sums.latencies) for name, sums in self._sums.items()]


@lru_cache(maxsize=65_536)
def group_id(group: Group) -> str:
    """Names a group in 32 hex digits: its texts are too long for an index."""
    texts = [group.tag_value, group.project_id, group.key_id, group.model]
    texts += [group.source_id, group.tier, group.served_mode]
    return hashlib.sha256(orjson.dumps(texts)).hexdigest()[:32]


@value(frozen=True, slots=True)
class Question:
    """What to sum: from an hour's start until another's, Unix milliseconds; filters "": any."""

    org_id: str
    from_ms: int
    to_ms: int
    dimensions: tuple[Dimension, ...] = ()
    tag_key: str = ""
    project_id: str = ""
    key_id: str = ""
    model: str = ""


Values = tuple[str | int | None, ...]
"""Of a group, one for each dimension. None: these requests do not have the tag."""


def values_of(question: Question, use: Use) -> Values:
    """Which of the question's groups a request is in."""
    return tuple(_value(dimension, question, use) for dimension in question.dimensions)


def _value(dimension: Dimension, question: Question, use: Use) -> str | int | None:
    if dimension is Dimension.TAG:
        return dict(use.tags).get(question.tag_key)
    if dimension in (Dimension.DAY, Dimension.HOUR):
        length_ms = DAY_MS if dimension is Dimension.DAY else HOUR_MS
        return use.at_ms - use.at_ms % length_ms
    value: str = getattr(use.group, COLUMN_OF[dimension])
    return value


COLUMN_OF = {
    Dimension.KEY: "key_id",
    Dimension.PROJECT: "project_id",
    Dimension.MODEL: "model",
    Dimension.SOURCE: "source_id",
    Dimension.TIER: "tier",
    Dimension.SERVED_MODE: "served_mode",
    Dimension.TAG: "tag_value",
}
"""What of a group a dimension is."""


@value(frozen=True, slots=True)
class Usage:
    """The answer: sums by group, and what was given back of the charges in each."""

    groups: dict[Values, Sums]
    corrected_nano_usd: dict[Values, int]
