"""What was taken of one limit in the last minute. Pure: integers, and microseconds of whatever clock the caller has.

The rule: of what is limited to N a minute, never more than N is taken in any 60 seconds, wherever one begins to count;
and a bucket that was not used gives all N at once. Why no leaky bucket (GCRA), see ADR 0028.

A bucket is a log of what was taken, oldest first. Up to ``MAX_ENTRIES`` a minute each one has an entry and leaves
exactly 60 s after it came. Of a higher limit all that comes within the same ``GRAIN_US`` shares an entry, and leaves
when the last of it may have come: up to half a second late, never early. So a bucket stays at about 120 entries.

``edge.limits.redis`` has the same rule as a script for the server; the tests hold the two to each other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_US = 60_000_000
MAX_ENTRIES = 120
GRAIN_US = WINDOW_US // MAX_ENTRIES


class Mark(NamedTuple):
    """Where in a log something stands that was taken."""

    number: int
    leaves_at_us: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something may be taken, and how the bucket stands after that."""

    passed: bool
    limit: int
    """The most in any 60 s."""
    remaining: int
    """As much passes now."""
    reset_us: int
    """Nothing being taken meanwhile, the whole limit is there again after as long."""
    retry_after_us: int | None
    """Nothing being taken meanwhile, the same passes after as long; 0 where it has passed. None: never, it is above the
    limit."""
    weight: int
    """What was asked for."""
    marks: tuple[Mark, ...] = ()
    """Where it stands, to correct it; a limiter over others has one of each."""


def grain_us(limit: int) -> int:
    """What is taken within so many microseconds shares an entry."""
    return 1 if limit <= MAX_ENTRIES else GRAIN_US


class Window:
    """One bucket."""

    __slots__ = ("_entries", "_first", "_used")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int]] = deque()
        """(when it leaves, weight), the times strictly growing."""
        self._first = 1
        """The number of the oldest entry."""
        self._used = 0

    def take(self, now_us: int, limit: int, weight: int) -> Verdict:
        """Takes ``weight`` if it is there, else nothing."""
        self._forget(now_us)
        passed = self._used + weight <= limit
        mark = self._append(now_us, limit, weight) if passed else None
        return self._verdict(now_us, limit, weight, passed=passed, mark=mark)

    def ask(self, now_us: int, limit: int, weight: int) -> Verdict:
        """What ``take`` would say, and nothing taken."""
        self._forget(now_us)
        return self._verdict(now_us, limit, weight, passed=self._used + weight <= limit, mark=None)

    def add(self, now_us: int, limit: int, weight: int) -> None:
        """Takes ``weight`` though it may pass the limit: it was used, and counts."""
        self._forget(now_us)
        self._append(now_us, limit, weight)

    def give_back(self, now_us: int, mark: Mark, weight: int) -> None:
        """``weight`` of what stands at ``mark`` was not used. What has left since is gone."""
        self._forget(now_us)
        index = mark.number - self._first
        if 0 <= index < len(self._entries) and self._entries[index][0] == mark.leaves_at_us:
            _, taken = self._entries[index]
            less = min(weight, taken)
            self._entries[index] = (mark.leaves_at_us, taken - less)
            self._used -= less
            # Else whoever takes and gives back all the time would fill the log with entries of nothing.
            while self._entries and not self._entries[-1][1]:
                self._entries.pop()

    def is_whole(self, now_us: int) -> bool:
        """Nothing of the last minute is on record: the bucket is as a new one."""
        return not self._entries or self._entries[-1][0] <= now_us

    def _forget(self, now_us: int) -> None:
        entries = self._entries
        if entries and entries[-1][0] > now_us + WINDOW_US + GRAIN_US:
            # The clock went back. What is on record counts as taken now, lest it counts until the clock has caught up.
            self._first += len(entries)
            entries.clear()
            entries.append((now_us + WINDOW_US, self._used))
        while entries and entries[0][0] <= now_us:
            self._used -= entries.popleft()[1]
            self._first += 1

    def _append(self, now_us: int, limit: int, weight: int) -> Mark:
        entries, grain = self._entries, grain_us(limit)
        leaves_at_us = now_us + (-now_us) % grain + WINDOW_US
        if entries and entries[-1][0] >= leaves_at_us:
            leaves_at_us, before = entries.pop()  # also where the limit, and so the grain, was another one before
            weight_there = before + weight
        else:
            weight_there = weight
        entries.append((leaves_at_us, weight_there))
        self._used += weight
        return Mark(self._first + len(entries) - 1, leaves_at_us)

    def _verdict(self, now_us: int, limit: int, weight: int, *, passed: bool, mark: Mark | None) -> Verdict:
        reset_us = next((at_us - now_us for at_us, taken in reversed(self._entries) if taken), 0)
        return Verdict(
            passed,
            limit,
            max(0, limit - self._used),
            reset_us,
            0 if passed else self._room_in_us(now_us, limit, weight),
            weight,
            () if mark is None else (mark,),
        )

    def _room_in_us(self, now_us: int, limit: int, weight: int) -> int | None:
        left = self._used
        if weight <= limit:
            for at_us, taken in self._entries:
                left -= taken
                if left + weight <= limit:
                    return at_us - now_us
        return None
