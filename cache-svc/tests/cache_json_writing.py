"""JSON written in every way that says the same, and values changed in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

Path = tuple[str | int, ...]


def rewritten(value: Any, rng: Random, *, keep_order: bool = False) -> str:
    """``value`` as JSON: white space, key order, escapes and spellings of floats as ``rng`` has it. The order of a
    schema's properties is kept: it is content.
    """
    if isinstance(value, dict):
        names = list(value)
        if not keep_order:
            rng.shuffle(names)
        members = [
            _text(name, rng)
            + _space(rng)
            + ":"
            + _space(rng)
            + rewritten(value[name], rng, keep_order=name == "properties")
            for name in names
        ]
        return _between("{", members, "}", rng)
    if isinstance(value, list):
        return _between("[", [rewritten(item, rng) for item in value], "]", rng)
    if isinstance(value, str):
        return _text(value, rng)
    if isinstance(value, float):
        return _number(value, rng)
    return json.dumps(value)


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """The paths of all that ``value`` consists of, itself not among them."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        yield (*at, name)
        yield from places(child, (*at, name))


def replaced(value: Any, at: Path, new: Any) -> Any:
    """A copy of ``value`` with ``new`` at one path."""
    if not at:
        return new
    name, *rest = at
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[name] = replaced(copy[name], tuple(rest), new)
    return copy


def removed(value: Any, at: Path) -> Any:
    """A copy of ``value`` without what is at one path."""
    name, *rest = at
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[name] = removed(copy[name], tuple(rest))
    else:
        del copy[name]
    return copy


def _between(opening: str, items: list[str], closing: str, rng: Random) -> str:
    comma = _space(rng) + "," + _space(rng)
    return opening + _space(rng) + comma.join(items) + _space(rng) + closing


def _space(rng: Random) -> str:
    return rng.choice(["", "", " ", "\n  ", "\t", "\r\n"])


def _text(text: str, rng: Random) -> str:
    return '"' + "".join(_character(character, rng) for character in text) + '"'


def _character(character: str, rng: Random) -> str:
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf16(character))
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    spellings = [plain, plain, plain, escaped, escaped.replace(escaped[2:6], escaped[2:6].upper(), 1)]
    return rng.choice([*spellings, "\\/"] if character == "/" else spellings)


def _utf16(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


def _number(number: float, rng: Random) -> str:
    plain = repr(number)
    mantissa, _, exponent = f"{number:.17e}".partition("e")
    return rng.choice([plain, plain + "0" if "." in plain and "e" not in plain else plain, f"{mantissa}E{exponent}"])
