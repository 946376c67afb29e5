"""Brings data keys under the newest key-encryption key, so that an older one can be destroyed."""

from __future__ import annotations

import asyncio

import structlog

from ledger_svc.domain.errors import Standby
from ledger_svc.service.ports import Sleep
from ledger_svc.service.provider_key_ports import ProviderKeyStore

_log = structlog.get_logger(__name__)


class Rewrapping:
    """Goes through the data keys of all organisations, ``batch`` at a time, each batch in a transaction of its own."""

    def __init__(self, store: ProviderKeyStore, *, batch: int = 100) -> None:
        self._store = store
        self._batch = batch

    async def rewrap_all(self) -> int:
        """Wraps every data key that is under an older key-encryption key anew; gives their number.

        Raises:
            Standby: another replica is the writer.
        """
        total, after = 0, ""
        while True:
            wrapped, after = await self._store.rewrap(after=after, limit=self._batch)
            total += wrapped
            if not after:
                return total

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """At once, then again and again, until cancelled: a replica that stands by may write later, and one with older
        settings may have written in between.
        """
        while True:
            try:
                if wrapped := await self.rewrap_all():
                    _log.info("data_keys_rewrapped", data_keys=wrapped)
            except Standby:
                pass  # the replica that writes does it
            except Exception:  # noqa: BLE001 - whatever it was, the next round makes up for it
                _log.exception("data_keys_not_rewrapped")
            await sleep(interval_s)
