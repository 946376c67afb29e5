"""Webhook endpoints with their outbox, and alerts of caps.

Revision: 0008, after the audit trail.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008_webhooks"
down_revision = "0007_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the schema to this revision."""
    _create_outbox()
    _create_alerts()
    _protect_alerts()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete history.
    """
    raise RuntimeError("webhooks and alerts are not taken back: their history would be lost")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _foreign(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.{column}"], name=op.f(f"fk_{table}_{column}"))


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _create_outbox() -> None:
    op.create_table(
        "webhook_endpoint",
        *map(_text, ("endpoint_id", "org_id", "key_id", "url", "event_types", "description", "disabled_reason")),
        *map(_bigint, ("created_at_ms", "failing_since_ms", "previous_until_ms")),
        *map(_text, ("secret", "previous_secret")),
        _bigint("deleted_at_ms"),
        _primary("webhook_endpoint", "endpoint_id"),
        _foreign("webhook_endpoint", "org_id", "org"),
    )
    op.create_index(
        "ix_webhook_endpoint_org_id_created_at_ms_endpoint_id",
        "webhook_endpoint",
        ["org_id", "created_at_ms", "endpoint_id"],
    )
    _partial_index(
        "ix_webhook_endpoint_live_key_id",
        "webhook_endpoint",
        ["key_id"],
        "key_id <> '' AND deleted_at_ms = 0",
        unique=True,
    )
    op.create_table(
        "webhook_event",
        *map(_text, ("event_id", "org_id", "key_id", "event_type")),
        _bigint("created_at_ms"),
        _text("body"),
        _primary("webhook_event", "event_id"),
        _foreign("webhook_event", "org_id", "org"),
    )
    _create_deliveries()


def _create_deliveries() -> None:
    table = "webhook_delivery"
    op.create_table(
        table,
        *map(_text, ("delivery_id", "endpoint_id", "org_id", "event_id", "event_type")),
        _bigint("created_at_ms"),
        _text("state"),
        *map(_bigint, ("attempts", "tries", "next_attempt_at_ms", "leased_until_ms", "last_status")),
        _text("last_error"),
        _bigint("finished_at_ms"),
        _primary(table, "delivery_id"),
        _foreign(table, "endpoint_id", "webhook_endpoint"),
        _foreign(table, "org_id", "org"),
        _foreign(table, "event_id", "webhook_event"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'cancelled')", name=op.f(f"ck_{table}_state")),
    )
    _partial_index(f"ix_{table}_pending_next_attempt_at_ms", table, ["next_attempt_at_ms"], "state = 'pending'")
    _partial_index(f"ix_{table}_ended_finished_at_ms", table, ["finished_at_ms"], "state <> 'pending'")
    op.create_index(f"ix_{table}_endpoint_id_created_at_ms", table, ["endpoint_id", "created_at_ms", "delivery_id"])
    op.create_index(f"ix_{table}_event_id", table, ["event_id"])
    op.create_table(
        "webhook_attempt",
        _text("delivery_id"),
        *map(_bigint, ("ordinal", "at_ms", "duration_ms", "http_status")),
        _text("error"),
        _primary("webhook_attempt", "delivery_id", "ordinal"),
        _foreign("webhook_attempt", "delivery_id", "webhook_delivery"),
    )


def _create_alerts() -> None:
    op.create_index("ix_cap_set_at_ms", "cap", ["set_at_ms"])
    op.create_table(
        "cap_alert",
        *map(_text, ("scope_id", "period", "unit")),
        *map(_bigint, ("starts_at_ms", "threshold_percent")),
        *map(_text, ("alert_id", "org_id", "scope", "name")),
        *map(_bigint, ("cap_limit", "spent", "ends_at_ms", "created_at_ms")),
        _primary("cap_alert", "scope_id", "period", "unit", "starts_at_ms", "threshold_percent"),
        _foreign("cap_alert", "org_id", "org"),
    )
    op.create_index("ix_cap_alert_org_id_created_at_ms_alert_id", "cap_alert", ["org_id", "created_at_ms", "alert_id"])
    op.create_table(
        "alert_watch",
        *map(_bigint, ("watch_id", "leaf_index", "caps_since_ms")),
        _primary("alert_watch", "watch_id"),
        sa.CheckConstraint("watch_id = 1", name=op.f("ck_alert_watch_single")),
    )
    # What was spent before is told of with what is spent next.
    op.execute(
        "INSERT INTO alert_watch SELECT 1, size, (SELECT COALESCE(MAX(set_at_ms) + 1, 0) FROM cap) FROM log_head"
    )


def _protect_alerts() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER cap_alert_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON cap_alert "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER cap_alert_refuses_{change.lower()} BEFORE {change} ON cap_alert "
            "BEGIN SELECT RAISE(ABORT, 'cap_alert is history: its rows are never changed or deleted'); END"
        )
