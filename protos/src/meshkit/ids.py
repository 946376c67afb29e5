"""Identifiers: a prefix that names the kind, then a time-ordered random part."""

from __future__ import annotations

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
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{kind}_{''.join(_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10))}"
