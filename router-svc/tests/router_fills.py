"""Those who follow a call, as a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from router_svc.domain.errors import CacheUnavailable, RouterError
from router_svc.service.ports import Attended, FillBegan, FillLead


@dataclass
class FakeFills:
    """One flight that is led as long as ``leads``; ``attended`` is what the leader is told."""

    attended: Attended = field(default_factory=lambda: Attended(leads=True))
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """The leader waits for somebody who wants chunks."""
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends that wait."""
    asked: int = 0
    began: list[FillBegan] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    messages: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    quits: list[RouterError] = field(default_factory=list)
    away: bool = False

    async def attend(self, lead: FillLead, lease_s: float, *, wait_s: float) -> Attended:
        self._fail_if_away()
        self.asked += 1
        if wait_s:
            self.waiting.set()
            await self.joined.wait()
        return self.attended

    async def publish(self, lead: FillLead, began: FillBegan | None, payloads: Sequence[bytes]) -> bool:
        self._fail_if_away()
        self.began += [began] if began else []
        self.published += payloads
        self.messages += 1
        self.heard.set()
        return self.attended.leads

    async def quit(self, lead: FillLead, error: RouterError) -> None:
        self._fail_if_away()
        self.quits.append(error)

    def _fail_if_away(self) -> None:
        if self.away:
            raise CacheUnavailable("away")
