"""Ends holds that nobody settled, so that a crashed caller's money comes free."""

from __future__ import annotations

import asyncio

import structlog

from ledger_svc.domain.errors import LedgerUnavailable, Standby
from ledger_svc.domain.holding import Expire
from ledger_svc.service.ports import Ledger, Records, Sleep
from meshkit.clock import Clock

_log = structlog.get_logger(__name__)


class Sweeper:
    """Expires open holds past their time, at most ``batch_limit`` in one sweep."""

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
        now_ms = self._clock.now_ms()
        due = await self._records.due_holds(now_ms, limit=self._batch_limit)
        ends = (self._ledger.execute(Expire(org_id, request_id, now_ms)) for org_id, request_id in due)
        results = await asyncio.gather(*ends, return_exceptions=True)
        ended = sum(result is True for result in results)
        if ended:
            _log.info("holds_expired", count=ended)
        for (org_id, request_id), result in zip(due, results, strict=True):
            if isinstance(result, LedgerUnavailable):
                raise result
            if isinstance(result, BaseException):  # a bug met by one hold must not keep everyone's money
                _log.error("hold_not_expired", org_id=org_id, request_id=request_id, exc_info=result)
        return ended

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
