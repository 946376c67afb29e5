"""The JSON of usage: sums over requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from edge.errors import invalid
from edge.wire.account.base import Answer, ShownUsd
from edge.wire.tags import MAX_KEY_CHARS
from edge.wire.times import day_of, hour_of
from meshkit.money import format_usd
from tallygate.ledger.v1 import usage_pb2 as pb

_DIMENSIONS = {
    "day": pb.USAGE_DIMENSION_DAY,
    "hour": pb.USAGE_DIMENSION_HOUR,
    "key": pb.USAGE_DIMENSION_KEY,
    "project": pb.USAGE_DIMENSION_PROJECT,
    "model": pb.USAGE_DIMENSION_MODEL,
    "source": pb.USAGE_DIMENSION_SOURCE,
    "tier": pb.USAGE_DIMENSION_TIER,
    "served_mode": pb.USAGE_DIMENSION_SERVED_MODE,
}
_TAG = "tag:"


def dimensions_of(names: Sequence[str]) -> tuple[list[pb.UsageDimension.ValueType], str]:
    """The contract's numbers for ``group_by``, and the key of the tag, if there is one.

    Raises:
        MeshError: INVALID_REQUEST.
    """
    if len(names) > 2 or len(set(names)) < len(names):
        raise invalid("`group_by` takes one or two different words.", "group_by")
    if {"day", "hour"} <= set(names):
        raise invalid("`group_by` takes day or hour, not both.", "group_by")
    numbers, tag_key = [], ""
    for name in names:
        if name.startswith(_TAG) and 1 <= len(name) - len(_TAG) <= MAX_KEY_CHARS:
            if tag_key:
                raise invalid("`group_by` takes one tag.", "group_by")
            tag_key = name.removeprefix(_TAG)
            numbers.append(pb.USAGE_DIMENSION_TAG)
        elif name in _DIMENSIONS:
            numbers.append(_DIMENSIONS[name])
        else:
            known = ", ".join(_DIMENSIONS)
            raise invalid(f"`group_by` takes {known} and tag:NAME, not {name[:40]!r}.", "group_by")
    return numbers, tag_key


class Latency(Answer):
    """Percentiles, in milliseconds, of requests that were charged: from their arrival to their charge."""

    p50: int
    p90: int
    p99: int


class Sums(Answer):
    """Sums over requests."""

    requests: int = Field(description="Requests that were charged, replays too.")
    errors: int = Field(
        description="Requests that ended in an error. Only what was broken off after its answer had begun is among "
        "`requests`, too."
    )
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: ShownUsd = Field(description="What was charged.")
    saved_usd: ShownUsd = Field(description="What replays saved against fresh calls.")
    corrected_usd: ShownUsd = Field(
        description="What was given back of these charges since. It is not taken off `cost_usd`."
    )
    latency_ms: Latency | None = Field(description="At most 5% from the exact percentiles; null: nothing was charged.")


class UsageGroup(Sums):
    """The requests that have the same of what `group_by` names; each is a field: `day` ("2026-11-24"), `hour`
    ("2026-11-24T13:00:00Z"), `key`, `project`, `model`, `source`, `tier`, `served_mode`, `tag:NAME`. null: these
    requests have none.
    """

    model_config = ConfigDict(extra="allow")


class UsageReport(Answer):
    """Usage of a time."""

    model_config = ConfigDict(serialize_by_alias=True)

    object: Literal["usage"] = "usage"
    from_: int = Field(alias="from", description="Unix time in seconds, the start of an hour: from this on.")
    to: int = Field(description="Unix time in seconds, the start of an hour: before this.")
    group_by: list[str]
    data: list[UsageGroup]
    total: Sums

    @classmethod
    def of(cls, names: list[str], found: pb.QueryUsageResponse) -> UsageReport:
        """As the ledger has it."""
        return cls(
            **{"from": found.from_ms // 1_000},
            to=found.to_ms // 1_000,
            group_by=names,
            data=[UsageGroup(**_values(names, group), **_sums(group.sums)) for group in found.groups] if names else [],
            total=Sums(**_sums(found.total)),
        )


def _values(names: Sequence[str], group: pb.UsageGroup) -> dict[str, str | None]:
    return {name: _shown(name, value, group) for name, value in zip(names, group.values, strict=True)}


def _shown(name: str, value: str, group: pb.UsageGroup) -> str | None:
    if name == "day":
        return day_of(int(value))
    if name == "hour":
        return hour_of(int(value))
    if name.startswith(_TAG):
        return None if group.untagged else value
    return value or None


def _sums(sums: pb.UsageSums) -> dict[str, Any]:
    counts = {name: getattr(sums, name) for name in _COUNTS}
    latency = sums.latency
    return counts | {
        "cost_usd": format_usd(sums.charged_nano_usd),
        "saved_usd": format_usd(sums.saved_nano_usd),
        "corrected_usd": format_usd(sums.corrected_nano_usd),
        "latency_ms": Latency(p50=latency.p50_ms, p90=latency.p90_ms, p99=latency.p99_ms)
        if sums.HasField("latency")
        else None,
    }


_COUNTS = (
    *("requests", "errors", "input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens"),
)
