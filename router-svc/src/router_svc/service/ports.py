"""What the router needs of others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from meshkit.money import PriceSnapshot, Usage
from meshkit.principal import Principal
from meshkit.regions import RegionPolicy
from router_svc.domain.answer import Attempt, Outcome, PlainAnswer, StreamBatch
from router_svc.domain.catalog import CatalogSnapshot
from router_svc.domain.errors import RouterError
from router_svc.domain.own_key import OwnKeys
from router_svc.domain.plan import Candidate


@dataclass(frozen=True, slots=True)
class CacheTicket:
    """Leave of the cache to store one answer; opaque. ``record``: the answer is offered whatever it says of its usage,
    because it is to be recorded.
    """

    whole: bytes
    record: bool = False


@dataclass(frozen=True, slots=True)
class FlightPass:
    """The lead of a flight; opaque."""

    name: bytes
    token: str
    run: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class FillLead:
    """The lead of the flight of identical requests; opaque but for ``lease_s``, from the lookup on."""

    name: bytes
    token: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """Asks for a fresh answer. ``model``: after aliases; ``requested_model``: before. ``trace_id`` may be empty.
    ``started_at_ms``: the request arrived at the edge at, Unix milliseconds; 0: not known.

    ``flight``: the caller leads it, and others will ask for this answer; None for an ordinary call. ``region``: where
    it may be answered.
    """

    principal: Principal
    request_id: str
    model: str
    requested_model: str
    body: bytes
    stream: bool
    cache_ticket: CacheTicket | None = None
    trace_id: str = ""
    flight: FlightPass | None = None
    region: RegionPolicy = RegionPolicy.ANY
    tags: Mapping[str, str] = field(default_factory=dict)
    started_at_ms: int = 0
    fill: FillLead | None = None
    """Identical requests wait for this answer."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What the ledger holds for a request."""

    hold_id: str
    amount_nano_usd: int


@dataclass(frozen=True, slots=True)
class Charge:
    """A durable charge."""

    receipt_id: str
    charged_nano_usd: int


@dataclass(frozen=True, slots=True)
class SettleFacts:
    """What a hold is settled for. The digests are salted, see meshkit.digests; empty: not taken."""

    usage: Usage
    price: PriceSnapshot
    outcome: Outcome
    requested_model: str
    model: str
    source_id: str
    upstream_model: str
    trace_id: str
    request_digest: str = ""
    answer_digest: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    started_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class FreshAnswer:
    """A complete answer for the cache: ``body``, or the ``chunks`` of a stream with its usage chunk; ``payloads``: how
    many of them stand before that.
    """

    body: bytes
    chunks: Sequence[bytes]
    usage: Usage
    price: PriceSnapshot
    receipt_id: str
    source_id: str
    upstream_model: str
    payloads: int = 0


@dataclass(frozen=True, slots=True)
class Landing:
    """What a flight lands with: an answer that was charged, as it was handed on. ``chunks``: of a stream.

    ``broken_off``: the error that it ended with after these chunks. ``answer_gone``: only that it was charged is known.
    """

    request_id: str
    receipt_id: str
    body: bytes = b""
    chunks: Sequence[bytes] = ()
    usage_chunk: bytes = b""
    usage: Usage | None = None
    charged_nano_usd: int = 0
    trace_id: str = ""
    broken_off: RouterError | None = None
    answer_gone: bool = False


class Ending(Enum):
    """What is known of the money where a lead ends without an answer; see AbandonRequest.Ending."""

    NOTHING_HELD = 1
    RELEASED = 2
    UNKNOWN = 3


class Catalog(Protocol):
    """The newest snapshot."""

    async def snapshot(self) -> CatalogSnapshot:
        """The newest snapshot, at once; only before the first has come is it waited for.

        Raises:
            CatalogUnavailable: none came in time.
        """


class ProviderKeys(Protocol):
    """The keys that organisations brought for sources."""

    async def of(self, org_id: str) -> OwnKeys:
        """Those in force, at most some seconds old.

        Raises:
            LedgerUnavailable: they can't be known, and nothing is to be called with another key in their place.
        """


class Ledger(Protocol):
    """The commands of the ledger that the router gives. Each may be sent again."""

    async def reserve(
        self,
        principal: Principal,
        request_id: str,
        *,
        amount_nano_usd: int,
        amount_tokens: int,
        ttl_ms: int,
        model: str,
    ) -> Hold:
        """Hold the worst case, in money and in tokens.

        Raises:
            HoldClosed: the request has had its hold.
            LedgerRefused: key, model or balance do not allow it.
            LedgerUnavailable: no answer; the hold may stand or not.
        """

    async def extend(self, org_id: str, request_id: str, *, ttl_ms: int) -> None:
        """Let an open hold end ``ttl_ms`` from now, and not before.

        Raises:
            HoldUnknown: there is none, or it is closed.
            LedgerRefused, LedgerUnavailable.
        """

    async def settle(self, org_id: str, request_id: str, facts: SettleFacts, attempts: Sequence[Attempt]) -> Charge:
        """Turn the hold into a charge; durable when this returns.

        Raises:
            LedgerRefused, LedgerUnavailable.
        """

    async def release(self, org_id: str, request_id: str, *, reason: str, attempts: Sequence[Attempt]) -> None:
        """Give the hold back.

        Raises:
            HoldUnknown: there is none, or it is closed.
            LedgerRefused, LedgerUnavailable.
        """


class Cache(Protocol):
    """Where complete answers are offered."""

    async def store(
        self,
        principal: Principal,
        ticket: CacheTicket,
        request_body: bytes,
        answer: FreshAnswer,
        fill: FillLead | None = None,
    ) -> None:
        """Offer an answer; the cache decides whether to keep it. It ends the flight ``fill`` either way.

        Raises:
            CacheUnavailable: it could not be reached, or refused.
        """


class Flights(Protocol):
    """Where the lead of a flight is renewed and ended. Every method raises ``CacheUnavailable``."""

    async def renew(self, ticket: FlightPass, lease_s: float) -> bool:
        """Prolong the lease; False: another leads."""

    async def land(self, ticket: FlightPass, landing: Landing) -> None:
        """End the flight with what came of it. Sent again, or after another, it changes nothing."""

    async def abandon(self, ticket: FlightPass, ending: Ending) -> None:
        """End the lead without an answer; nothing where it is not this pass' any more."""


@dataclass(frozen=True, slots=True)
class FillBegan:
    """What those who follow a stream are told first: who answers, what is held, and what a replay costs in parts of ten
    thousand.
    """

    source_id: str
    held_nano_usd: int
    replay_bps: int


@dataclass(frozen=True, slots=True)
class Attended:
    """Where a lead stands. ``live``: somebody wants the stream's chunks."""

    leads: bool
    followed: bool = False
    live: bool = False


class Fills(Protocol):
    """Those who wait for the answer to a request like theirs. Every method raises ``CacheUnavailable``."""

    async def attend(self, lead: FillLead, lease_s: float, *, wait_s: float) -> Attended:
        """Prolong the lease; wait so long for somebody who wants chunks."""

    async def publish(self, lead: FillLead, began: FillBegan | None, payloads: Sequence[bytes]) -> bool:
        """Hand chunks on; False: nobody will hear them."""

    async def quit(self, lead: FillLead, error: RouterError) -> None:
        """End the lead without an answer."""


@dataclass(frozen=True, slots=True)
class SourceCall:
    """What to ask of a source. ``body``: the client's, verbatim; ``timeout_s``: for the whole answer."""

    candidate: Candidate
    body: bytes
    timeout_s: float


class SourceClient(Protocol):
    """One wire format. Whoever stops waiting for an answer, by leaving the context or by cancelling, ends the call."""

    def stream(self, call: SourceCall) -> AbstractAsyncContextManager[AsyncIterator[StreamBatch]]:
        """Ask for a stream and wait for its first event; then a batch for each read, none of them empty.

        Raises:
            SourceFailure: on entering, the source did not begin; while reading, it broke off.
        """

    async def ask(self, call: SourceCall) -> PlainAnswer:
        """Ask for a whole answer.

        Raises:
            SourceFailure: there was none.
        """
