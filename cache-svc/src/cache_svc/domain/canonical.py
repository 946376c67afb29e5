"""Canonical JSON: one byte string for each request, however a client wrote it.

Objects are sorted by key; array order is kept; strings are not normalised, trimmed or filled in. What JSON readers
disagree on is refused: duplicate keys, NaN and Infinity, lone surrogates, integers beyond 2^53-1 (RFC 7493, section 2),
deep nesting.

Numbers: an integer and a float are never the same (``1`` and ``1.0``), because some sources refuse one of them; floats
are the same when they are the same IEEE 754 double (``1e0`` and ``1.0``), because that is all a JSON reader gets from
either. RFC 8785 writes whole floats as integers and sorts keys by UTF-16 unit; apart from these two the forms agree.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

_MAX_INT = 2**53 - 1
_TOO_DEEP = "nested too deeply: objects and arrays may stand 254 deep inside each other"  # the limit of orjson.dumps
_CONSTANT = re.compile(rb"-?(NaN|Infinity)")
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class NotCanonical(ValueError):
    """The text is not JSON, or JSON that two readers could read differently."""


def parse(raw: bytes) -> Any:
    """The value of ``raw``, of which there is exactly one reading.

    Raises:
        NotCanonical: see the module.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotCanonical(_why_unreadable(raw, error)) from error
    plain = _dump(value, orjson.OPT_STRICT_INTEGER)
    if plain != raw and not _says_no_more(raw, plain):
        _read_slowly(raw)
    return value


def dump(value: Any) -> bytes:
    """The canonical bytes of a parsed value.

    Raises:
        NotCanonical: an integer beyond 2^53-1, or nested too deeply.
    """
    return _dump(value, _SORTED)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object that ``raw`` is.

    Raises:
        NotCanonical: see ``parse``; or it is another JSON value.
    """
    value = parse(raw)
    if not isinstance(value, dict):
        raise NotCanonical("the body must be a JSON object")
    return value


def _dump(value: Any, option: int) -> bytes:
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        if "53-bit" in str(error):
            raise NotCanonical("an integer is beyond 2^53-1, where JSON readers round differently") from error
        if "ecursion" in str(error):
            raise NotCanonical(_TOO_DEEP) from error
        raise NotCanonical(f"has no canonical form: {error}") from error


def _says_no_more(raw: bytes, plain: bytes) -> bool:
    """True only if reading ``raw`` lost nothing; False where the slow reader must look. ``plain`` is what was read,
    written.

    orjson keeps the last of duplicate keys and turns integers beyond 64 bits into floats, both silently. Outside
    strings a colon follows each key and stands nowhere else, and strings keep their colons; so a lost key is a lost
    colon, unless an escape (``\\u003a``) brought one in. An integer beyond 64 bits is written back with an exponent,
    ``e+``.
    """
    if b"\\" in raw and b"\\u003" in raw:
        return False
    if b"+" in plain and b"e+" in plain:
        return False
    return raw.count(b":") == plain.count(b":")


def _read_slowly(raw: bytes) -> None:
    try:
        json.loads(raw, object_pairs_hook=_unique, parse_int=_small_int, parse_constant=_no_constant)
    except RecursionError as error:
        raise NotCanonical(_TOO_DEEP) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotCanonical(f"duplicate key {key!r}")
            seen.add(key)
    return found


def _small_int(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > _MAX_INT:
        raise NotCanonical("an integer is beyond 2^53-1, where JSON readers round differently")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise NotCanonical(f"{name} is not JSON")


def _why_unreadable(raw: bytes, error: orjson.JSONDecodeError) -> str:
    text = str(error)
    if "surrogate" in text and "UTF-8" not in text:
        return f"a lone surrogate is not text: {text}"
    if "depth" in text:
        return _TOO_DEEP
    constant = _CONSTANT.match(raw, error.pos)
    if constant:
        return f"{constant.group(1).decode()} is not JSON"
    return f"not valid JSON: {text}"
