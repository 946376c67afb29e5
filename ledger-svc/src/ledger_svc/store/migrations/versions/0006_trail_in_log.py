"""Audit entries are leaves of the log, too. A leaf names what it is of by an id of either; every leaf, index and hash
stays. Audit entries that are there already get leaves from the writer's ``ReceiptLog.backfill``: a migration has no
keys to sign with.

Revision: 0006, after the audit trail.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_trail_in_log"
down_revision = "0005_audit_trail"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the schema to this revision."""
    if op.get_bind().dialect.name == "postgresql":
        _rename_on_postgresql()
    else:
        _rebuild_on_sqlite()
    op.create_index("ix_audit_log_created_at_ms_entry_id", "audit_log", ["created_at_ms", "entry_id"])
    op.execute("UPDATE log_head SET unlogged = unlogged + (SELECT count(*) FROM audit_log)")


def downgrade() -> None:
    """Raises:
    RuntimeError: always; leaves of the log would be lost.
    """
    raise RuntimeError("the log is not taken back: whoever holds a checkpoint would find it rewritten")


def _rename_on_postgresql() -> None:
    op.execute("ALTER TABLE log_leaf DROP CONSTRAINT fk_log_leaf_receipt_id")
    op.execute("ALTER TABLE log_leaf RENAME COLUMN receipt_id TO entry_id")
    op.execute("ALTER TABLE log_leaf RENAME CONSTRAINT uq_log_leaf_receipt_id TO uq_log_leaf_entry_id")


def _rebuild_on_sqlite() -> None:
    """SQLite has no other way to take a foreign key away. Dropping the table takes its triggers with it."""
    op.create_table(
        "log_leaf_new",
        sa.Column("leaf_index", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("leaf_index", name=op.f("pk_log_leaf")),
        sa.UniqueConstraint("entry_id", name=op.f("uq_log_leaf_entry_id")),
    )
    op.execute("INSERT INTO log_leaf_new SELECT leaf_index, receipt_id, kid, signature, leaf_hash FROM log_leaf")
    op.drop_table("log_leaf")
    op.rename_table("log_leaf_new", "log_leaf")
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER log_leaf_refuses_{change.lower()} BEFORE {change} ON log_leaf "
            "BEGIN SELECT RAISE(ABORT, 'log_leaf is history: its rows are never changed or deleted'); END"
        )
