"""What processes cost: CPU and memory from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PPID, _UTIME = 1, 11
"""Of the fields after the name in /proc/PID/stat; the time in the kernel follows the user's."""


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
    before = {part: cpu_s(them) for part, them in pids.items()}
    yield cost
    for part, them in pids.items():
        cost.parts[part] = (cpu_s(them) - before[part]) * 1_000 / operations


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields:
            children.setdefault(int(fields[_PPID]), []).append(int(folder.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of processes so far; one that is gone counts for nothing."""
    return sum(sum(map(int, fields[_UTIME : _UTIME + 2])) / _TICKS_PER_S for pid in pids if (fields := _stat(pid)))


def rss_mib(pid: int) -> float:
    """Resident memory of a process, in MiB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1_024 for line in lines if line.startswith("VmRSS:")), 0.0)


def command_line(pid: int) -> list[str]:
    """What a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()
