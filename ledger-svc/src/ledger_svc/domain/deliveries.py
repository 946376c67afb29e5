"""The delivery of an event to an endpoint: attempts, when the next one is due, and what an answer means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

GONE = 410

SCHEDULE_S = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
"""How long after the failure before it each attempt is made (Standard Webhooks, "Deliverability and reliability")."""
JITTER = 0.1
"""Up to so much of a wait is added, so that what failed together does not come again together."""
MAX_ERROR_CHARS = 200


class DeliveryState(StrEnum):
    """How far it is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to an endpoint. Times in Unix milliseconds, 0: never.

    ``attempts``: made in all. ``tries``: of them, since it was last queued; the place in the schedule.
    ``leased_until_ms``: an attempt is under way; unless it is recorded by then, it is made again.
    """

    delivery_id: str
    endpoint_id: str
    org_id: str
    event_id: str
    event_type: str
    created_at_ms: int
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    tries: int = 0
    next_attempt_at_ms: int = 0
    leased_until_ms: int = 0
    last_status: int = 0
    last_error: str = ""
    finished_at_ms: int = 0

    def queued_again(self, now_ms: int) -> Delivery:
        """To be attempted at once, with the whole schedule before it. One that is under way stays as it is."""
        if self.state is DeliveryState.PENDING and now_ms < self.leased_until_ms:
            return self
        return replace(
            self,
            state=DeliveryState.PENDING,
            tries=0,
            next_attempt_at_ms=now_ms,
            leased_until_ms=0,
            finished_at_ms=0,
        )

    def after(self, attempt: Attempt, jitter: float) -> Delivery:
        """What an attempt makes of it. ``jitter`` in 0..1. One that was cancelled meanwhile stays so, unless it got
        through.
        """
        made = replace(
            self,
            attempts=self.attempts + 1,
            tries=self.tries + 1,
            leased_until_ms=0,
            last_status=attempt.http_status,
            last_error=attempt.error,
        )
        ended_at_ms = attempt.at_ms + attempt.duration_ms
        if attempt.succeeded:
            return replace(made, state=DeliveryState.DELIVERED, next_attempt_at_ms=0, finished_at_ms=ended_at_ms)
        if self.state is not DeliveryState.PENDING:
            return made
        if made.tries >= len(SCHEDULE_S) or attempt.http_status == GONE:
            return replace(made, state=DeliveryState.FAILED, next_attempt_at_ms=0, finished_at_ms=ended_at_ms)
        wait_ms = int(SCHEDULE_S[made.tries] * 1_000 * (1 + JITTER * jitter))
        return replace(made, next_attempt_at_ms=ended_at_ms + wait_ms)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. ``http_status`` 0: there was no answer. ``error``: why it did not succeed, for the endpoint's owner."""

    at_ms: int
    duration_ms: int
    http_status: int
    error: str

    @property
    def succeeded(self) -> bool:
        """Whether the endpoint took it."""
        return 200 <= self.http_status < 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said. ``http_status`` 0: nothing. ``error`` "": it took the message."""

    http_status: int
    error: str = ""
