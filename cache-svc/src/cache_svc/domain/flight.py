"""A flight: one piece of work under a name, led by one, waited for by others. What may become of it, as pure functions.

    nobody -> led -> landed
              led -> nobody (abandoned, or the lease has lapsed) -> led

The record is small until it lands. Its form as bytes, one for every backend: length of the facts | facts (JSON) |
landing.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from enum import Enum

import orjson

NAME_VERSION = 1
_LENGTH = struct.Struct(">I")


class AnotherContent(Exception):
    """The name is that of a flight for another content."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for a request with another body. "
            "Send the same body again, or use a new key for a new request."
        )


class Unreadable(Exception):
    """The stored bytes are no flight."""


class Ending(Enum):
    """What the leader that abandons knows of the money; see AbandonRequest.Ending."""

    NOTHING_HELD = 1
    RELEASED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Flight:
    """What is known under a name.

    ``run``: how many leads ended with their hold given back. ``fingerprint``: of the content; empty: of none, the next
    leader brings its own. ``token``: of the leader; empty: nobody leads. ``inherited``: this leader followed one whose
    end is not known. ``landing``: what it landed with, once it has.
    """

    run: int = 0
    fingerprint: bytes = b""
    token: str = ""
    lease_until_ms: int = 0
    inherited: bool = False
    landing: bytes | None = None

    def led_at(self, now_ms: int) -> bool:
        """Somebody leads whose lease has not lapsed."""
        return self.landing is None and bool(self.token) and now_ms < self.lease_until_ms


@dataclass(frozen=True, slots=True)
class Pass:
    """The right of a leader; see FlightPass."""

    name: bytes
    token: str
    run: int
    fingerprint: bytes


def flight_name(kind: str, *scope: str) -> bytes:
    """The name of a flight, 32 bytes: a hash of one JSON array, so that no two scopes share one."""
    return hashlib.sha256(orjson.dumps([NAME_VERSION, kind, *scope])).digest()


def boarded(flight: Flight, token: str, fingerprint: bytes, *, lease_until_ms: int, now_ms: int) -> Flight | None:
    """The flight with ``token`` as its leader; None where another leads it, or it has landed.

    Raises:
        AnotherContent: also where the lease of the other has lapsed, as what became of its work is not known.
    """
    if flight.fingerprint not in (b"", fingerprint):
        raise AnotherContent
    if flight.landing is not None or (flight.led_at(now_ms) and flight.token != token):
        return None
    inherited = flight.inherited if flight.token == token else bool(flight.fingerprint)
    return replace(flight, fingerprint=fingerprint, token=token, lease_until_ms=lease_until_ms, inherited=inherited)


def renewed(flight: Flight, ticket: Pass, lease_until_ms: int) -> Flight | None:
    """The flight with its lease prolonged; None where the pass is not its leader's."""
    return replace(flight, lease_until_ms=lease_until_ms) if _leads(flight, ticket) else None


def landed(flight: Flight, ticket: Pass, landing: bytes) -> Flight | None:
    """The flight with its landing; None where it has one, or the pass is of another run.

    Not only the leader's: one whose lease lapsed, and who was charged all the same, has the answer of this run.
    A flight whose record was lost is landed as the pass has it.
    """
    known = bool(flight.fingerprint or flight.run)
    if flight.landing is not None or (known and flight.run != ticket.run):
        return None
    if flight.fingerprint not in (b"", ticket.fingerprint):
        return None
    return Flight(ticket.run, ticket.fingerprint, ticket.token, 0, landing=landing)


def abandoned(flight: Flight, ticket: Pass, ending: Ending) -> Flight | None:
    """The flight without a leader; None where the pass is not its leader's.

    What the content was stays on record where something may be held for it.
    """
    if not _leads(flight, ticket):
        return None
    if ending is Ending.RELEASED:
        return Flight(run=flight.run + 1)
    if ending is Ending.NOTHING_HELD and not flight.inherited:
        return Flight(run=flight.run)
    return Flight(run=flight.run, fingerprint=flight.fingerprint)


def _leads(flight: Flight, ticket: Pass) -> bool:
    return flight.landing is None and flight.token == ticket.token and flight.run == ticket.run


def to_bytes(flight: Flight) -> bytes:
    """The bytes to store."""
    facts = orjson.dumps(
        {
            "run": flight.run,
            "fingerprint": flight.fingerprint.hex(),
            "token": flight.token,
            "lease_until_ms": flight.lease_until_ms,
            "inherited": flight.inherited,
            "landed": flight.landing is not None,
        }
    )
    return b"".join((_LENGTH.pack(len(facts)), facts, flight.landing or b""))


def from_bytes(blob: bytes) -> Flight:
    """The flight in ``blob``.

    Raises:
        Unreadable: it is none.
    """
    try:
        (length,) = _LENGTH.unpack_from(blob)
        facts = orjson.loads(memoryview(blob)[_LENGTH.size : _LENGTH.size + length])
        landing = blob[_LENGTH.size + length :] if facts.pop("landed") else None
        return Flight(**{**facts, "fingerprint": bytes.fromhex(facts["fingerprint"]), "landing": landing})
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
