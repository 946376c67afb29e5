"""`python -m tests.faults.armed_ledger`: the ledger, with seams at which a process is killed.

The programs that can be told to die live here; the services themselves have no such switch. See ``trigger``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from sqlalchemy.util import await_only

from ledger_svc.settings import LedgerSettings
from ledger_svc.store.writer import CommitSeam
from ledger_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.logs import configure_logging
from meshkit.serve import serve
from meshkit.telemetry import Telemetry
from tests.faults.trigger import PLANTED, REPLY_BEFORE_COMMIT, Trigger

_REPLIES_LEAVE_WITHIN_S = 0.02


class ArmedCommits(CommitSeam):
    """``planted``: callers are told before the COMMIT, and their answers leave; on PostgreSQL only, where the loop goes
    on while the transaction waits.
    """

    def __init__(self, trigger: Trigger, *, planted: bool = False) -> None:
        self._trigger = trigger
        self._planted = planted

    def before_commit(self, answer: Callable[[], None]) -> None:
        if self._planted:
            answer()
            await_only(asyncio.sleep(_REPLIES_LEAVE_WITHIN_S))
        self._trigger.reach("before_commit")

    def after_commit(self) -> None:
        self._trigger.reach("after_commit")

    def in_checkpoint(self) -> None:
        self._trigger.reach("in_checkpoint")


async def main() -> None:
    """As `python -m ledger_svc`."""
    settings = LedgerSettings()
    configure_logging("tallygate-ledger", level=settings.log_level)
    telemetry = Telemetry.start("tallygate-ledger")
    seam = ArmedCommits(Trigger.of_environment(), planted=os.environ.get(PLANTED) == REPLY_BEFORE_COMMIT)
    async with Dialer(telemetry) as dial, build(settings, dial, telemetry, seam=seam) as register:
        await serve(register, settings.listen, telemetry, drain_s=settings.drain_s)


if __name__ == "__main__":
    asyncio.run(main())
