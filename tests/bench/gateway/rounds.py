"""What is asked of each gateway, and what it took: rounds that go around all gateways in turn, medians at the end."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import orjson

from tests.bench.gateway.contenders import Running, is_database
from tests.bench.gateway.programs import MARKER, Ask, BenchError, Load, Programs, Timing, answered, send

BODY_BYTES = 887
_PAUSE = "It is the first of many notes on how tally sticks were cut, split and kept by both sides. "


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of request at one load. ``replay``: all the same, so that a cache may answer."""

    name: str
    load: Load
    stream: bool = False
    paced: bool = False
    replay: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario once at one gateway. ``parts``: CPU-ms for a request, by service and of the databases; empty for the
    source asked without a gateway.
    """

    timing: Timing
    parts: dict[str, float]

    @property
    def cpu_ms(self) -> float | None:
        """CPU-ms for a request, without databases."""
        own = [ms for part, ms in self.parts.items() if not is_database(part)]
        return sum(own) if own else None


@dataclass(slots=True)
class Samples:
    """Of one scenario at one gateway, a sample for each round."""

    taken: list[Sample] = field(default_factory=list)

    def median(self, value: Callable[[Sample], float | None]) -> float | None:
        """Over the rounds; None where there is nothing."""
        found = self.values(value)
        return statistics.median(found) if found else None

    def values(self, value: Callable[[Sample], float | None]) -> list[float]:
        """Round by round."""
        return [number for sample in self.taken if (number := value(sample)) is not None]


def scenarios(scale: float) -> list[Scenario]:
    """All of them; ``scale`` 1: as many requests as a whole run takes."""

    def load(connections: int, requests: int, *, unique: bool = True, rate: float = 0.0) -> Load:
        return Load(connections, max(2 * connections, round(scale * requests)), rate, unique)

    return [
        Scenario("plain c=1", load(1, 600)),
        Scenario("plain c=16", load(16, 3_000)),
        Scenario("plain c=64", load(64, 2_000)),
        Scenario("plain 100/s", load(64, 600, rate=100.0)),
        Scenario("replay c=1", load(1, 600, unique=False), replay=True),
        Scenario("replay c=16", load(16, 3_000, unique=False), replay=True),
        Scenario("replay c=64", load(64, 2_000, unique=False), replay=True),
        Scenario("stream c=1", load(1, 400), stream=True),
        Scenario("stream c=16", load(16, 1_500), stream=True),
        Scenario("stream c=64", load(64, 1_000), stream=True),
        Scenario("paced c=1", load(1, 16), stream=True, paced=True),
        Scenario("paced c=16", load(16, 320), stream=True, paced=True),
        Scenario("paced c=64", load(64, 640), stream=True, paced=True),
    ]


QUICK = ("plain c=1", "plain c=16", "replay c=16", "stream c=16", "paced c=16")
"""What the last line is made of."""


def body_of(model: str, extra: dict[str, object], *, stream: bool, size: int = BODY_BYTES) -> bytes:
    """A request of ``size`` bytes, or a little more."""
    body: dict[str, object] = {"model": model, "temperature": 0, "max_tokens": 64, **extra}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}

    def with_text(text: str) -> bytes:
        asked = [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": f"{MARKER} {text}"},
        ]
        return orjson.dumps({**body, "messages": asked})

    missing = max(0, size - len(with_text("")))
    return with_text((_PAUSE * (missing // len(_PAUSE) + 1))[:missing])


def ask_of(running: Running, scenario: Scenario, *, size: int = BODY_BYTES) -> Ask:
    """What a client of this gateway sends."""
    extra = dict(running.caching or {}) if scenario.replay else {}
    model = running.paced_model if scenario.paced else running.model
    body = body_of(model, extra, stream=scenario.stream, size=size)
    return Ask(running.port, running.path, running.headers, body, scenario.stream)


def measure(programs: Programs, running: Running, scenario: Scenario, upstream_port: int) -> Sample:
    """One scenario once, with a few requests before to warm up.

    Raises:
        BenchError: an answer was wrong, or the source was asked more or less often than it must have been.
    """
    ask, connections = ask_of(running, scenario), scenario.load.connections
    load = replace(scenario.load, requests=max(2 * connections, round(running.share * scenario.load.requests)))
    send(programs, ask, replace(load, requests=2 * connections, rate=0))
    asked_before, cpu_before = answered(upstream_port), running.cpu_s()
    timing = send(programs, ask, load)
    parts = spent(cpu_before, running.cpu_s(), timing.requests)
    asked = answered(upstream_port) - asked_before
    expected = 0 if scenario.replay else timing.requests
    if asked != expected:
        raise BenchError(f"{scenario.name}: the source was asked {asked} times for {expected} fresh answers")
    return Sample(timing, parts)


def spent(before: dict[str, float], after: dict[str, float], requests: int) -> dict[str, float]:
    """CPU-ms for a request, by part."""
    return {part: (seconds - before.get(part, 0.0)) * 1_000 / requests for part, seconds in after.items()}


def measure_direct(programs: Programs, upstream_port: int, scenario: Scenario, model: str) -> Sample:
    """The same at the source itself: what a gateway adds is told by the difference."""
    body = body_of(model, {}, stream=scenario.stream)
    ask = Ask(upstream_port, "/v1/chat/completions", {}, body, scenario.stream)
    return Sample(send(programs, ask, scenario.load), {})


def added(through: float | None, direct: float | None) -> float | None:
    """What a gateway adds to the time of the source."""
    return None if through is None or direct is None else through - direct


def named(found: Sequence[Scenario], names: Sequence[str]) -> list[Scenario]:
    """Those of these names."""
    return [scenario for scenario in found if scenario.name in names]
