"""The JSON of webhooks, their deliveries, and alerts."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from edge.wire.account.base import Answer, Body, ShownUsd
from meshkit.money import format_usd
from tallygate.ledger.v1 import ledger_pb2, webhooks_pb2

_URL = Field(
    min_length=1,
    max_length=2_000,
    description="HTTPS, with a name that leads to public addresses.",
    examples=["https://example.com/hooks/tallygate"],
)
_STATES: dict[int, Literal["pending", "delivered", "failed", "cancelled"]] = {
    webhooks_pb2.DELIVERY_STATE_PENDING: "pending",
    webhooks_pb2.DELIVERY_STATE_DELIVERED: "delivered",
    webhooks_pb2.DELIVERY_STATE_FAILED: "failed",
    webhooks_pb2.DELIVERY_STATE_CANCELLED: "cancelled",
}
_SCOPES: dict[int, Literal["key", "project", "organization"]] = {
    ledger_pb2.CAP_SCOPE_KEY: "key",
    ledger_pb2.CAP_SCOPE_PROJECT: "project",
    ledger_pb2.CAP_SCOPE_ORGANIZATION: "organization",
}
_PERIODS: dict[int, Literal["day", "month"]] = {ledger_pb2.CAP_PERIOD_DAY: "day", ledger_pb2.CAP_PERIOD_MONTH: "month"}
DEFAULT_OVERLAP_S, MAX_OVERLAP_S = 24 * 3_600, 30 * 24 * 3_600


class NewWebhook(Body):
    """A webhook to make."""

    url: str = _URL
    events: list[str] = Field(["*"], min_length=1, max_length=20, description='Types of events, or `"*"` for all.')
    description: str = Field("", max_length=500, description="For people.")
    key_id: str = Field("", max_length=200, description="Only what is about this API key; empty: all.")


class WebhookChange(Body):
    """What to change of a webhook; what is left out stays."""

    url: str | None = Field(None, min_length=1, max_length=2_000, description="Another URL.")
    events: list[str] | None = Field(None, min_length=1, max_length=20, description="Other types of events.")
    description: str | None = Field(None, max_length=500, description="Another description.")
    enabled: bool | None = Field(None, description="On or off. Off, what waits for it is cancelled.")

    @model_validator(mode="after")
    def _changes_something(self) -> WebhookChange:
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("give at least one of url, events, description, enabled, and none as null")
        return self


class SecretRotation(Body):
    """How long the secret before goes on signing."""

    overlap_s: int = Field(
        DEFAULT_OVERLAP_S, ge=0, le=MAX_OVERLAP_S, description="For so many seconds messages carry both signatures."
    )


class AlertWebhookChange(Body):
    """Where alerts of a key go."""

    url: str | None = Field(None, min_length=1, max_length=2_000, description="HTTPS.")
    clear: Literal[True] | None = Field(None, description="Send them nowhere.")

    @model_validator(mode="after")
    def _is_one(self) -> AlertWebhookChange:
        if (self.url is None) == (self.clear is None):
            raise ValueError('give either {"url": "https://..."} or {"clear": true}')
        return self


class Webhook(Answer):
    """Where events are sent."""

    id: str = Field(examples=["whk_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str
    key_id: str | None = Field(description="Only what is about this API key; null: all.")
    enabled: bool
    disabled_reason: str | None
    failing_since: int | None = Field(description="Since when every attempt has failed, Unix time in seconds.")
    previous_secret_until: int | None = Field(description="Until when the secret before the last rotation signs, too.")
    created_at: int = Field(description="Unix time in seconds.")

    @classmethod
    def fields_of(cls, webhook: webhooks_pb2.Webhook) -> dict[str, Any]:
        """As the ledger has it."""
        return {
            "id": webhook.webhook_id,
            "url": webhook.url,
            "events": list(webhook.event_types),
            "description": webhook.description,
            "key_id": webhook.key_id or None,
            "enabled": webhook.enabled,
            "disabled_reason": webhook.disabled_reason or None,
            "failing_since": _seconds(webhook.failing_since_ms),
            "previous_secret_until": _seconds(webhook.previous_secret_until_ms),
            "created_at": webhook.created_at_ms // 1_000,
        }

    @classmethod
    def of(cls, webhook: webhooks_pb2.Webhook) -> Webhook:
        """As the ledger has it."""
        return cls(**cls.fields_of(webhook))


class WebhookWithSecret(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="Verifies the signatures. Keep it: it is not shown again.", examples=["whsec_..."])


class DeletedWebhook(Answer):
    """It is gone."""

    id: str
    object: Literal["webhook"] = "webhook"
    deleted: Literal[True] = True


class AlertWebhook(Answer):
    """Where alerts of a key go."""

    object: Literal["alert_webhook"] = "alert_webhook"
    key_id: str
    url: str | None = Field(description="null: nowhere of its own.")
    webhook_id: str | None = Field(description="Its deliveries are at /v1/webhooks/{webhook_id}/deliveries.")
    enabled: bool
    secret: str | None = Field(None, description="Shown once, in the answer that made it.")

    @classmethod
    def of(cls, key_id: str, webhook: webhooks_pb2.Webhook | None, secret: str = "") -> AlertWebhook:
        """As the ledger has it."""
        if webhook is None:
            return cls(key_id=key_id, url=None, webhook_id=None, enabled=False)
        return cls(
            key_id=key_id,
            url=webhook.url,
            webhook_id=webhook.webhook_id,
            enabled=webhook.enabled,
            secret=secret or None,
        )


class Delivery(Answer):
    """An event on its way to a webhook."""

    id: str = Field(examples=["dlv_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook_id: str
    event_id: str = Field(description="Sent as `webhook-id` with each attempt.")
    event: str = Field(description="The type of the event.")
    state: Literal["pending", "delivered", "failed", "cancelled"]
    attempts: int = Field(description="Attempts that were made.")
    next_attempt_at: int | None = Field(description="Unix time in seconds; null: there is none.")
    last_status: int | None = Field(description="HTTP status of the last attempt; null: it had no answer.")
    last_error: str | None = Field(description="Why it failed.")
    created_at: int
    finished_at: int | None

    @classmethod
    def fields_of(cls, delivery: webhooks_pb2.Delivery) -> dict[str, Any]:
        """As the ledger has it."""
        return {
            "id": delivery.delivery_id,
            "webhook_id": delivery.webhook_id,
            "event_id": delivery.event_id,
            "event": delivery.event_type,
            "state": _STATES[delivery.state],
            "attempts": delivery.attempts,
            "next_attempt_at": _seconds(delivery.next_attempt_at_ms),
            "last_status": delivery.last_status or None,
            "last_error": delivery.last_error or None,
            "created_at": delivery.created_at_ms // 1_000,
            "finished_at": _seconds(delivery.finished_at_ms),
        }

    @classmethod
    def of(cls, delivery: webhooks_pb2.Delivery) -> Delivery:
        """As the ledger has it."""
        return cls(**cls.fields_of(delivery))


class DeliveryAttempt(Answer):
    """One attempt."""

    at: int = Field(description="Begun at, Unix time in seconds.")
    duration_ms: int
    status: int | None = Field(description="HTTP status; null: there was no answer.")
    error: str | None = Field(description="Why it failed; null: it did not.")


class DeliveryWithAttempts(Delivery):
    """A delivery, with what was sent and each attempt."""

    payload: dict[str, Any] = Field(description="What is sent.")
    attempt_log: list[DeliveryAttempt] = Field(description="In order.")

    @classmethod
    def of_answer(cls, answer: webhooks_pb2.GetDeliveryResponse) -> DeliveryWithAttempts:
        """As the ledger has it."""
        attempts = [
            DeliveryAttempt(
                at=attempt.at_ms // 1_000,
                duration_ms=attempt.duration_ms,
                status=attempt.http_status or None,
                error=attempt.error or None,
            )
            for attempt in answer.attempts
        ]
        return cls(**cls.fields_of(answer.delivery), payload=orjson.loads(answer.body), attempt_log=attempts)


class Alert(Answer):
    """Spending reached a threshold of a cap. Each threshold is told once in a period."""

    id: str = Field(examples=["alr_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["alert"] = "alert"
    scope: Literal["key", "project", "organization"]
    scope_id: str
    name: str = Field(description="Of the key, project or organisation, then.")
    period: Literal["day", "month"]
    unit: Literal["usd", "tokens"]
    threshold_percent: int = Field(description="50, 80 or 100.")
    cap_usd: ShownUsd | None = Field(description="The cap, then; null: it is one in tokens.")
    spent_usd: ShownUsd | None = Field(description="What was spent, then.")
    cap_tokens: int | None = Field(description="The cap, then; null: it is one in dollars.")
    spent_tokens: int | None = Field(description="What was used, then.")
    resets_at: int = Field(description="When the period ends, Unix time in seconds.")
    created_at: int

    @classmethod
    def of(cls, alert: webhooks_pb2.Alert) -> Alert:
        """As the ledger has it."""
        in_usd = alert.unit == ledger_pb2.CAP_UNIT_NANO_USD
        return cls(
            id=alert.alert_id,
            scope=_SCOPES[alert.scope],
            scope_id=alert.scope_id,
            name=alert.name,
            period=_PERIODS[alert.period],
            unit="usd" if in_usd else "tokens",
            threshold_percent=alert.threshold_percent,
            cap_usd=format_usd(alert.limit) if in_usd else None,
            spent_usd=format_usd(alert.spent) if in_usd else None,
            cap_tokens=None if in_usd else alert.limit,
            spent_tokens=None if in_usd else alert.spent,
            resets_at=alert.resets_at_ms // 1_000,
            created_at=alert.created_at_ms // 1_000,
        )


def _seconds(at_ms: int) -> int | None:
    return at_ms // 1_000 if at_ms else None
