"""Payments with their refunds, what providers told of them, and for each organisation the account that providers give
credit from.

Revision: 0010, after the audit trail.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010_billing"
down_revision = "0009_usage"
branch_labels = None
depends_on = None

FIXED = {
    "payment": (
        *("payment_id", "org_id", "provider", "idempotency_key", "amount_nano_usd"),
        *("success_url", "cancel_url", "created_at_ms"),
    ),
    "payment_refund": (
        *("refund_id", "payment_id", "org_id", "idempotency_key", "amount_nano_usd", "reason", "created_at_ms"),
    ),
}
"""Columns that never change once a row is there."""

FORBIDDEN = {
    "payment": (
        "OLD.state IN ('paid', 'refunded') AND NEW.state NOT IN ('paid', 'refunded')",
        "OLD.provider_session_id <> '' AND NEW.provider_session_id <> OLD.provider_session_id",
        "OLD.provider_payment_id <> '' AND NEW.provider_payment_id <> OLD.provider_payment_id",
        "NEW.provider_returned_nano_usd < OLD.provider_returned_nano_usd",
        "NEW.uncovered_nano_usd < OLD.uncovered_nano_usd",
    ),
    "payment_refund": ("OLD.state <> 'pending' AND NEW.state <> OLD.state",),
}
"""Changes that never happen."""


def upgrade() -> None:
    """Brings the schema to this revision."""
    _create_payments()
    _create_refunds()
    _create_events()
    op.execute(
        "INSERT INTO account "
        "(account_id, org_id, kind, posted_nano_usd, reserved_nano_usd, hard_floor_nano_usd, version) "
        "SELECT org_id || '/provider_clearing', org_id, 'provider_clearing', 0, 0, 0, 0 FROM org"
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete history.
    """
    raise RuntimeError("payments are not taken back: their history would be lost")


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _bigints(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def _create_payments() -> None:
    op.create_table(
        "payment",
        *_texts("payment_id", "org_id", "provider", "idempotency_key"),
        *_bigints("amount_nano_usd"),
        *_texts("state", "success_url", "cancel_url", "provider_session_id", "provider_payment_id", "checkout_url"),
        *_bigints("returned_nano_usd", "provider_returned_nano_usd", "uncovered_nano_usd"),
        *_bigints("created_at_ms", "updated_at_ms"),
        sa.PrimaryKeyConstraint("payment_id", name=op.f("pk_payment")),
        sa.ForeignKeyConstraint(["org_id"], ["org.org_id"], name=op.f("fk_payment_org_id")),
        sa.UniqueConstraint("org_id", "idempotency_key", name=op.f("uq_payment_org_id_idempotency_key")),
        sa.CheckConstraint(
            "state IN ('created', 'paid', 'failed', 'expired', 'refunded')", name=op.f("ck_payment_state")
        ),
        sa.CheckConstraint("amount_nano_usd > 0", name=op.f("ck_payment_amount")),
        sa.CheckConstraint(
            "returned_nano_usd BETWEEN 0 AND amount_nano_usd AND uncovered_nano_usd BETWEEN 0 AND returned_nano_usd "
            "AND provider_returned_nano_usd BETWEEN 0 AND returned_nano_usd",
            name=op.f("ck_payment_returned"),
        ),
    )
    for columns in (
        ("org_id", "created_at_ms", "payment_id"),
        ("created_at_ms", "payment_id"),
        ("provider", "provider_session_id"),
        ("provider", "provider_payment_id"),
    ):
        op.create_index(f"ix_payment_{'_'.join(columns)}", "payment", list(columns))


def _create_refunds() -> None:
    op.create_table(
        "payment_refund",
        *_texts("refund_id", "payment_id", "org_id", "idempotency_key"),
        *_bigints("amount_nano_usd"),
        *_texts("reason", "state", "provider_refund_id"),
        *_bigints("created_at_ms", "updated_at_ms"),
        sa.PrimaryKeyConstraint("refund_id", name=op.f("pk_payment_refund")),
        sa.ForeignKeyConstraint(["payment_id"], ["payment.payment_id"], name=op.f("fk_payment_refund_payment_id")),
        sa.ForeignKeyConstraint(["org_id"], ["org.org_id"], name=op.f("fk_payment_refund_org_id")),
        sa.UniqueConstraint("org_id", "idempotency_key", name=op.f("uq_payment_refund_org_id_idempotency_key")),
        sa.CheckConstraint("state IN ('pending', 'done', 'failed')", name=op.f("ck_payment_refund_state")),
        sa.CheckConstraint("amount_nano_usd > 0", name=op.f("ck_payment_refund_amount")),
    )
    op.create_index("ix_payment_refund_payment_id", "payment_refund", ["payment_id"])


def _create_events() -> None:
    op.create_table(
        "external_event",
        *_texts("provider", "event_id", "kind", "about", "outcome", "org_id", "payment_id"),
        *_texts("session_id", "provider_payment_id"),
        *_bigints("amount_nano_usd"),
        *_texts("currency"),
        *_bigints("received_at_ms"),
        sa.PrimaryKeyConstraint("provider", "event_id", name=op.f("pk_external_event")),
    )
    op.create_index("ix_external_event_received_at_ms_event_id", "external_event", ["received_at_ms", "event_id"])


def _condition(table: str) -> str:
    return " OR ".join(
        [f"NEW.{column} <> OLD.{column}" for column in FIXED[table]] + [f"({rule})" for rule in FORBIDDEN[table]]
    )


def _protect_on_postgresql() -> None:
    op.execute(
        "CREATE TRIGGER external_event_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON external_event "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    for table in FIXED:
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_changes BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({_condition(table)}) EXECUTE FUNCTION refuse_change()"
        )


def _protect_on_sqlite() -> None:
    for change in ("UPDATE", "DELETE"):
        _refuse_on_sqlite("external_event", change, "")
    for table in FIXED:
        _refuse_on_sqlite(table, "DELETE", "")
        _refuse_on_sqlite(table, "UPDATE", f"WHEN {_condition(table)}")


def _refuse_on_sqlite(table: str, change: str, condition: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
    )
