"""The receipt log: leaves, stored subtrees, checkpoints. Receipts that are there already get leaves from the writer's
``ReceiptLog.backfill``: a migration has no keys to sign with.

Revision: 0003, after the writer's epoch.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003_receipt_log"
down_revision = "0002_writer_epoch"
branch_labels = None
depends_on = None

HISTORY = ("log_leaf", "log_tile", "checkpoint")


def upgrade() -> None:
    """Brings the schema to this revision."""
    op.create_table(
        "log_head",
        *map(_bigint, ("log_id", "size", "unlogged")),
        sa.PrimaryKeyConstraint("log_id", name=op.f("pk_log_head")),
        sa.CheckConstraint("log_id = 1", name=op.f("ck_log_head_single")),
    )
    op.execute("INSERT INTO log_head (log_id, size, unlogged) SELECT 1, 0, count(*) FROM receipt")
    op.create_table(
        "log_leaf",
        _bigint("leaf_index"),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("kid", sa.Text(), nullable=False),
        *map(_binary, ("signature", "leaf_hash")),
        sa.PrimaryKeyConstraint("leaf_index", name=op.f("pk_log_leaf")),
        sa.ForeignKeyConstraint(["receipt_id"], ["receipt.receipt_id"], name=op.f("fk_log_leaf_receipt_id")),
        sa.UniqueConstraint("receipt_id", name=op.f("uq_log_leaf_receipt_id")),
    )
    op.create_table(
        "log_tile",
        *map(_bigint, ("level", "tile_index")),
        _binary("root_hash"),
        sa.PrimaryKeyConstraint("level", "tile_index", name=op.f("pk_log_tile")),
    )
    op.create_table(
        "checkpoint",
        _bigint("size"),
        *map(_binary, ("root_hash", "frontier")),
        sa.Column("note", sa.Text(), nullable=False),
        _bigint("created_at_ms"),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_checkpoint")),
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete the log.
    """
    raise RuntimeError("the log is not taken back: whoever holds a checkpoint would find it rewritten")


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _binary(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _protect_on_postgresql() -> None:
    for table in HISTORY:
        op.execute(
            f"CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER log_head_stays BEFORE DELETE OR TRUNCATE ON log_head "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER log_head_grows BEFORE UPDATE ON log_head FOR EACH ROW "
        "WHEN (NEW.size < OLD.size) EXECUTE FUNCTION refuse_change()"
    )


def _protect_on_sqlite() -> None:
    changes = [(table, change, "") for table in HISTORY for change in ("UPDATE", "DELETE")]
    changes += [("log_head", "DELETE", ""), ("log_head", "UPDATE", "WHEN NEW.size < OLD.size")]
    for table, change, condition in changes:
        op.execute(
            f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
        )
