"""Latencies of many requests, as counts in fixed buckets: counts of two times add up to the counts of both, and a
percentile of them is at most 5% from the exact one.

Each bucket has a whole number of milliseconds that is within 5% of all in it, and begins where the one before ends
(after Masson, Rim, Lee: DDSketch, VLDB 2019, section 2; in integers, so that the bounds are the same everywhere). They
are never changed: the counts that are stored are by them. All counts are one integer, 40 bits for each bucket: adding
the latencies of a thousand hours is a thousand additions.
"""

from __future__ import annotations

from bisect import bisect_left

MAX_LATENCY_MS = 7 * 24 * 3_600 * 1_000
"""A week; what took longer counts as this."""
_COUNT_BITS = 40
_COUNT_MASK = (1 << _COUNT_BITS) - 1


def _buckets() -> tuple[tuple[int, int], ...]:
    """(what stands for all in it, the last in it), in milliseconds."""
    buckets = [(0, 0)]
    while (first := buckets[-1][1] + 1) <= MAX_LATENCY_MS:
        middle = first + first // 20  # no more than 5% of the first above it
        buckets.append((middle, 20 * middle // 19))  # and no more than 5% of the last below that
    return tuple(buckets)


_MIDDLES_MS = tuple(middle for middle, _ in _buckets())
BOUNDS_MS = tuple(last for _, last in _buckets())
"""A latency is in the first bucket whose bound it does not pass."""

Latencies = int
"""Counts of all buckets."""


def latencies_of(latency_ms: int) -> Latencies:
    """Of one request."""
    return 1 << _COUNT_BITS * bisect_left(BOUNDS_MS, min(max(latency_ms, 0), MAX_LATENCY_MS))


def percentiles_ms(latencies: Latencies, *percents: int) -> list[int] | None:
    """By nearest rank: so many percent of the requests took no longer. None: there was no request."""
    counts = _counts(latencies)
    total = sum(counts)
    if not total:
        return None
    return [_at_rank(counts, -(-total * percent // 100)) for percent in percents]


def encode(latencies: Latencies) -> bytes:
    """In bytes: how many buckets at the low end are empty, then the others."""
    if not latencies:
        return b""
    lowest = ((latencies & -latencies).bit_length() - 1) // _COUNT_BITS
    rest = latencies >> _COUNT_BITS * lowest
    return bytes([lowest]) + rest.to_bytes((rest.bit_length() + 7) // 8, "little")


def decode(encoded: bytes) -> Latencies:
    """What ``encode`` wrote."""
    return int.from_bytes(encoded[1:], "little") << _COUNT_BITS * encoded[0] if encoded else 0


def _counts(latencies: Latencies) -> list[int]:
    counts = []
    while latencies:
        counts.append(latencies & _COUNT_MASK)
        latencies >>= _COUNT_BITS
    return counts


def _at_rank(counts: list[int], rank: int) -> int:
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return _MIDDLES_MS[bucket]
    raise AssertionError("a rank is one of the requests'")
