"""What usage needs of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.charges import ServedMode, Tags
from ledger_svc.domain.journal import TransferKind
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.usage import Question, Usage


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that ended in an error. ``http_status`` 200: after its answer had begun."""

    org_id: str
    request_id: str
    project_id: str
    key_id: str
    requested_model: str
    model: str
    http_status: int
    error_code: str
    latency_ms: int
    trace_id: str
    tags: Tags
    at_ms: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """One request: its receipt, or how it failed, or both where its answer was broken off. ``latency_ms``: from its
    arrival at the edge.
    """

    at_ms: int
    latency_ms: int
    receipt: Receipt | None = None
    failure: Failure | None = None

    @property
    def position(self) -> tuple[int, str]:
        """Where it stands in a list."""
        if self.receipt is not None:
            return self.at_ms, self.receipt.receipt_id
        assert self.failure is not None
        return self.at_ms, self.failure.request_id


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests: from a moment on and before another, Unix milliseconds. ``to_ms`` 0: to the end; texts "": any.
    ``ok``: ended with an answer; None: or not.
    """

    org_id: str
    from_ms: int = 0
    to_ms: int = 0
    project_id: str = ""
    key_id: str = ""
    model: str = ""
    source_id: str = ""
    served_mode: ServedMode | None = None
    ok: bool | None = None
    tag: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Movement:
    """One posting on one of the customer's accounts, in nano-USD. ``receipt_id``: charged, or corrected."""

    transfer_id: str
    at_ms: int
    kind: TransferKind
    credit_kind: CreditKind
    version: int
    amount_nano_usd: int
    receipt_id: str


@dataclass(frozen=True, slots=True)
class Span:
    """Versions of a customer's two accounts, after which a listing goes on and with which it ends; and the balance
    before and after it, in nano-USD.
    """

    after: tuple[int, int]
    until: tuple[int, int]
    opening_nano_usd: int = 0
    closing_nano_usd: int = 0


class UsageStore(Protocol):
    """Sums over requests, and requests."""

    async def fold(self, *, limit: int) -> int:
        """Takes at most ``limit`` receipts and as many failures into the sums; gives how many there were.

        Raises:
            LedgerUnavailable.
        """

    async def usage(self, question: Question) -> Usage:
        """The sums of one moment, with what has not been taken into them yet.

        Raises:
            LedgerUnavailable: that is too much; the sums are being made up.
        """

    async def rebuild(self) -> int:
        """Throws all sums away; gives how many leaves the log has."""

    async def record(self, failures: Sequence[Failure]) -> int:
        """Keeps failures; gives how many are new."""


class RequestStore(Protocol):
    """Single requests."""

    async def requests(
        self, asked: RequestFilter, *, limit: int, before: tuple[int, str] | None
    ) -> list[FinishedRequest]:
        """At most ``limit``, newest first; ``before``: those behind this position."""

    async def request(self, org_id: str, request_id: str) -> FinishedRequest:
        """Raises:
        NotFound: also where it is another organisation's.
        """


class MovementStore(Protocol):
    """The movements of a balance."""

    async def span(self, org_id: str, *, from_ms: int, to_ms: int) -> Span:
        """All that there is now, with the balance before ``from_ms`` and before ``to_ms`` (0: now).

        Raises:
            NotFound: no such organisation.
        """

    async def movements(
        self, org_id: str, span: Span, *, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[Movement], tuple[int, int] | None]:
        """At most ``limit`` of them, and after which versions the rest comes; None: there is none."""
