"""Cost against size: the body, the connections, the receipts in the ledger, the processes that answer clients. Each a
curve with its slope.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.gateway.contenders import Contender, Running, allinone, mesh, with_workers
from tests.bench.gateway.filling import fill_ledger
from tests.bench.gateway.programs import BenchError, Load, Programs, running_upstream, send
from tests.bench.gateway.result import Result
from tests.bench.gateway.rounds import Sample, Scenario, ask_of, spent

BODIES = (1_000, 10_000, 100_000, 1_000_000)
CONNECTIONS = (1, 4, 16, 64, 256, 1_000)
RECEIPTS = (1_000, 10_000, 100_000, 1_000_000)
PROCESSES = (1, 2, 3, 4)
EDGE_PROCESSES = "edge processes"
FRESH = Scenario("plain", Load(16, 1_000))

Say = Callable[[str], None]


def measure(programs: Programs, result: Result, *, scale: float, receipts: int, say: Say) -> None:
    """Adds the curves of Tallygate's modes to ``result``. ``receipts``: the most that are put into a ledger."""
    for contender in (allinone(), mesh()):
        with _running(programs, contender) as running:
            curve = Curve(programs, running, contender.name, result, say)
            for size in BODIES:
                requests = max(100, round(scale * min(1_000, 20_000_000 / size)))
                curve.point("body", size, Load(16, requests), size)
            for connections in CONNECTIONS:
                curve.point("connections", connections, Load(connections, max(3 * connections, round(scale * 1_000))))
        with _running(programs, contender) as running:
            curve = Curve(programs, running, contender.name, result, say)
            send(programs, ask_of(running, FRESH), Load(1, 1))  # what is copied
            for size in (size for size in RECEIPTS if size <= receipts):
                fill_ledger(running, size)
                curve.point("receipts", size, Load(16, max(300, round(scale * 1_000))))
        for count in PROCESSES:
            with _running(programs, with_workers(contender, count)) as running:
                curve = Curve(programs, running, contender.name, result, say)
                curve.point(EDGE_PROCESSES, count, Load(32, max(300, round(scale * 2_000))))


@contextmanager
def _running(programs: Programs, contender: Contender) -> Iterator[Running]:
    """On an empty folder, over a source of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="tg-curve-", ignore_cleanup_errors=True) as folder,
        running_upstream(programs) as upstream_port,
        contender.running(Path(folder, "data"), upstream_port) as running,
    ):
        yield running


class Curve:
    """Points of one contender."""

    def __init__(self, programs: Programs, running: Running, contender: str, result: Result, say: Say) -> None:
        self._programs = programs
        self._running = running
        self._contender = contender
        self._result = result
        self._say = say

    def point(self, name: str, size: int, load: Load, body: int = 887) -> None:
        """Measures the cost at one size, after a few requests to warm up.

        Raises:
            BenchError: an answer was wrong.
        """
        ask = ask_of(self._running, FRESH, size=body)
        send(self._programs, ask, replace(load, requests=max(load.connections, 20)))
        before = self._running.cpu_s()
        timing = send(self._programs, ask, load)
        sample = Sample(timing, spent(before, self._running.cpu_s(), timing.requests))
        cpu_ms = sample.cpu_ms or 0.0
        found = {
            "curve": name,
            "size": size,
            "cpu_ms": round(cpu_ms, 4),
            "p50_ms": timing.p50_ms,
            "rps": timing.rps,
            "parts": {part: round(ms, 4) for part, ms in sample.parts.items()},
        }
        self._result.curves.setdefault(self._contender, []).append(found)
        self._say(f"curve  {self._contender:<9} {name:<12} {size:>9,} {cpu_ms:8.3f} CPU-ms {timing.rps:8.0f}/s")


def slope(points: list[dict[str, Any]]) -> float:
    """Of the cost against the size, both as logarithms, by least squares: 0 is flat, 1 is in proportion.

    Raises:
        BenchError: fewer than two points.
    """
    if len(points) < 2:
        raise BenchError("a slope takes two points")
    xs = [math.log(point["size"]) for point in points]
    ys = [math.log(max(point["cpu_ms"], 1e-6)) for point in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
