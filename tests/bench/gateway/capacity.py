"""From what a request costs to what a load needs: the page of capacity figures, from the result of a bench.

    python -m tests.bench.gateway.capacity .make/bench/out/result.json      # writes deploy/docs/capacity.md and .json
    python -m tests.bench.gateway.capacity                                  # the page anew, from that .json

A core is counted as carrying four fifths of what it could: the rest is for bursts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import textwrap
from pathlib import Path
from typing import Any

from tests.bench.gateway.contenders import is_database
from tests.bench.gateway.curves import EDGE_PROCESSES

DOCS = Path("deploy/docs")
HEADLINE_RPS = 42_891
"""The rate that a product of this field advertises."""
FULL = 0.8
FRESH = "fresh, plain"
KINDS = {FRESH: "plain c=16", "exact replay": "replay c=16", "fresh stream of 23 events": "stream c=16"}
PARTS = {
    "edge": "edges",
    "router": "routers",
    "cache": "caches",
    "ledger": "ledger shards",
    "catalog": "catalogs",
    "postgresql": "PostgreSQL",
    "redis": "Redis",
}
"""Of the mesh, and what several of them are called."""
KEPT, WORKER = "gateway", "worker"
"""The parts of all-in-one with workers."""

Costs = dict[str, dict[str, float]]
"""CPU-ms for a request, by kind and part."""


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """What the page is made of, out of the result of a bench: small enough to be kept beside it."""
    workers = [
        point["parts"]
        for point in result["curves"].get("allinone", [])
        if point["curve"] == EDGE_PROCESSES and WORKER in point["parts"]
    ]
    return {
        "made_by": result["made_by"],
        "machine": result["machine"],
        "mesh": costs(result, "mesh"),
        "allinone": costs(result, "allinone"),
        "workers": {part: round(statistics.median(p[part] for p in workers), 4) for part in (KEPT, WORKER)}
        if workers
        else {},
    }


def costs(result: dict[str, Any], contender: str) -> Costs:
    """By kind and part: medians of the rounds."""
    found: Costs = {}
    for kind, scenario in KINDS.items():
        samples = result["samples"].get(contender, {}).get(scenario, [])
        parts = {part for sample in samples for part in sample["parts"]}
        found[kind] = {
            part: round(statistics.median(s["parts"].get(part, 0.0) for s in samples), 4) for part in sorted(parts)
        }
    return found


def cores(rate: float, cpu_ms: float) -> int:
    """Cores for a rate, each four fifths full."""
    return math.ceil(rate * cpu_ms / 1_000 / FULL)


def carried(cpu_ms: float) -> str:
    """Requests a second that a core carries, four fifths full."""
    return f"{FULL * 1_000 / cpu_ms:,.0f}" if cpu_ms else "-"


def page(found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    machine, mesh, allinone = found["machine"], found["mesh"], found["allinone"]
    lines = [
        "# Capacity",
        "",
        _paragraph(
            "What a request costs, and what a load needs. Worked out by `python -m tests.bench.gateway.capacity` from",
            f"{found['made_by']}, {machine['date']}, medians of rounds: a request of 887 bytes, a",
            f"source that answers at once, 16 connections, the ledger on. The machine had {machine['cores']} cores,",
            f"Python {machine['python']}, and a load of {machine['load_before']} before the run began. Cores are those",
            "of that machine; yours differ, so measure there: `make bench`, then this script.",
        ),
        "",
        "## CPU-ms for a request",
        "",
        f"| | all-in-one | {' | '.join(PARTS)} | mesh without databases |",
        f"| --- | --- | {' | '.join('---' for _ in PARTS)} | --- |",
    ]
    for kind in KINDS:
        parts = " | ".join(f"{mesh[kind].get(part, 0.0):.2f}" for part in PARTS)
        lines.append(f"| {kind} | {_own(allinone[kind]):.2f} | {parts} | {_own(mesh[kind]):.2f} |")
    lines += [
        "",
        "## What one core carries, requests a second",
        "",
        "| | all-in-one | mesh, all services on it |",
        "| --- | --- | --- |",
        *(f"| {kind} | {carried(_own(allinone[kind]))} | {carried(_own(mesh[kind]))} |" for kind in KINDS),
        "",
        *_workers(found["workers"]),
        f"## What {HEADLINE_RPS:,} requests a second need",
        "",
        "Each a process on a core of its own:",
        "",
        f"| | {' | '.join(PARTS.values())} | cores together |",
        f"| --- | {' | '.join('---' for _ in PARTS)} | --- |",
    ]
    for kind in KINDS:
        needed = [cores(HEADLINE_RPS, mesh[kind].get(part, 0.0)) for part in PARTS]
        lines.append(f"| {kind} | {' | '.join(map(str, needed))} | {sum(needed)} |")
    lines += ["", "## What is full first, and what to do then", "", *_bottleneck(mesh[FRESH]), ""]
    return "\n".join(lines)


def _own(parts: dict[str, float]) -> float:
    return sum(ms for part, ms in parts.items() if not is_database(part))


def _workers(workers: dict[str, float]) -> list[str]:
    if not workers:
        return []
    kept_ms, worker_ms = workers[KEPT], workers[WORKER]
    return [
        "## All-in-one with workers",
        "",
        _paragraph(
            f"Of a fresh request `tallygate up --workers N` takes {worker_ms:.2f} CPU-ms in a worker and {kept_ms:.2f}",
            "in the process that keeps ledger, catalog and cache. That one is full at about",
            f"{carried(kept_ms)} requests a second, with {math.ceil(worker_ms / kept_ms)} workers or so",
            "([workers](workers.md)).",
        ),
        "",
    ]


def _bottleneck(fresh: dict[str, float]) -> list[str]:
    if not fresh:
        return ["Not measured."]
    busiest = max((part for part in PARTS if part in fresh), key=lambda part: fresh[part])
    ledger_ms = fresh.get("ledger", 0.0)
    beside = f"{FULL * fresh.get('postgresql', 0.0) / ledger_ms:.0%}" if ledger_ms else "not measured"
    return [
        _paragraph(
            f"With one process of each, the {busiest}: at about {carried(fresh[busiest])} fresh requests a second.",
            "Edges, routers and caches hold nothing of their own: add replicas, each on a core. The catalog is asked",
            "for revisions only.",
        ),
        "",
        _paragraph(
            f"A ledger has one process that writes, so it is what stays full: at about {carried(ledger_ms)} fresh",
            "requests a second. A second replica stands by and does not add to that. Past it, give organisations",
            "ledgers of their own: each is a database and a ledger, and no transaction reaches over two.",
            f"Its PostgreSQL takes {beside} of a core then.",
        ),
    ]


def _paragraph(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), 116, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Writes the page, and the figures that it is made of."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gateway.capacity", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("result", type=Path, nargs="?", help="result.json of a bench")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of capacity.md and capacity.json")
    arguments = parser.parse_args()
    kept = arguments.to / "capacity.json"
    if arguments.result is not None:
        found = figures(json.loads(arguments.result.read_text(encoding="utf-8")))
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (arguments.to / "capacity.md").write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
