"""Refuses JSON that two parsers may read differently.

The cache refuses it for every request that it looks up, as it needs one canonical form; this is for the requests that
go past the cache. A second parse in Python, many times slower than orjson's, so not for the usual way.
"""

from __future__ import annotations

import json

import orjson

from edge.errors import invalid

MAX_EXACT_INTEGER = 2**53 - 1
_MAX_DIGITS = len(str(MAX_EXACT_INTEGER))


def refuse_ambiguous(body: bytes) -> None:
    """Passes a body that has one meaning; it was parsed by orjson before, which has refused NaN and lone surrogates.

    Raises:
        MeshError: INVALID_REQUEST for duplicate keys, for integers over 2^53-1 and for what is nested too deeply.
    """
    try:
        # Written again, because orjson reads deeper than it writes, and what comes after writes parts of the body.
        orjson.dumps(json.loads(body, object_pairs_hook=_unique, parse_int=_exact))
    except (RecursionError, orjson.JSONEncodeError) as error:
        raise invalid("The request body is nested too deeply.") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise invalid(f"The request body has a duplicate key: {name[:100]!r}.")
            seen.add(name)
    return fields


def _exact(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS or abs(int(digits)) > MAX_EXACT_INTEGER:
        raise invalid(f"The request body has an integer beyond 2^53-1: {digits[:40]}.")
    return int(digits)
