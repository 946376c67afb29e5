"""Identifiers: a prefix that names the kind, then a time-ordered random part."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable

MakeId = Callable[[str], str]
"""Takes the kind ("org", "req", "rcpt"), gives a fresh id of it."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # ids are made in numbers: half the lookups


def new_id(kind: str) -> str:
    """``KIND_`` and 26 characters: 48 bits of Unix time in milliseconds and 80 random bits, so that ids sort by time.

    The layout is that of a ULID (https://github.com/ulid/spec), in lower case.
    """
    return _written(kind, (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def id_of(kind: str, *parts: str) -> str:
    """The id of what ``parts`` name: always the same for the same, in the form of ``new_id`` but not sorted by time.

    128 bits of SHA-256 over one JSON array, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return _written(kind, int.from_bytes(digest[:16], "big"))


def _written(kind: str, value: int) -> str:
    return f"{kind}_{''.join(_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10))}"
