"""`make faults`: kills Tallygate's processes at named points under load, and holds the books against what clients know.

Begins with more histories of the ledger against its model than `make test` has; of the rest of the time three quarters
go to the mesh and a quarter to all in one process. Ends with one line of JSON, and with 1 unless nothing was lost,
charged twice, overspent, leaked or broken. Everything else is on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.faults.deployments import AllInOne, Mesh, deployed
from tests.faults.histories import Harness, Outcome, faults_for

MESH_SHARE = 0.75
MODEL_EXAMPLES_PER_MINUTE = 12
"""On each database; about a sixth of the time."""


async def run(kind: type[Mesh] | type[AllInOne], until_s: float, seed: int, keep: Path | None) -> Outcome:
    """Histories on one deployment until the clock says so; at least one."""
    with tempfile.TemporaryDirectory(prefix="tg-faults-", ignore_cleanup_errors=True) as folder:
        root = (keep or Path(folder)) / kind.__name__.lower()
        root.mkdir(parents=True)
        async with deployed(kind, root) as deployment:
            harness = await Harness.on(deployment, seed)
            for fault in faults_for(deployment, seed):
                began = time.monotonic()
                await harness.history(fault)
                took = time.monotonic() - began
                told, done = harness.outcome.acknowledged, harness.outcome.operations
                say(f"{kind.__name__} {fault.victim} at {fault.point}: {took:.1f} s; {told} told of {done} so far")
                if time.monotonic() > until_s:
                    break
            await harness.end()
    for ending, count in sorted(harness.journal.answers.items()):
        say(f"  {count:6} {ending}")
    return harness.outcome


def model_violations(minutes: float) -> int:
    """1 where a history is not that of the model; which, is on standard error."""
    examples = max(1, round(MODEL_EXAMPLES_PER_MINUTE * minutes))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "ledger-svc/tests/test_ledger_model.py"],
        env={**os.environ, "TALLYGATE_MODEL_EXAMPLES": str(examples)},
        stdout=sys.stderr,
        check=False,
    )
    return int(done.returncode != 0)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=None, help="of the order of faults and of the clients' choices")
    parser.add_argument("--mode", choices=["mesh", "allinone", "both"], default="both", help="both: and the model")
    parser.add_argument("--keep", type=Path, default=None, help="an empty folder for databases and logs, not deleted")
    asked = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the source's clients are killed: that is no news
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    seed = asked.seed if asked.seed is not None else time.time_ns() % 2**32
    say(f"seed {seed}")
    began, all_s = time.monotonic(), 60 * asked.minutes
    total = Outcome()
    if asked.mode == "both":
        total.violations = model_violations(asked.minutes)
    left_s = began + all_s - time.monotonic()
    if asked.mode != "allinone":
        share = MESH_SHARE if asked.mode == "both" else 1.0
        total.add(await run(Mesh, time.monotonic() + share * left_s, seed, asked.keep))
    if asked.mode != "mesh":
        total.add(await run(AllInOne, began + all_s, seed, asked.keep))
    for fault, count in sorted(total.kills_by_fault.items()):
        say(f"  {count:6} kills: {fault}")
    print(json.dumps(total.line()))
    return 0 if total.is_clean else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
