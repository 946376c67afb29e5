"""The ledger as a process of its own for the bench, what it costs in CPU, and where that goes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meshkit.channels import Dialer
from meshkit.telemetry import Telemetry
from tests.bench.ledger_spending import PEPPER, SEED, Spend, grpc_spending

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME, _CUTIME = 11, 13
"""Of the fields after the name in /proc/PID/stat (proc(5)); the time in the kernel follows each."""


@dataclass(slots=True)
class Served:
    """A ledger that serves: an operation on it, and its process."""

    spend: Spend
    pid: int


@dataclass(slots=True)
class CpuCost:
    """CPU-ms per operation, by part. Unlike a rate it says little of what else the machine does."""

    parts: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{part} {ms:.3f}" for part, ms in self.parts.items())


@contextmanager
def cpu_cost(operations: int, pids: dict[str, list[int]]) -> Iterator[CpuCost]:
    """Measures the block, in which so many operations are done."""
    cost = CpuCost()
    before = {part: sum(map(_cpu_s, them)) for part, them in pids.items()}
    yield cost
    for part, them in pids.items():
        cost.parts[part] = (sum(map(_cpu_s, them)) - before[part]) * 1_000 / operations


def family(pid: int) -> list[int]:
    """A process and its children: a PostgreSQL server and its backends."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields and int(fields[1]) == pid:
            children.append(int(folder.name))
    return [pid, *children]


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far; 0 when it is gone."""
    fields = _stat(pid)
    return sum(map(int, fields[_UTIME : _UTIME + 2])) / _TICKS_PER_S if fields else 0.0


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


@asynccontextmanager
async def over_socket(url: str, profile: Path | None = None) -> AsyncIterator[Served]:
    """The service in a process of its own, over a unix socket. ``profile``: where to leave a profile of it, which
    begins with SIGUSR1.
    """
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        address = f"unix://{folder}/s"
        env = os.environ | {
            "TALLYGATE_LEDGER_LISTEN": address,
            "TALLYGATE_LEDGER_DATABASE_URL": url,
            "TALLYGATE_LEDGER_PEPPERS": json.dumps({"1": PEPPER}),
            "TALLYGATE_LEDGER_SIGNING_KEYS": json.dumps({"bench": SEED}),
            "TALLYGATE_LEDGER_LOG_LEVEL": "info",
        }
        module = ["ledger_svc"] if profile is None else ["tests.bench.profiled_ledger", str(profile)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, env=env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        while b'"serving"' not in (line := await process.stderr.readline()):
            assert line, "the ledger ended before it served"
        drained = asyncio.create_task(process.stderr.read())
        try:
            async with Dialer(Telemetry.off("bench")) as dial:
                yield Served(await grpc_spending(dial(address)), process.pid)
        finally:
            process.terminate()
            await process.wait()
            await drained


def print_profile(path: Path, operations: int, *, lines: int = 45) -> None:
    """Where the ledger's CPU went, by function: microseconds per operation in itself, and with what it called."""
    found = json.loads(path.read_text())
    samples: dict[str, tuple[int, int]] = found["samples"]
    total_us = found["cpu_s"] * 1e6 / operations
    each_us = total_us / sum(own for own, _ in samples.values())
    print(f"{'itself':>8} {'all':>8}  of {total_us:,.0f} µs of CPU per operation", file=sys.stderr)
    for name, (own, every) in sorted(samples.items(), key=lambda item: -item[1][0])[:lines]:
        print(f"{own * each_us:8.1f} {every * each_us:8.1f}  {name}", file=sys.stderr)
