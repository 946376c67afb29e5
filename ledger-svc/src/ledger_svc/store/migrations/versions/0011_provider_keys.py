"""Provider keys, and the data keys that their secrets are sealed under.

Revision: 0011, after the audit trail.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011_provider_keys"
down_revision = "0010_billing"
branch_labels = None
depends_on = None

STAYING = ("data_key", "provider_key")
FORBIDDEN = {
    "data_key": ("NEW.org_id <> OLD.org_id",),
    "provider_key": (
        *("NEW.provider_key_id <> OLD.provider_key_id", "NEW.org_id <> OLD.org_id", "NEW.source_id <> OLD.source_id"),
        *("NEW.name <> OLD.name", "NEW.created_at_ms <> OLD.created_at_ms", "NEW.changed_at_ms < OLD.changed_at_ms"),
        "(OLD.revoked_at_ms <> 0 AND (NEW.revoked_at_ms <> OLD.revoked_at_ms OR NEW.sealed <> OLD.sealed))",
    ),
}
"""Changes that never happen."""


def upgrade() -> None:
    """Brings the schema to this revision."""
    op.create_table(
        "data_key",
        *map(_text, ("org_id", "data_key_id", "kid", "wrapped")),
        _bigint("created_at_ms"),
        sa.PrimaryKeyConstraint("org_id", name=op.f("pk_data_key")),
        sa.ForeignKeyConstraint(["org_id"], ["org.org_id"], name=op.f("fk_data_key_org_id")),
    )
    op.create_index("ix_data_key_kid", "data_key", ["kid"])
    op.create_table(
        "provider_key",
        *map(_text, ("provider_key_id", "org_id", "source_id", "name", "hint")),
        _bigint("fallback"),
        _text("sealed"),
        *map(_bigint, ("created_at_ms", "rotated_at_ms", "revoked_at_ms", "changed_at_ms")),
        sa.PrimaryKeyConstraint("provider_key_id", name=op.f("pk_provider_key")),
        sa.ForeignKeyConstraint(["org_id"], ["org.org_id"], name=op.f("fk_provider_key_org_id")),
    )
    in_force = sa.text("revoked_at_ms = 0")
    op.create_index(
        "uq_provider_key_in_force_org_id_source_id",
        "provider_key",
        ["org_id", "source_id"],
        unique=True,
        postgresql_where=in_force,
        sqlite_where=in_force,
    )
    op.create_index(
        "ix_provider_key_org_id_created_at_ms_provider_key_id",
        "provider_key",
        ["org_id", "created_at_ms", "provider_key_id"],
    )
    op.create_index("ix_provider_key_changed_at_ms", "provider_key", ["changed_at_ms"])
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete secrets.
    """
    raise RuntimeError("provider keys are not taken back: their secrets would be lost")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _protect_on_postgresql() -> None:
    for table in STAYING:
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_changes BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({' OR '.join(FORBIDDEN[table])}) EXECUTE FUNCTION refuse_change()"
        )


def _protect_on_sqlite() -> None:
    for table in STAYING:
        for change, condition in (("DELETE", ""), ("UPDATE", f"WHEN {' OR '.join(FORBIDDEN[table])}")):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
            )
