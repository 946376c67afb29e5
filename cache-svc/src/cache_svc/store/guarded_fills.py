"""Flights behind the circuit breaker of the store that lies on the same backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from cache_svc.domain.fill import Claim, Lead
from cache_svc.service import FillStore
from cache_svc.service.fills import Attended, Said
from cache_svc.store.guarded import Breaker


class GuardedFills:
    """A ``FillStore`` over another, behind a ``Breaker``: while the backend is away nobody waits for it, and what was
    to be said is lost, as with the backend itself.
    """

    def __init__(self, fills: FillStore, breaker: Breaker) -> None:
        self._fills = fills
        self._breaker = breaker

    async def board(self, name: bytes, claim: Claim) -> str:
        """See ``FillStore``."""
        with self._breaker.call():
            return await self._fills.board(name, claim)

    async def renew(self, lead: Lead, lease_s: float) -> Attended:
        """See ``FillStore``."""
        with self._breaker.call():
            return await self._fills.renew(lead, lease_s)

    async def follow(self, lead: Lead, *, live: bool) -> None:
        """See ``FillStore``."""
        with self._breaker.call():
            await self._fills.follow(lead, live=live)

    async def publish(self, lead: Lead, events: Sequence[bytes]) -> bool:
        """See ``FillStore``."""
        with self._breaker.call():
            return await self._fills.publish(lead, events)

    async def end(self, lead: Lead, event: bytes, *, alone_s: float) -> bool:
        """See ``FillStore``."""
        with self._breaker.call():
            return await self._fills.end(lead, event, alone_s=alone_s)

    async def read(self, lead: Lead, position: int) -> Said:
        """See ``FillStore``."""
        with self._breaker.call():
            return await self._fills.read(lead, position)

    def watch(self, lead: Lead) -> AbstractAsyncContextManager[asyncio.Event]:
        """See ``FillStore``. It asks nothing of the backend."""
        return self._fills.watch(lead)
