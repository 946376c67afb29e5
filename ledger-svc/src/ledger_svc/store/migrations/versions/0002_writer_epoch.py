"""The writer's epoch: one row that every transaction of the writer checks and a takeover raises.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_writer_epoch"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the schema to this revision."""
    table = op.create_table(
        "writer_epoch",
        sa.Column("singleton", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("pk_writer_epoch")),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_writer_epoch_singleton")),
    )
    op.bulk_insert(table, [{"singleton": 1, "epoch": 0}])


def downgrade() -> None:
    """Takes this revision back."""
    op.drop_table("writer_epoch")
