"""Waiting for what happens in another process: by looking, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.02


def eventually(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    """Returns as soon as ``holds()``.

    Raises:
        AssertionError: it does not within the time.
    """
    give_up_at = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"still not so after {within_s} s")
        time.sleep(POLL_S)


def next_millisecond() -> None:
    """Returns when the clock shows another one: two events of one millisecond can't be told apart."""
    now_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == now_ms:
        pass
