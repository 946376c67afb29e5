"""Secrets of keys in a table of their own, so that a key can have two for a while, and a number for each change of a
key.

Revision: 0007, after the audit trail.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_keys"
down_revision = "0006_trail_in_log"
branch_labels = None
depends_on = None

FIXED = {
    "api_key": ("key_id", "org_id", "project_id", "created_at_ms"),
    "key_secret": ("hmac_sha256_hex", "pepper_version", "key_id", "created_at_ms"),
}
"""Columns that never change once a row is there."""
FORBIDDEN = {
    "api_key": (
        "OLD.revoked_at_ms <> 0 AND NEW.revoked_at_ms <> OLD.revoked_at_ms",
        "NEW.change_seq < OLD.change_seq",
    ),
    "key_secret": ("OLD.expires_at_ms <> 0 AND (NEW.expires_at_ms = 0 OR NEW.expires_at_ms > OLD.expires_at_ms)",),
}
"""Changes that never happen."""
KEY_TEXTS = ("key_id", "org_id", "project_id", "name", "prefix", "allowed_models")
KEY_TIMES = ("created_at_ms", "expires_at_ms", "revoked_at_ms")


def upgrade() -> None:
    """Brings the schema to this revision."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    # Whoever watched when a key of before was revoked has been told, so none of them has a change to be told of.
    if postgresql:
        op.execute("DROP TRIGGER api_key_changes ON api_key")
        _create_secrets("api_key")
        op.drop_index("ix_api_key_revoked_at_ms", "api_key")
        op.drop_column("api_key", "hmac_sha256_hex")
        op.drop_column("api_key", "pepper_version")
        op.add_column("api_key", sa.Column("change_seq", sa.BigInteger(), nullable=False, server_default="0"))
    else:
        _make_keys_anew_on_sqlite()
    changed = sa.text("change_seq > 0")
    op.create_index(
        "ix_api_key_change_seq", "api_key", ["change_seq"], unique=True, postgresql_where=changed, sqlite_where=changed
    )
    for table in FIXED:
        if postgresql:
            _protect_on_postgresql(table)
        else:
            _protect_on_sqlite(table)


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would take secrets from those who have them.
    """
    raise RuntimeError("the secrets of keys are not taken back: rotated ones would be lost")


def _create_secrets(digests: str) -> None:
    op.create_table(
        "key_secret",
        sa.Column("hmac_sha256_hex", sa.Text(), nullable=False),
        sa.Column("pepper_version", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hmac_sha256_hex", name=op.f("pk_key_secret")),
        sa.ForeignKeyConstraint(["key_id"], ["api_key.key_id"], name=op.f("fk_key_secret_key_id")),
    )
    op.execute(
        f"INSERT INTO key_secret SELECT hmac_sha256_hex, pepper_version, key_id, created_at_ms, 0 FROM {digests}"  # noqa: S608 - a name of ours
    )
    op.create_index("ix_key_secret_key_id", "key_secret", ["key_id"])


def _make_keys_anew_on_sqlite() -> None:
    """SQLite drops no column that is UNIQUE, so the rows go to a table without it, which takes the old one's name. No
    table may refer to the keys before that is done.
    """
    columns = ", ".join((*KEY_TEXTS, *KEY_TIMES, "policy"))
    op.create_table(
        "new_api_key",
        *(sa.Column(name, sa.Text(), nullable=False) for name in KEY_TEXTS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in KEY_TIMES),
        sa.Column("policy", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("change_seq", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_key")),
        sa.ForeignKeyConstraint(["org_id"], ["org.org_id"], name=op.f("fk_api_key_org_id")),
        sa.ForeignKeyConstraint(["project_id"], ["project.project_id"], name=op.f("fk_api_key_project_id")),
    )
    op.execute(f"INSERT INTO new_api_key ({columns}) SELECT {columns} FROM api_key")  # noqa: S608
    op.execute(
        "CREATE TEMPORARY TABLE digest AS SELECT hmac_sha256_hex, pepper_version, key_id, created_at_ms FROM api_key"
    )
    op.drop_table("api_key")
    op.rename_table("new_api_key", "api_key")
    op.create_index("ix_api_key_org_id_created_at_ms", "api_key", ["org_id", "created_at_ms"])
    _create_secrets("digest")
    op.execute("DROP TABLE digest")


def _protect_on_postgresql(table: str) -> None:
    if table != "api_key":  # whose rows are protected from being deleted since 0004
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        f"CREATE TRIGGER {table}_changes BEFORE UPDATE ON {table} FOR EACH ROW "
        f"WHEN ({_conditions(table)}) EXECUTE FUNCTION refuse_change()"
    )


def _protect_on_sqlite(table: str) -> None:
    for change, condition in (("DELETE", ""), ("UPDATE", f"WHEN {_conditions(table)}")):
        op.execute(
            f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
        )


def _conditions(table: str) -> str:
    fixed = [f"NEW.{column} <> OLD.{column}" for column in FIXED[table]]
    return " OR ".join(fixed + [f"({rule})" for rule in FORBIDDEN[table]])
