"""Identifiers: a prefix that names the kind, then a time-ordered random part."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import lru_cache

from meshkit.randomness import Supply

MakeId = Callable[[str], str]
"""Takes the kind ("org", "req", "rcpt"), gives a fresh id of it."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u
_TAILS = Supply(10)
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # ids are made in numbers: half the lookups


def new_id(kind: str) -> str:
    """``KIND_`` and 26 characters: 48 bits of Unix time in milliseconds and 80 random bits, so that ids sort by time.

    The layout is that of a ULID (https://github.com/ulid/spec), in lower case.
    """
    tail = int.from_bytes(_TAILS.take(), "big")
    return (
        f"{kind}_{_time(time.time_ns() // 1_000_000)}"
        f"{_PAIRS[tail >> 70]}{_PAIRS[tail >> 60 & 1023]}{_PAIRS[tail >> 50 & 1023]}{_PAIRS[tail >> 40 & 1023]}"
        f"{_PAIRS[tail >> 30 & 1023]}{_PAIRS[tail >> 20 & 1023]}{_PAIRS[tail >> 10 & 1023]}{_PAIRS[tail & 1023]}"
    )


@lru_cache(maxsize=4)
def _time(now_ms: int) -> str:
    return "".join(_ALPHABET[now_ms >> shift & 31] for shift in range(45, -1, -5))


def id_of(kind: str, *parts: str) -> str:
    """The id of what ``parts`` name: always the same for the same, in the form of ``new_id`` but not sorted by time.

    128 bits of SHA-256 over one JSON array, so that ("a", "bc") and ("ab", "c") differ.
    """
    value = int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:16], "big")
    return f"{kind}_{''.join(_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10))}"
