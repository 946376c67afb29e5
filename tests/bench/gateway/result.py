"""The numbers of a run: medians with their spread, and the one line that it ends with."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.bench.gateway.rounds import Sample, Samples, added

DIRECT = "direct"
"""The source asked without a gateway."""


def this_machine() -> dict[str, Any]:
    """Where and when: the figures of another say something else."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release().partition("-")[0],
        "load_before": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


@dataclass(slots=True)
class Result:
    """By contender and scenario. ``missing``: contenders that could not be measured, and why. ``rss``: MiB by service
    at the end; ``soak``: MiB by requests served. ``made_by``: the command; ``seconds``: what each part of it took.
    """

    made_by: str = ""
    machine: dict[str, Any] = field(default_factory=this_machine)
    samples: dict[str, dict[str, Samples]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rss: dict[str, dict[str, float]] = field(default_factory=dict)
    soak: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Notes how long a part of the run took."""
        began_s = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - began_s, 1)

    def add(self, contender: str, scenario: str, sample: Sample) -> None:
        """Keeps a sample."""
        self.samples.setdefault(contender, {}).setdefault(scenario, Samples()).taken.append(sample)

    def of(self, contender: str, scenario: str) -> Samples:
        """The samples; empty where there are none."""
        return self.samples.get(contender, {}).get(scenario, Samples())

    def added(self, contender: str, scenario: str, name: str) -> float | None:
        """What a contender adds to a time of the source, by medians."""
        through, direct = (self.of(who, scenario).median(_timing(name)) for who in (contender, DIRECT))
        return added(through, direct)

    def line(self, contender: str) -> dict[str, float | None]:
        """What the last line says of a contender; null: not measured."""
        numbers = {
            "fresh_cpu_ms": self.of(contender, "plain c=16").median(cpu_ms),
            "replay_cpu_ms": self.of(contender, "replay c=16").median(cpu_ms),
            "stream_cpu_ms": self.of(contender, "stream c=16").median(cpu_ms),
            "added_p50_ms": self.added(contender, "plain c=1", "p50_ms"),
            "added_p99_ms": self.added(contender, "plain c=1", "p99_ms"),
            "added_ttfc_p50_ms": self.added(contender, "paced c=16", "ttfc_p50_ms"),
            "rps_c16": self.of(contender, "plain c=16").median(_timing("rps")),
            "rss_mib": sum(self.rss[contender].values()) if contender in self.rss else None,
        }
        return {name: None if value is None else round(value, 3) for name, value in numbers.items()}

    def figures(self, contender: str) -> dict[str, float | None]:
        """What a table says of it beside that."""
        return {**self.line(contender), "largest_mib": max(self.rss.get(contender, {}).values(), default=None)}

    def as_json(self) -> dict[str, Any]:
        """All of it, for later comparison."""
        samples = {
            contender: {name: [asdict(sample) for sample in kept.taken] for name, kept in by_scenario.items()}
            for contender, by_scenario in self.samples.items()
        }
        return {
            "made_by": self.made_by,
            "machine": self.machine,
            "seconds": self.seconds,
            "versions": self.versions,
            "missing": self.missing,
            "lines": {contender: self.line(contender) for contender in self.versions},
            "rss_mib": self.rss,
            "soak": self.soak,
            "curves": self.curves,
            "samples": samples,
        }


def cpu_ms(sample: Sample) -> float | None:
    """CPU-ms for a request."""
    return sample.cpu_ms


def _timing(name: str) -> Any:
    return lambda sample: getattr(sample.timing, name)


TIMINGS = {name: _timing(name) for name in ("rps", "p50_ms", "p99_ms", "ttfc_p50_ms", "ttfc_p99_ms")}
