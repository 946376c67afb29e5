"""The lead of a flight that a call was given: taken over, kept while the call runs, and ended once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from meshkit.clock import Clock
from router_svc.domain.errors import CacheUnavailable, FlightLost
from router_svc.service.ports import Ending, FlightPass, Flights, Landing

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

_log = structlog.get_logger(__name__)
Sleep = Callable[[float], Awaitable[None]]


class Lead:
    """One call's lead of its flight.

    ``lease_s``: for how long it is kept at a time; it is renewed three times in that. ``patience_s``: how long its end
    is told again while the cache is away; then the lease lapses by itself, and the ledger bars a second charge.
    """

    def __init__(
        self,
        flights: Flights,
        ticket: FlightPass,
        clock: Clock,
        *,
        lease_s: float,
        patience_s: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._flights = flights
        self._ticket = ticket
        self._clock = clock
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._sleep = sleep
        self._keeper: asyncio.Task[None] | None = None
        self._ended = False

    async def take_over(self) -> None:
        """Prolong the lease that the caller has, and keep it from now on.

        Raises:
            FlightLost: another leads by now.
            CacheUnavailable: it can't be known.
        """
        if not await self._flights.renew(self._ticket, self._lease_s):
            raise FlightLost("another request with this idempotency key is under way")
        self._keeper = asyncio.create_task(self._keep(), name="keep a flight's lease")

    async def land(self, landing: Landing) -> None:
        """End the flight with an answer that was charged. Never raises."""
        await self._end("flight_not_landed", lambda: self._flights.land(self._ticket, landing))

    async def abandon(self, ending: Ending) -> None:
        """End the lead without an answer, unless it has ended. Never raises."""
        if not self._ended:
            await self._end("flight_not_abandoned", lambda: self._flights.abandon(self._ticket, ending))

    async def _end(self, failed: str, command: Callable[[], Awaitable[None]]) -> None:
        self._ended = True
        give_up_at = self._clock.monotonic_s() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    await command()
                except CacheUnavailable as error:
                    if self._clock.monotonic_s() + pause_s > give_up_at:
                        _log.error(failed, flight=self._ticket.name.hex(), error=str(error))
                        return
                else:
                    return
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            if self._keeper is not None:
                self._keeper.cancel()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                if not await self._flights.renew(self._ticket, self._lease_s) and not self._ended:
                    # Another may work under the same request id by now. Only one of the two is charged: the ledger's.
                    _log.warning("flight_lost", flight=self._ticket.name.hex())
                    return
            except CacheUnavailable as error:
                _log.warning("flight_not_renewed", flight=self._ticket.name.hex(), error=str(error))
