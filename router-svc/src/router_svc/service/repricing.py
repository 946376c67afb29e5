"""Tells the audit trail which prices are in force.

Every router watches the catalog, and each tells of a new revision; the trail takes one entry of each, as the difference
to the revision that was told before. What is told is what the catalog says to be in force when it is asked, after what
was told last is known: a router whose watch lags behind does not tell of prices that are gone. A change that comes
while no router runs is told by the first that starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from router_svc.domain.catalog import CatalogSnapshot
from router_svc.domain.errors import CatalogUnavailable, LedgerRefused, LedgerUnavailable
from router_svc.domain.repricing import Repricing, repricing

MAX_ROUNDS = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

_log = structlog.get_logger(__name__)

Sleep = Callable[[float], Awaitable[None]]


class Revisions(Protocol):
    """The catalog's revisions."""

    async def next_revision(self, seen: str) -> str:
        """The newest revision that the watch has brought, once it is another than ``seen``."""

    async def revision(self, name: str) -> CatalogSnapshot | None:
        """A revision by its name, "" the one in force; None where it is not kept any more.

        Raises:
            CatalogUnavailable.
        """


class PriceTrail(Protocol):
    """The part of the audit trail that prices are told in."""

    async def record(self, change: Repricing) -> str:
        """Tells of a revision if its previous one was told last; gives the one that is told last now.

        Raises:
            LedgerUnavailable, LedgerRefused.
        """


class PriceTeller:
    """Keeps the trail up to date."""

    def __init__(self, revisions: Revisions, trail: PriceTrail, *, sleep: Sleep = asyncio.sleep) -> None:
        self._revisions = revisions
        self._trail = trail
        self._sleep = sleep
        self._told = ""

    async def run(self) -> None:
        """Tells of each revision until cancelled. A failure is logged and tried again."""
        seen, pause_s = "", _FIRST_PAUSE_S
        while True:
            newest = await self._revisions.next_revision(seen)
            try:
                await self.tell()
            except (CatalogUnavailable, LedgerUnavailable, LedgerRefused) as error:
                _log.warning("prices_not_told", revision=newest, cause=str(error))
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                seen, pause_s = newest, _FIRST_PAUSE_S

    async def tell(self) -> None:
        """Sees to it that the revision in force is the one that was told last.

        Raises:
            CatalogUnavailable, LedgerUnavailable, LedgerRefused.
        """
        for _ in range(MAX_ROUNDS):
            in_force = await self._revisions.revision("")
            assert in_force is not None, "there is always one in force"
            self._told = await self._trail.record(await self._since(self._told, in_force))
            if self._told == in_force.revision:
                return
        raise LedgerUnavailable("others tell of other revisions at the same time")

    async def _since(self, told: str, in_force: CatalogSnapshot) -> Repricing:
        if not told:
            return repricing(None, in_force)
        before = in_force if told == in_force.revision else await self._revisions.revision(told)
        if before is None:
            return Repricing(in_force.revision, told, known=False)
        return repricing(before, in_force)
