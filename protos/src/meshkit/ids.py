"""Identifiers: a prefix that names the kind, then a time-ordered random part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache

MakeId = Callable[[str], str]
"""Takes the kind ("org", "req", "rcpt"), gives a fresh id of it."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # ids are made in numbers: half the lookups


def new_id(kind: str) -> str:
    """``KIND_`` and 26 characters: 48 bits of Unix time in milliseconds and 80 random bits, so that ids sort by time.

    The layout is that of a ULID (https://github.com/ulid/spec), in lower case.
    """
    tail = int.from_bytes(os.urandom(10), "big")
    return (
        f"{kind}_{_time(time.time_ns() // 1_000_000)}"
        f"{_PAIRS[tail >> 70]}{_PAIRS[tail >> 60 & 1023]}{_PAIRS[tail >> 50 & 1023]}{_PAIRS[tail >> 40 & 1023]}"
        f"{_PAIRS[tail >> 30 & 1023]}{_PAIRS[tail >> 20 & 1023]}{_PAIRS[tail >> 10 & 1023]}{_PAIRS[tail & 1023]}"
    )


@lru_cache(maxsize=4)
def _time(now_ms: int) -> str:
    return "".join(_ALPHABET[now_ms >> shift & 31] for shift in range(45, -1, -5))
