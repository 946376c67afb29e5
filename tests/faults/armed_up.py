"""`python -m tests.faults.armed_up DATA CATALOG READY_FILE`: all in one, with seams at which a process is killed. See
``armed_ledger``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import uvloop

import ledger_svc.wiring
import router_svc.wiring
from tallygate_deploy import allinone
from tallygate_deploy.composition import Builds
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.installation import StartOptions
from tests.faults.armed_ledger import ArmedCommits
from tests.faults.armed_router import ArmedCalls
from tests.faults.trigger import Trigger


async def main(root: Path, catalog: Path, ready_file: Path) -> None:
    """As `tallygate up --port 0`."""
    data, trigger = DataDir(root), Trigger.of_environment()
    builds = Builds(
        ledger=partial(ledger_svc.wiring.build, seam=ArmedCommits(trigger)),
        router=partial(router_svc.wiring.build, seam=ArmedCalls(trigger)),
    )
    with data.locked():
        data.claim("up")
        await allinone.run(StartOptions(data, port=0, catalog=catalog, ready_file=ready_file), builds)


if __name__ == "__main__":
    uvloop.run(main(*map(Path, sys.argv[1:])))
