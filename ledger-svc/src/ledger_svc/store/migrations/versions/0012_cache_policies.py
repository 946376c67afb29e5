"""Cache policies of organisations, projects and keys, and a number for each change that an organisation's keys inherit.

Revision: 0012, after provider keys.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_cache_policies"
down_revision = "0011_provider_keys"
branch_labels = None
depends_on = None

TABLES = ("org", "project", "api_key")


def upgrade() -> None:
    """Brings the schema to this revision."""
    for table in TABLES:
        op.add_column(table, sa.Column("cache_policy", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("org", sa.Column("change_seq", sa.BigInteger(), nullable=False, server_default="0"))
    changed = sa.text("change_seq > 0")
    op.create_index(
        "ix_org_change_seq", "org", ["change_seq"], unique=True, postgresql_where=changed, sqlite_where=changed
    )
    # A key whose cache was on was so by default, and is so still unless its project or organisation says otherwise.
    op.execute("""UPDATE api_key SET cache_policy = '{"default":"off"}' WHERE policy LIKE '%"cache_default":"off"%'""")


def downgrade() -> None:
    """Raises:
    RuntimeError: always; keys that were told to keep out of the cache would use it.
    """
    raise RuntimeError("cache policies are not taken back: what was to be kept out of the cache would be stored again")
