"""Looks whether spending has reached thresholds of caps, and tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ledger_svc.domain.alerts import Alert
from ledger_svc.domain.errors import Standby
from ledger_svc.domain.limits import check_text
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import Sleep
from ledger_svc.service.webhook_ports import Alerts, CapRevision, Look, Watermark
from meshkit.clock import Clock

OVERLAP_MS = 60_000
"""How far each look at new caps goes back behind the last: a cap carries the time of its decision, and is seen at its
COMMIT.
"""
KEEP_EVERY_LEAVES = 50_000
"""The watermark is stored with each alert, and after so many receipts without one; so much is looked at again at most
after a restart.
"""

_log = structlog.get_logger(__name__)


class AlertService:
    """What was reached. ``is_leading``: whether this replica is the writer, which looks. ``told``: called after alerts
    were written, for whoever delivers them.
    """

    def __init__(
        self, *, alerts: Alerts, clock: Clock, is_leading: Callable[[], bool], told: Callable[[], None]
    ) -> None:
        self._alerts = alerts
        self._clock = clock
        self._is_leading = is_leading
        self._told = told
        self._mark: Watermark | None = None
        self._stored_leaf = 0
        self._known_caps: set[CapRevision] = set()

    async def page(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[Alert], str]:
        """Alerts of an organisation, newest first, and the token of the next page ("": there is none).

        Raises:
            InvalidRequest.
        """
        size = check_page_size(page_size)
        before = position_of_token(page_token)
        found = await self._alerts.page(check_text("org_id", org_id), limit=size + 1, before=before)
        return page_of(found, size, lambda alert: (alert.created_at_ms, alert.alert_id))

    async def look(self) -> list[Alert]:
        """One look at everything since the last; gives what it has told.

        Raises:
            Standby: another replica is the writer.
            LedgerUnavailable.
        """
        told: list[Alert] = []
        try:
            while True:
                seen = await self._look_once(told)
                if not seen.has_more:
                    return told
        except Exception:
            self._mark = None  # what was stored is looked at again
            raise

    async def _look_once(self, told: list[Alert]) -> Look:
        now_ms = self._clock.now_ms()
        if self._mark is None:
            self._mark = await self._alerts.watermark()
            self._stored_leaf, self._known_caps = self._mark.leaf_index, set()
        seen = await self._alerts.look(self._mark, self._known_caps, now_ms)
        mark = Watermark(seen.leaf_index, max(self._mark.caps_since_ms, now_ms - OVERLAP_MS))
        if seen.alerts or seen.caps or mark.leaf_index - self._stored_leaf >= KEEP_EVERY_LEAVES:
            new = await self._alerts.tell(seen.alerts, mark)
            self._stored_leaf = mark.leaf_index
            if new:
                told += new
                _log.info("cap_alerts", count=len(new))
                self._told()
        self._mark = mark
        self._known_caps = {known for known in self._known_caps | set(seen.caps) if known[-1] >= mark.caps_since_ms}
        return seen

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Looks every ``interval_s`` until cancelled. A failure is logged; the next look makes up for it."""
        while True:
            await sleep(interval_s)
            if not self._is_leading():
                self._mark = None  # the writer goes on; this one begins where it stopped
                continue
            try:
                await self.look()
            except Standby:
                continue
            except Exception:  # noqa: BLE001 - whatever it was, the next round makes up for it
                _log.exception("alerts_not_looked_for")
