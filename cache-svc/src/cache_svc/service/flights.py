"""Boarding, leading and landing flights, over any ``FlightStore``."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from cache_svc.domain import flight as flights
from cache_svc.domain.flight import Ending, Flight, Pass, Unreadable
from cache_svc.service.refusals import StoreFull, StoreUnavailable
from meshkit.clock import Clock
from meshkit.transport import MAX_MESSAGE_BYTES

_log = structlog.get_logger(__name__)

_MOST_SWAPS = 32
"""Tries of one change against others that change the same flight. Each failure means that another one succeeded."""
_THREAD_FROM_BYTES = 256 * 1024
"""From this size on an answer is compressed in a thread: it takes longer than the loop should stand still."""


MAX_UNPACKED_BYTES = MAX_MESSAGE_BYTES
"""The longest landing, uncompressed: no message between services may be longer. No more is ever made of what lies in a
store, whatever it says of itself."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store holds under a name. ``version``: of exactly these bytes, never given to others."""

    version: bytes
    blob: bytes


class FlightStore(Protocol):
    """Keeps opaque bytes by name and swaps them atomically. Every method may raise ``StoreUnavailable``.

    A record may be lost at any time, and one that was lost is absent. It may not come back.
    """

    async def load(self, name: bytes) -> Kept | None:
        """What is under ``name``."""

    async def swap(
        self, name: bytes, version: bytes | None, blob: bytes, *, ttl_s: int, pinned_until_ms: int = 0
    ) -> bool:
        """Keeps ``blob`` for ``ttl_s`` seconds if what is there has ``version``; None: if nothing is there. Says if so.

        ``pinned_until_ms``: until then it does not make room for others, as far as the backend can promise that.

        Raises:
            StoreFull: it was not kept.
        """

    async def changed(self, name: bytes, version: bytes, within_s: float) -> None:
        """Returns when what is under ``name`` may have another version, at the latest after ``within_s``."""


@dataclass(frozen=True, slots=True)
class FlightLimits:
    """``max_landing_bytes``: of one landing, compressed. ``ttl_s``: how long a flight is remembered after its last
    change. ``max_wait_s``: the longest wait of one call. ``max_lease_s``: the longest lease.
    """

    max_landing_bytes: int
    ttl_s: int
    max_wait_s: float
    max_lease_s: float


@dataclass(frozen=True, slots=True)
class Lead:
    """The caller leads."""

    ticket: Pass


@dataclass(frozen=True, slots=True)
class Landed:
    """It has landed with these bytes."""

    landing: bytes


@dataclass(frozen=True, slots=True)
class Underway:
    """Another leads."""


class Remembered(Enum):
    """What was kept of a landing."""

    WHOLE = 1
    WITHOUT_ANSWER = 2
    NOTHING = 3


class FlightService:
    """Flights of every kind."""

    def __init__(self, store: FlightStore, clock: Clock, limits: FlightLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    async def board(
        self, name: bytes, *, token: str, fingerprint: bytes, lease_s: float, wait_s: float
    ) -> Lead | Landed | Underway:
        """Lead the flight, or get what it landed with, waiting for that for ``wait_s`` at most.

        Raises:
            AnotherContent: the name is that of a flight for another content.
            StoreUnavailable, StoreFull: nobody leads by this call.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(wait_s, self._limits.max_wait_s)
        while True:
            found, flight = await self._read(name)
            lead = flights.boarded(
                flight, token, fingerprint, lease_until_ms=self._lease_until_ms(lease_s), now_ms=self._clock.now_ms()
            )
            if lead is not None:
                if await self._swap(name, found, lead):
                    return Lead(Pass(name, token, lead.run, fingerprint))
                continue
            assert found is not None, "only what is there is led or has landed"
            if flight.landing is not None:
                if (landing := await _unpacked(flight.landing)) is not None:
                    return Landed(landing)
                _log.error("flight_unreadable", name=name.hex())
                await self._swap(name, found, Flight())
                continue
            left_s = until_s - loop.time()
            if left_s <= 0:
                return Underway()
            lapses_s = (flight.lease_until_ms - self._clock.now_ms()) / 1_000
            await self._store.changed(name, found.version, max(0.001, min(left_s, lapses_s)))

    async def renew(self, ticket: Pass, lease_s: float) -> bool:
        """Prolong the lease. False: another leads, or it has landed.

        Raises:
            StoreUnavailable.
        """
        until_ms = self._lease_until_ms(lease_s)
        return await self._change(ticket, lambda flight: flights.renewed(flight, ticket, until_ms))

    async def land(self, ticket: Pass, whole: bytes, bare: bytes) -> Remembered:
        """End the flight. ``bare``: what to keep where ``whole``, which has the answer, is too large.

        Raises:
            StoreUnavailable, StoreFull: not even ``bare`` could be kept.
        """
        packed = await _packed(whole) if len(whole) <= MAX_UNPACKED_BYTES else b""
        if packed and len(packed) <= self._limits.max_landing_bytes:
            try:
                kept = await self._change(ticket, lambda flight: flights.landed(flight, ticket, packed))
            except StoreFull:
                _log.warning("flight_without_answer", name=ticket.name.hex(), why="the backend is full")
            else:
                return Remembered.WHOLE if kept else Remembered.NOTHING
        else:
            _log.info("flight_without_answer", name=ticket.name.hex(), why="too large", size_bytes=len(whole))
        short = zlib.compress(bare, 1)
        kept = await self._change(ticket, lambda flight: flights.landed(flight, ticket, short))
        return Remembered.WITHOUT_ANSWER if kept else Remembered.NOTHING

    async def abandon(self, ticket: Pass, ending: Ending) -> bool:
        """End the lead without an answer. False: it was not this pass' to end.

        Raises:
            StoreUnavailable.
        """
        return await self._change(ticket, lambda flight: flights.abandoned(flight, ticket, ending))

    async def _change(self, ticket: Pass, decide: Callable[[Flight], Flight | None]) -> bool:
        for _ in range(_MOST_SWAPS):
            found, flight = await self._read(ticket.name)
            decided = decide(flight)
            if decided is None:
                return False
            if await self._swap(ticket.name, found, decided):
                return True
        raise StoreUnavailable("the flight is changed by others all the time")

    async def _read(self, name: bytes) -> tuple[Kept | None, Flight]:
        found = await self._store.load(name)
        if found is None:
            return None, Flight()
        try:
            return found, flights.from_bytes(found.blob)
        except Unreadable as error:
            # As if it had been lost: the ledger bars what must not happen twice.
            _log.error("flight_unreadable", name=name.hex(), why=str(error))
            return found, Flight()

    async def _swap(self, name: bytes, found: Kept | None, flight: Flight) -> bool:
        return await self._store.swap(
            name,
            found.version if found else None,
            flights.to_bytes(flight),
            ttl_s=self._limits.ttl_s,
            pinned_until_ms=flight.lease_until_ms if flight.landing is None else 0,
        )

    def _lease_until_ms(self, lease_s: float) -> int:
        return self._clock.now_ms() + round(1_000 * min(lease_s, self._limits.max_lease_s))


async def _packed(landing: bytes) -> bytes:
    # The chunks of a stream repeat nearly everything: level 1 makes a tenth or less of them.
    if len(landing) < _THREAD_FROM_BYTES:
        return zlib.compress(landing, 1)
    return await asyncio.to_thread(zlib.compress, landing, 1)


async def _unpacked(packed: bytes) -> bytes | None:
    """None: the bytes are damaged, which the form's checksum shows, or a bomb."""
    if len(packed) < _THREAD_FROM_BYTES // 8:
        return _bounded(packed)
    return await asyncio.to_thread(_bounded, packed)


def _bounded(packed: bytes) -> bytes | None:
    reader = zlib.decompressobj()
    try:
        landing = reader.decompress(packed, MAX_UNPACKED_BYTES + 1)  # one more, to see that it ends there
    except zlib.error:
        return None
    return landing if reader.eof and not reader.unused_data and len(landing) <= MAX_UNPACKED_BYTES else None
