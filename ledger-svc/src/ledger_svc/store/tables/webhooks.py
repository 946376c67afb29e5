"""Alerts, and the outbox: endpoints, events, deliveries and their attempts."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, text

from ledger_svc.store.tables.row import Row, bigint_column, table_of, text_column


class WebhookEndpointRow(Row, table=True):
    """Where events are sent. ``event_types`` is a JSON array; ``secret`` and ``previous_secret`` are sealed (see
    ``domain.lockbox``). A deleted one keeps no secret; it stays for the log of its deliveries.
    """

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        Index("ix_webhook_endpoint_org_id_created_at_ms_endpoint_id", "org_id", "created_at_ms", "endpoint_id"),
        Index(
            "ix_webhook_endpoint_live_key_id",
            "key_id",
            unique=True,
            postgresql_where=text("key_id <> '' AND deleted_at_ms = 0"),
            sqlite_where=text("key_id <> '' AND deleted_at_ms = 0"),
        ),
    )

    endpoint_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    key_id: str = text_column()
    url: str = text_column()
    event_types: str = text_column()
    description: str = text_column()
    disabled_reason: str = text_column()
    created_at_ms: int = bigint_column()
    failing_since_ms: int = bigint_column()
    previous_until_ms: int = bigint_column()
    secret: str = text_column()
    previous_secret: str = text_column()
    deleted_at_ms: int = bigint_column()


class WebhookEventRow(Row, table=True):
    """What is told, as it is sent. Goes with its last delivery."""

    __tablename__ = "webhook_event"

    event_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    key_id: str = text_column()
    event_type: str = text_column()
    created_at_ms: int = bigint_column()
    body: str = text_column()


class WebhookDeliveryRow(Row, table=True):
    """An event on its way to an endpoint. Kept for a while after its end."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed', 'cancelled')", name="state"),
        Index(
            "ix_webhook_delivery_pending_next_attempt_at_ms",
            "next_attempt_at_ms",
            postgresql_where=text("state = 'pending'"),
            sqlite_where=text("state = 'pending'"),
        ),
        Index(
            "ix_webhook_delivery_ended_finished_at_ms",
            "finished_at_ms",
            postgresql_where=text("state <> 'pending'"),
            sqlite_where=text("state <> 'pending'"),
        ),
        Index("ix_webhook_delivery_endpoint_id_created_at_ms", "endpoint_id", "created_at_ms", "delivery_id"),
        Index("ix_webhook_delivery_event_id", "event_id"),
    )

    delivery_id: str = text_column(primary_key=True)
    endpoint_id: str = text_column(foreign_key="webhook_endpoint.endpoint_id")
    org_id: str = text_column(foreign_key="org.org_id")
    event_id: str = text_column(foreign_key="webhook_event.event_id")
    event_type: str = text_column()
    created_at_ms: int = bigint_column()
    state: str = text_column()
    attempts: int = bigint_column()
    tries: int = bigint_column()
    next_attempt_at_ms: int = bigint_column()
    leased_until_ms: int = bigint_column()
    last_status: int = bigint_column()
    last_error: str = text_column()
    finished_at_ms: int = bigint_column()


class WebhookAttemptRow(Row, table=True):
    """One attempt of a delivery, from 1. Goes with it."""

    __tablename__ = "webhook_attempt"

    delivery_id: str = text_column(primary_key=True, foreign_key="webhook_delivery.delivery_id")
    ordinal: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at_ms: int = bigint_column()
    duration_ms: int = bigint_column()
    http_status: int = bigint_column()
    error: str = text_column()


class CapAlertRow(Row, table=True):
    """Spending reached a threshold of a cap, once in its period. Immutable."""

    __tablename__ = "cap_alert"
    __table_args__ = (Index("ix_cap_alert_org_id_created_at_ms_alert_id", "org_id", "created_at_ms", "alert_id"),)

    scope_id: str = text_column(primary_key=True)
    period: str = text_column(primary_key=True)
    unit: str = text_column(primary_key=True)
    starts_at_ms: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    threshold_percent: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    alert_id: str = text_column()
    org_id: str = text_column(foreign_key="org.org_id")
    scope: str = text_column()
    name: str = text_column()
    cap_limit: int = bigint_column()
    spent: int = bigint_column()
    ends_at_ms: int = bigint_column()
    created_at_ms: int = bigint_column()


class AlertWatchRow(Row, table=True):
    """One row: how far spending was looked at. ``leaf_index``: of the next receipt; ``caps_since_ms``: when the caps
    were set that are to be looked at.
    """

    __tablename__ = "alert_watch"
    __table_args__ = (CheckConstraint("watch_id = 1", name="single"),)

    watch_id: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    leaf_index: int = bigint_column()
    caps_since_ms: int = bigint_column()


WEBHOOK_ENDPOINT = table_of(WebhookEndpointRow)
WEBHOOK_EVENT = table_of(WebhookEventRow)
WEBHOOK_DELIVERY = table_of(WebhookDeliveryRow)
WEBHOOK_ATTEMPT = table_of(WebhookAttemptRow)
CAP_ALERT = table_of(CapAlertRow)
ALERT_WATCH = table_of(AlertWatchRow)
