"""Usage: sums over requests, how far they go, and requests that failed. The sums begin empty: the writer makes them up
from the receipts that are there, see ``store.usage``.

Revision: 0009, after the audit trail.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009_usage"
down_revision = "0008_webhooks"
branch_labels = None
depends_on = None

COUNTS = (
    *("requests", "errors", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    *("reasoning_tokens", "charged_nano_usd", "saved_nano_usd", "absorbed_nano_usd"),
)


def upgrade() -> None:
    """Brings the schema to this revision."""
    op.create_table(
        "usage_sum",
        *map(_text, ("org_id", "tag_key", "period")),
        _bigint("starts_at_ms"),
        *map(_text, ("group_id", "tag_value", "project_id", "key_id", "model", "source_id", "tier", "served_mode")),
        *map(_bigint, COUNTS),
        sa.Column("latencies", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            *("org_id", "tag_key", "period", "starts_at_ms", "group_id"), name=op.f("pk_usage_sum")
        ),
    )
    op.create_table(
        "usage_cursor",
        *map(_bigint, ("cursor_id", "next_leaf", "next_failure")),
        sa.PrimaryKeyConstraint("cursor_id", name=op.f("pk_usage_cursor")),
        sa.CheckConstraint("cursor_id = 1", name=op.f("ck_usage_cursor_single")),
    )
    op.execute("INSERT INTO usage_cursor VALUES (1, 0, 0)")
    op.create_table(
        "failed_request",
        _bigint("ordinal"),
        *map(_text, ("org_id", "request_id", "project_id", "key_id", "requested_model", "model")),
        _bigint("http_status"),
        _text("error_code"),
        _bigint("latency_ms"),
        *map(_text, ("trace_id", "tags")),
        _bigint("at_ms"),
        sa.PrimaryKeyConstraint("ordinal", name=op.f("pk_failed_request")),
        sa.UniqueConstraint("org_id", "request_id", name=op.f("uq_failed_request_org_id_request_id")),
    )
    op.create_index("ix_failed_request_org_id_at_ms_request_id", "failed_request", ["org_id", "at_ms", "request_id"])
    op.create_index("ix_correction_org_id", "correction", ["org_id"])
    _protect(postgresql=op.get_bind().dialect.name == "postgresql")


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete history.
    """
    raise RuntimeError("usage is not taken back: the history of failed requests would be lost")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _protect(*, postgresql: bool) -> None:
    if postgresql:
        op.execute(
            "CREATE TRIGGER failed_request_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON failed_request "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE TRIGGER usage_cursor_stays BEFORE DELETE OR TRUNCATE ON usage_cursor "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for table, change in (("failed_request", "UPDATE"), ("failed_request", "DELETE"), ("usage_cursor", "DELETE")):
        op.execute(
            f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
        )
