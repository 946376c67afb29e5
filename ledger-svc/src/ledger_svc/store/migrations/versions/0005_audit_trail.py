"""The audit trail, and what a key may do beyond its models and its time.

Revision: 0005, after caps and lots.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_audit_trail"
down_revision = "0004_caps_and_lots"
branch_labels = None
depends_on = None

TEXTS_BEFORE, TEXTS_AFTER = ("entry_id", "org_id"), ("actor_kind", "actor_id", "action", "subject", "document")


def upgrade() -> None:
    """Brings the schema to this revision."""
    op.create_table(
        "audit_log",
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS_BEFORE),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS_AFTER),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_org_id_created_at_ms_entry_id", "audit_log", ["org_id", "created_at_ms", "entry_id"])
    op.add_column("api_key", sa.Column("policy", sa.Text(), nullable=False, server_default="{}"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER audit_log_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_log_refuses_{change.lower()} BEFORE {change} ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'audit_log is history: its rows are never changed or deleted'); END"
        )


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete history.
    """
    raise RuntimeError("the audit trail is not taken back: its history would be lost")
