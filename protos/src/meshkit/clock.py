"""Time as an argument, so that tests decide it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The time that a service sees."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""

    def monotonic_s(self) -> float:
        """Seconds that only grow; for durations."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that only grow; for durations."""
        return time.monotonic()
