"""Where a record stands among those of its organisation: when it came, and a number among those of one millisecond."""

from __future__ import annotations

import re

_FORM = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

Position = tuple[int, int]


def position_of(text: str) -> Position:
    """Of its text, which is that of an id in a Redis stream.

    Raises:
        ValueError: it is none.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no position")
    return int(match[1]), int(match[2])


def text_of(position: Position) -> str:
    """To be given to ``position_of``."""
    return f"{position[0]}-{position[1]}"
