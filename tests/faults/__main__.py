"""`make faults`: kills Tallygate's processes at named points under load, and holds the books against what clients know.

Begins with histories of the ledger against its model, for a tenth of the time; of the rest four fifths go to the mesh
and one to all in one process. Ends with one line of JSON, and with 1 unless nothing was lost, charged twice, overspent,
leaked or broken. Everything else is on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
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

MESH_SHARE = 0.8
MODEL_SHARE = 0.1
KILLS_OF_A_HISTORY = 2


async def run(kind: type[Mesh] | type[AllInOne], until_s: float, seed: int, keep: Path | None) -> Outcome:
    """Histories on one deployment until the clock says so; at least one."""
    with tempfile.TemporaryDirectory(prefix="tg-faults-", ignore_cleanup_errors=True) as folder:
        root = (keep or Path(folder)) / kind.__name__.lower()
        root.mkdir(parents=True)
        async with deployed(kind, root) as deployment:
            harness = await Harness.on(deployment, seed)
            faults = faults_for(deployment, seed)
            while True:
                began = time.monotonic()
                chosen = list(itertools.islice(faults, KILLS_OF_A_HISTORY))
                await harness.history(*chosen)
                took = time.monotonic() - began
                told, done = harness.outcome.acknowledged, harness.outcome.operations
                what = ", then ".join(f"{fault.victim} at {fault.point}" for fault in chosen)
                say(f"{kind.__name__} {what}: {took:.1f} s; {told} told of {done} so far")
                if time.monotonic() > until_s:
                    break
            await harness.end()
    for ending, count in sorted(harness.journal.answers.items()):
        say(f"  {count:6} {ending}")
    return harness.outcome


def model_violations(minutes: float) -> int:
    """1 where a history is not that of the model; which, is on standard error."""
    seconds_each = 60 * minutes * MODEL_SHARE / 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "ledger-svc/tests/test_ledger_model.py"],
        env={**os.environ, "TALLYGATE_MODEL_SECONDS": str(seconds_each)},
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
