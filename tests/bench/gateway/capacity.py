"""From what a request costs to what a load needs: the page of capacity figures, from the result of a bench.

    python -m tests.bench.gateway.capacity .make/bench/out/result.json > deploy/docs/capacity.md

A core is counted as carrying four fifths of what it could: the rest is for bursts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

HEADLINE_RPS = 42_891
"""The rate that a product of this field advertises."""
FULL = 0.8
KINDS = {"fresh, plain": "plain c=16", "exact replay": "replay c=16", "fresh stream of 23 events": "stream c=16"}
SERVICES = ("edge", "router", "cache", "ledger", "catalog", "databases")
NEEDED = {
    "edge": "edges",
    "router": "routers",
    "cache": "caches",
    "ledger": "ledger shards",
    "databases": "database cores",
}


def costs(result: dict[str, Any], contender: str) -> dict[str, dict[str, float]]:
    """CPU-ms for a request, by kind and part: medians of the rounds."""
    found: dict[str, dict[str, float]] = {}
    for kind, scenario in KINDS.items():
        samples = result["samples"].get(contender, {}).get(scenario, [])
        parts = {part for sample in samples for part in sample["parts"]}
        found[kind] = {part: statistics.median(s["parts"].get(part, 0.0) for s in samples) for part in parts}
    return found


def cores(rate: float, cpu_ms: float) -> int:
    """Cores for a rate, each four fifths full."""
    return math.ceil(rate * cpu_ms / 1_000 / FULL)


def page(result: dict[str, Any]) -> str:
    """The page, as Markdown."""
    mesh, allinone = costs(result, "mesh"), costs(result, "allinone")
    lines = [
        "# Capacity",
        "",
        "What a request costs, and what a load needs. Made by `python -m tests.bench.gateway.capacity` from the result",
        "of `make bench`: a request of 887 bytes, a source that answers at once, 16 connections, the ledger on. Cores",
        "are those of the machine that measured; yours differ, so measure there.",
        "",
        "## CPU-ms for a request",
        "",
        f"| | all-in-one | {' | '.join(SERVICES)} | mesh without databases |",
        f"| --- | --- | {' | '.join('---' for _ in SERVICES)} | --- |",
    ]
    for kind in KINDS:
        own = sum(ms for part, ms in mesh[kind].items() if part != "databases")
        parts = " | ".join(f"{mesh[kind].get(part, 0.0):.2f}" for part in SERVICES)
        lines.append(f"| {kind} | {allinone[kind].get('gateway', 0.0):.2f} | {parts} | {own:.2f} |")
    lines += [
        "",
        "## What one core carries, requests a second",
        "",
        "| | all-in-one | mesh, all services on it |",
        "| --- | --- | --- |",
    ]
    for kind in KINDS:
        own = sum(ms for part, ms in mesh[kind].items() if part != "databases")
        lines.append(f"| {kind} | {_rate(allinone[kind].get('gateway', 0.0))} | {_rate(own)} |")
    lines += [
        "",
        f"## What {HEADLINE_RPS:,} requests a second need",
        "",
        f"| cores | {' | '.join(NEEDED.values())} |",
        f"| --- | {' | '.join('---' for _ in NEEDED)} |",
    ]
    for kind in KINDS:
        needed = " | ".join(str(cores(HEADLINE_RPS, mesh[kind].get(part, 0.0))) for part in NEEDED)
        lines.append(f"| {kind} | {needed} |")
    lines += ["", *_bottleneck(mesh["fresh, plain"]), ""]
    return "\n".join(lines)


def _rate(cpu_ms: float) -> str:
    return f"{FULL * 1_000 / cpu_ms:,.0f}" if cpu_ms else "-"


def _bottleneck(fresh: dict[str, float]) -> list[str]:
    ledger_ms, databases_ms = fresh.get("ledger", 0.0), fresh.get("databases", 0.0)
    most = f"{FULL * 1_000 / ledger_ms:,.0f}" if ledger_ms else "not measured"
    beside = f"{FULL * databases_ms / ledger_ms:.0%}" if ledger_ms else "not measured"
    return [
        "Edges, routers and caches hold nothing of their own: add replicas, each on a core. A ledger has one process",
        f"that writes, so it is full first: at about {most} fresh requests a second here. A second replica stands by",
        "and does not add to that. Past it, give organisations ledgers of their own: each is a database and a ledger,",
        f"and no transaction reaches over two. Of a core, the databases take then, together: {beside}.",
    ]


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gateway.capacity", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("result", type=Path)
    print(page(json.loads(parser.parse_args().result.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
