"""The books: organisations and keys, accounts, transfers with postings, holds with attempts, receipts.

Revision: 0001, the first.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

HISTORY = ("transfer", "posting", "attempt", "receipt")


def upgrade() -> None:
    """Brings the schema to this revision."""
    _create_directory()
    _create_journal()
    _create_holds()
    _create_receipts()
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete the books.
    """
    raise RuntimeError("the first revision is not taken back: it would delete the books")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def _foreign(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.{column}"], name=op.f(f"fk_{table}_{column}"))


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _partial(name: str, table: str, columns: list[str], condition: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))


def _create_directory() -> None:
    op.create_table("org", _text("org_id"), _text("name"), _bigint("created_at_ms"), _primary("org", "org_id"))
    op.create_table(
        "project",
        _text("project_id"),
        _text("org_id"),
        _text("name"),
        _bigint("created_at_ms"),
        _primary("project", "project_id"),
        _foreign("project", "org_id", "org"),
        _unique("project", "org_id", "name"),
    )
    op.create_table(
        "api_key",
        *map(_text, ("key_id", "org_id", "project_id", "name", "prefix", "hmac_sha256_hex")),
        _bigint("pepper_version"),
        _text("allowed_models"),
        *map(_bigint, ("created_at_ms", "expires_at_ms", "revoked_at_ms")),
        _primary("api_key", "key_id"),
        _foreign("api_key", "org_id", "org"),
        _foreign("api_key", "project_id", "project"),
        _unique("api_key", "hmac_sha256_hex"),
    )
    op.create_index("ix_api_key_org_id_created_at_ms", "api_key", ["org_id", "created_at_ms"])
    _partial("ix_api_key_revoked_at_ms", "api_key", ["revoked_at_ms"], "revoked_at_ms > 0")


def _create_journal() -> None:
    amounts = ("posted_nano_usd", "reserved_nano_usd", "hard_floor_nano_usd")
    op.create_table(
        "account",
        *map(_text, ("account_id", "org_id", "kind")),
        *map(_bigint, (*amounts, "version")),
        _primary("account", "account_id"),
        _foreign("account", "org_id", "org"),
        _unique("account", "org_id", "kind"),
        _check("account", "reserved", "reserved_nano_usd >= 0"),
        _check(
            "account",
            "floor",
            "kind NOT IN ('customer_credit', 'promo') OR posted_nano_usd - reserved_nano_usd >= hard_floor_nano_usd",
        ),
    )
    op.create_table(
        "transfer",
        *map(_text, ("transfer_id", "org_id", "kind", "idem_key", "fingerprint")),
        _bigint("created_at_ms"),
        _primary("transfer", "transfer_id"),
        _foreign("transfer", "org_id", "org"),
        _unique("transfer", "org_id", "idem_key"),
    )
    op.create_table(
        "posting",
        _text("account_id"),
        _bigint("account_version"),
        _text("transfer_id"),
        *map(_bigint, ("amount_nano_usd", "balance_after_nano_usd")),
        _primary("posting", "account_id", "account_version"),
        _foreign("posting", "account_id", "account"),
        _foreign("posting", "transfer_id", "transfer"),
        _check("posting", "amount", "amount_nano_usd <> 0"),
    )
    op.create_index("ix_posting_transfer_id", "posting", ["transfer_id"])


def _create_holds() -> None:
    op.create_table(
        "reservation",
        *map(_text, ("hold_id", "org_id", "project_id", "key_id", "request_id", "model")),
        *map(_bigint, ("amount_nano_usd", "from_promo_nano_usd", "from_paid_nano_usd")),
        _text("fingerprint"),
        *map(_bigint, ("created_at_ms", "expires_at_ms")),
        _text("state"),
        *map(_bigint, ("closed_at_ms", "released_at_ms")),
        _text("release_reason"),
        _primary("reservation", "hold_id"),
        _foreign("reservation", "org_id", "org"),
        _unique("reservation", "org_id", "request_id"),
        _check(
            "reservation",
            "amount",
            "amount_nano_usd >= 0 AND amount_nano_usd = from_promo_nano_usd + from_paid_nano_usd",
        ),
        _check("reservation", "state", "state IN ('open', 'settled', 'released', 'expired')"),
    )
    _partial("ix_reservation_open_expires_at_ms", "reservation", ["expires_at_ms"], "state = 'open'")
    _partial("ix_reservation_open_org_id", "reservation", ["org_id"], "state = 'open'")
    op.create_table(
        "attempt",
        _text("hold_id"),
        _bigint("ordinal"),
        _text("offer_id"),
        *map(_bigint, ("started_at_ms", "duration_ms", "http_status")),
        sa.Column("won", sa.Boolean(), nullable=False),
        _text("failure"),
        _primary("attempt", "hold_id", "ordinal"),
        _foreign("attempt", "hold_id", "reservation"),
    )


def _create_receipts() -> None:
    names = ("receipt_id", "org_id", "request_id", "hold_id", "transfer_id", "project_id", "key_id")
    amounts = ("held_nano_usd", "charged_nano_usd", "saved_nano_usd", "absorbed_nano_usd")
    op.create_table(
        "receipt",
        *map(_text, (*names, "served_mode", "model", "source_id")),
        *map(_bigint, (*amounts, "created_at_ms")),
        *map(_text, ("fingerprint", "document")),
        _primary("receipt", "receipt_id"),
        _foreign("receipt", "org_id", "org"),
        _foreign("receipt", "hold_id", "reservation"),
        _foreign("receipt", "transfer_id", "transfer"),
        *(_unique("receipt", *columns) for columns in (("org_id", "request_id"), ("hold_id",), ("transfer_id",))),
    )
    op.create_index("ix_receipt_org_id_created_at_ms_receipt_id", "receipt", ["org_id", "created_at_ms", "receipt_id"])


def _protect_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is history: its rows are never changed or deleted', TG_TABLE_NAME "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in HISTORY:
        op.execute(
            f"CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER reservation_stays BEFORE DELETE OR TRUNCATE ON reservation "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER reservation_closes_once BEFORE UPDATE ON reservation FOR EACH ROW "
        "WHEN (OLD.state <> 'open' AND NEW.state <> OLD.state) EXECUTE FUNCTION refuse_change()"
    )


def _protect_on_sqlite() -> None:
    changes = [(table, change, "") for table in HISTORY for change in ("UPDATE", "DELETE")]
    changes.append(("reservation", "DELETE", ""))
    changes.append(("reservation", "UPDATE", "WHEN OLD.state <> 'open' AND NEW.state <> OLD.state"))
    for table, change, condition in changes:
        op.execute(
            f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
        )
