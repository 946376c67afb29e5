"""What keeps limits by the minute. One conformance suite runs on all that do."""

from __future__ import annotations

from typing import Protocol

from edge.limits.window import Verdict


class LimiterAway(Exception):
    """The backend can't be asked, or does not answer in time; whether something was taken is not known."""


class RateLimiter(Protocol):
    """Buckets by name, each with a limit that the caller knows. Every method raises ``LimiterAway``, unless the
    limiter says that it never is.

    Two callers that ask at once are served one after the other: what one has taken the other does not get.
    """

    async def take(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """Takes ``weight`` (from 1 on) if the last 60 s leave room for it under ``limit``."""

    async def ask(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        """What ``take`` would say; takes nothing."""

    async def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        """Of what a passed ``take`` took, ``used`` was used in the end: less is given back to its time, more counts as
        taken now, whether or not there is room for it.
        """
