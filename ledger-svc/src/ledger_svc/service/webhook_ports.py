"""What webhooks and alerts need of a store, and of what sends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.alerts import Alert
from ledger_svc.domain.deliveries import Answer, Attempt, Delivery
from ledger_svc.domain.destinations import Destination
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import Endpoint, Event, Secrets

Change = Callable[[Endpoint], Endpoint]
ChangeEntry = Callable[[Endpoint, Endpoint], TrailEntry]
"""What to tell of a change, by what the endpoint was before and is after."""


class Endpoints(Protocol):
    """Where events are sent. Each change is told in the audit trail, in its own transaction. What is another
    organisation's, or deleted, is not found.
    """

    async def create(self, endpoint: Endpoint, secret: str, entry: TrailEntry) -> None:
        """Stores an endpoint with its sealed secret.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: it has too many, or the key has one already.
        """

    async def page(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[Endpoint]:
        """At most ``limit`` endpoints, oldest first; ``after``: those younger than this (created_at_ms, id)."""

    async def endpoint(self, org_id: str, endpoint_id: str) -> Endpoint:
        """Raises:
        NotFound.
        """

    async def of_key(self, org_id: str, key_id: str) -> Endpoint | None:
        """The alert webhook of a key."""

    async def update(self, org_id: str, endpoint_id: str, change: Change, entry_of: ChangeEntry) -> Endpoint:
        """Changes an endpoint and gives it as it is then. What is not yet delivered to one that is switched off is
        cancelled; where nothing changes nothing is told.

        Raises:
            NotFound.
        """

    async def delete(self, org_id: str, endpoint_id: str, entry_of: Callable[[Endpoint], TrailEntry]) -> None:
        """Ends an endpoint and what is on its way to it.

        Raises:
            NotFound.
        """

    async def rotate(
        self, org_id: str, endpoint_id: str, secret: str, *, previous_until_ms: int, entry_of: ChangeEntry
    ) -> Endpoint:
        """Gives it a new sealed secret; the one before signs, too, until then.

        Raises:
            NotFound.
        """


@dataclass(frozen=True, slots=True)
class Message:
    """What an attempt sends."""

    delivery: Delivery
    url: str
    secrets: Secrets
    body: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt. ``jitter`` in 0..1."""

    delivery: Delivery
    attempt: Attempt
    jitter: float


class Outbox(Protocol):
    """Events on their way."""

    async def send_to(self, org_id: str, endpoint_id: str, event: Event, delivery_id: str) -> Delivery:
        """Queues an event for one endpoint.

        Raises:
            NotFound.
            InvalidRequest: the endpoint is off, or has too much waiting.
        """

    async def page(
        self, org_id: str, endpoint_id: str, *, limit: int, before: tuple[int, str] | None
    ) -> list[Delivery]:
        """At most ``limit`` deliveries, newest first; ``before``: those older than this (created_at_ms, id).

        Raises:
            NotFound: no such endpoint.
        """

    async def delivery(self, org_id: str, endpoint_id: str, delivery_id: str) -> tuple[Delivery, list[Attempt], str]:
        """A delivery, its attempts in order, and the body that is sent.

        Raises:
            NotFound.
        """

    async def queue_again(self, org_id: str, endpoint_id: str, delivery_id: str, now_ms: int) -> Delivery:
        """Has a delivery attempted at once, whatever became of it.

        Raises:
            NotFound.
            InvalidRequest: the endpoint is off.
        """

    async def release(self) -> None:
        """Ends every lease. Called by who has become the writer: nobody else can record what came of an attempt."""

    async def due(
        self, now_ms: int, *, limit: int, busy_endpoints: Collection[str], busy_orgs: Collection[str]
    ) -> list[Delivery]:
        """At most ``limit`` deliveries whose next attempt is due and not under way, the longest due first, but for
        those to what is busy.
        """

    async def claim(self, delivery_ids: Sequence[str], *, now_ms: int, leased_until_ms: int) -> list[Message]:
        """Takes on those that are still due, until a moment after which another may."""

    async def record(self, outcomes: Sequence[Outcome], *, failing_ms: int, entry_of: ChangeEntry) -> None:
        """Writes what came of attempts. An endpoint is switched off when it says that it is gone, or when every attempt
        has failed for ``failing_ms``; that is told in the audit trail.
        """

    async def prune(self, before_ms: int, *, limit: int) -> int:
        """Forgets at most ``limit`` deliveries that ended before a moment; gives their number."""


class Carrier(Protocol):
    """Takes messages to endpoints."""

    def check_url(self, url: str) -> Destination:
        """Raises:
        InvalidRequest: nothing is ever sent there.
        """

    async def check_reachable(self, destination: Destination) -> None:
        """Resolves its name; does not connect.

        Raises:
            RefusedDestination: nothing would be sent there now.
        """

    async def carry(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Sends a message, within bounds of time and size. Never fails."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far spending was looked at: up to a leaf of the log, and to caps set before a moment."""

    leaf_index: int
    caps_since_ms: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. ``caps``: revisions of caps that were looked at because they are new."""

    alerts: list[Alert]
    leaf_index: int
    has_more: bool
    caps: list[CapRevision]


CapRevision = tuple[str, str, str, int, int]
"""(scope id, period, unit, revision, set at)."""


class Alerts(Protocol):
    """Thresholds of caps that spending has reached."""

    async def watermark(self) -> Watermark:
        """As it was last stored."""

    async def look(self, mark: Watermark, known_caps: Collection[CapRevision], now_ms: int) -> Look:
        """What was reached, and not told, by receipts from a leaf on and by caps set since then that are not known. A
        bounded number of receipts at once.
        """

    async def tell(self, alerts: Sequence[Alert], mark: Watermark) -> list[Alert]:
        """Writes the alerts that are new, with their events and deliveries, and the watermark; gives the new ones."""

    async def page(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Alert]:
        """At most ``limit`` alerts, newest first; ``before``: those older than this (created_at_ms, alert_id)."""
