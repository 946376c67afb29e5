"""Reading counts off a stranger's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SANE_TOKENS = 10**9


def count(block: Mapping[str, Any], name: str) -> int:
    """A count of ``block``; 0 where it is no whole number or below."""
    value = block.get(name)
    if value is None:  # most of the names that sources have for their counts
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return min(max(value, 0), _SANE_TOKENS)


def details(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object of ``block``; empty where there is none."""
    value = block.get(name)
    return value if isinstance(value, dict) else {}


def latest(blocks: tuple[object, ...]) -> dict[str, Any]:
    """The blocks of one answer as one, for counts that grow: of each name the last value that is not null."""
    told: dict[str, Any] = {}
    for block in blocks:
        if isinstance(block, dict):
            told |= {name: value for name, value in block.items() if value is not None}
    return told
