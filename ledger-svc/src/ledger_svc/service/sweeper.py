"""Ends holds that nobody settled, so that a crashed caller's money comes free, and takes back expired credit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import LedgerUnavailable, Standby
from ledger_svc.domain.expiring import ExpireCredit
from ledger_svc.domain.holding import Expire
from ledger_svc.service.ports import Due, Ledger, Records, Sleep
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)


class Sweeper:
    """Ends what is past its time, ``batch_limit`` at once."""

    def __init__(self, *, ledger: Ledger, records: Records, clock: Clock, batch_limit: int) -> None:
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._batch_limit = batch_limit

    async def sweep(self) -> int:
        """One sweep; gives the number of holds that it ended. One that was settled meanwhile is left alone, and one
        that can't be ended is logged and does not keep the others.

        Raises:
            LedgerUnavailable: the rest has to wait for the next sweep.
        """
        now_ms, ended = self._clock.now_ms(), 0
        after: Due | None = None
        while due := await self._records.due_holds(now_ms, limit=self._batch_limit, after=after):
            commands = [Expire(hold.org_id, hold.request_id, now_ms) for hold in due]
            ended += sum(result is True for result in await self._end(commands))
            after = due[-1]
        if ended:
            _log.info("holds_expired", count=ended)
        orgs = await self._records.due_credit(now_ms, limit=self._batch_limit)
        await self._end([ExpireCredit(org_id, now_ms) for org_id in orgs])
        return ended

    async def _end(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """What each gave. A bug that one meets must not keep everyone's money."""
        results = await asyncio.gather(*map(self._ledger.execute, commands), return_exceptions=True)
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, LedgerUnavailable):
                raise result
            if isinstance(result, BaseException):
                _log.error("not_expired", command=repr(command), exc_info=result)
        return results

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Sweeps every ``interval_s`` until cancelled. A failure is logged; the next sweep tries again."""
        while True:
            await sleep(interval_s)
            try:
                await self.sweep()
            except Standby:
                continue  # the replica that writes sweeps too
            except Exception:  # noqa: BLE001 - whatever it was, money waits for the next round
                _log.exception("sweep_failed")
