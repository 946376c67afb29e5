"""Caps with their buckets, credit lots, corrections; what a hold and a receipt count in tokens; refunds. And triggers
that leave of every row only that to be changed which the ledger changes.

Revision: 0004, after the receipt log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004_caps_and_lots"
down_revision = "0003_receipt_log"
branch_labels = None
depends_on = None

HISTORY = ("cap", "correction")
STAYING = ("account", "api_key", "credit_lot", "cap_bucket")
TOKEN_CLASSES = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")

FIXED = {
    "reservation": (
        *("hold_id", "org_id", "project_id", "key_id", "request_id", "model"),
        *("amount_nano_usd", "from_promo_nano_usd", "from_paid_nano_usd", "fingerprint", "created_at_ms"),
        "amount_tokens",
    ),
    "account": ("account_id", "org_id", "kind"),
    "api_key": ("key_id", "org_id", "project_id", "prefix", "hmac_sha256_hex", "pepper_version", "created_at_ms"),
    "credit_lot": (
        *("lot_id", "org_id", "kind", "transfer_id", "priority", "granted_nano_usd"),
        *("created_at_ms", "expires_at_ms"),
    ),
    "cap_bucket": ("scope_id", "period", "unit", "starts_at_ms", "ends_at_ms", "org_id"),
}
"""Columns that never change once a row is there."""

FORBIDDEN = {
    "reservation": (
        "OLD.state <> 'open' AND NEW.state <> OLD.state",
        "OLD.closed_at_ms <> 0 AND NEW.closed_at_ms <> OLD.closed_at_ms",
        "OLD.released_at_ms <> 0 AND NEW.released_at_ms <> OLD.released_at_ms",
        "NEW.expires_at_ms < OLD.expires_at_ms",
        "OLD.state <> 'open' AND NEW.expires_at_ms <> OLD.expires_at_ms",
    ),
    "account": (
        "NEW.version < OLD.version",
        "NEW.version = OLD.version AND NEW.posted_nano_usd <> OLD.posted_nano_usd",
    ),
    "api_key": ("OLD.revoked_at_ms <> 0 AND NEW.revoked_at_ms <> OLD.revoked_at_ms",),
    "credit_lot": ("NEW.remaining_nano_usd > OLD.remaining_nano_usd",),
    "cap_bucket": ("NEW.spent < OLD.spent",),
}
"""Changes that never happen."""


def upgrade() -> None:
    """Brings the schema to this revision."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    _count_tokens(postgresql=postgresql)
    _create_tables()
    _add_refund_accounts()
    _make_lots()
    if postgresql:
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Raises:
    RuntimeError: always; it would delete history.
    """
    raise RuntimeError("caps and credit lots are not taken back: their history would be lost")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=False)


def _bigint(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _foreign(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.{column}"], name=op.f(f"fk_{table}_{column}"))


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _count_tokens(*, postgresql: bool) -> None:
    for table, column in (("reservation", "amount_tokens"), ("receipt", "tokens")):
        op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))
    # The one time that receipts are written to: a column is derived from the document, which stays.
    op.execute(
        "ALTER TABLE receipt DISABLE TRIGGER receipt_is_history"
        if postgresql
        else "DROP TRIGGER receipt_refuses_update"
    )
    connection, after = op.get_bind(), ""
    page = sa.text("SELECT receipt_id, document FROM receipt WHERE receipt_id > :after ORDER BY receipt_id LIMIT 1000")
    while found := connection.execute(page, {"after": after}).all():
        counted = [{"id": row.receipt_id, "tokens": _tokens(json.loads(row.document))} for row in found]
        connection.execute(sa.text("UPDATE receipt SET tokens = :tokens WHERE receipt_id = :id"), counted)
        after = found[-1].receipt_id
    if postgresql:
        op.execute("ALTER TABLE receipt ENABLE TRIGGER receipt_is_history")
    else:
        _refuse_on_sqlite("receipt", "UPDATE", "")


def _tokens(document: dict[str, Any]) -> int:
    if document["served_mode"] != "fresh":
        return 0
    return sum(document["usage"][name] for name in TOKEN_CLASSES)


def _create_tables() -> None:
    op.create_table(
        "correction",
        *map(_text, ("transfer_id", "org_id", "receipt_id")),
        *map(_bigint, ("promo_nano_usd", "paid_nano_usd")),
        _text("reason"),
        _bigint("created_at_ms"),
        _primary("correction", "transfer_id"),
        _foreign("correction", "transfer_id", "transfer"),
        _foreign("correction", "org_id", "org"),
        _foreign("correction", "receipt_id", "receipt"),
        _check(
            "correction",
            "amount",
            "promo_nano_usd >= 0 AND paid_nano_usd >= 0 AND promo_nano_usd + paid_nano_usd > 0",
        ),
    )
    op.create_index("ix_correction_receipt_id", "correction", ["receipt_id"])
    op.create_table(
        "credit_lot",
        *map(_text, ("lot_id", "org_id", "kind", "transfer_id")),
        *map(_bigint, ("priority", "granted_nano_usd", "remaining_nano_usd", "created_at_ms", "expires_at_ms")),
        _primary("credit_lot", "lot_id"),
        _foreign("credit_lot", "org_id", "org"),
        _foreign("credit_lot", "transfer_id", "transfer"),
        _check("credit_lot", "remaining", "remaining_nano_usd BETWEEN 0 AND granted_nano_usd"),
    )
    left = sa.text("remaining_nano_usd > 0")
    op.create_index("ix_credit_lot_open_org_id", "credit_lot", ["org_id"], postgresql_where=left, sqlite_where=left)
    op.create_table(
        "cap",
        *map(_text, ("scope_id", "period", "unit")),
        _bigint("revision"),
        *map(_text, ("org_id", "scope")),
        *map(_bigint, ("cap_limit", "set_at_ms")),
        _primary("cap", "scope_id", "period", "unit", "revision"),
        _foreign("cap", "org_id", "org"),
        _check("cap", "cap_limit", "cap_limit >= -1"),
    )
    op.create_index("ix_cap_org_id", "cap", ["org_id"])
    op.create_table(
        "cap_bucket",
        *map(_text, ("scope_id", "period", "unit")),
        *map(_bigint, ("starts_at_ms", "ends_at_ms")),
        _text("org_id"),
        *map(_bigint, ("spent", "reserved", "bound")),
        _primary("cap_bucket", "scope_id", "period", "unit", "starts_at_ms"),
        _foreign("cap_bucket", "org_id", "org"),
        _check("cap_bucket", "counts", "spent >= 0 AND reserved >= 0"),
        _check("cap_bucket", "bound", "unit <> 'usd' OR spent + reserved <= bound"),
    )


def _add_refund_accounts() -> None:
    op.execute(
        "INSERT INTO account "
        "(account_id, org_id, kind, posted_nano_usd, reserved_nano_usd, hard_floor_nano_usd, version) "
        "SELECT org_id || '/refunds', org_id, 'refunds', 0, 0, 0, 0 FROM org"
    )


def _make_lots() -> None:
    """Each credit of before becomes a lot. What is left of an account is in its newest ones: the oldest were spent
    first.
    """
    connection = op.get_bind()
    accounts = sa.text(
        "SELECT account_id, org_id, kind, posted_nano_usd FROM account "
        "WHERE kind IN ('customer_credit', 'promo') AND posted_nano_usd > 0"
    )
    credits = sa.text(
        "SELECT posting.transfer_id, amount_nano_usd, created_at_ms FROM posting "
        "JOIN transfer ON transfer.transfer_id = posting.transfer_id "
        "WHERE account_id = :account_id AND transfer.kind = 'credit' ORDER BY account_version DESC"
    )
    insert = sa.text(
        "INSERT INTO credit_lot VALUES (:lot_id, :org_id, :kind, :lot_id, 100, :granted, :remaining, :created_at_ms, 0)"
    )
    for account in connection.execute(accounts).all():
        left = account.posted_nano_usd
        for credit in connection.execute(credits, {"account_id": account.account_id}).all():
            remaining = min(left, credit.amount_nano_usd)
            left -= remaining
            lot = {"lot_id": credit.transfer_id, "org_id": account.org_id, "kind": account.kind}
            amounts = {"granted": credit.amount_nano_usd, "remaining": remaining}
            connection.execute(insert, lot | amounts | {"created_at_ms": credit.created_at_ms})


def _conditions(table: str) -> Iterable[str]:
    return [f"NEW.{column} <> OLD.{column}" for column in FIXED[table]] + [f"({rule})" for rule in FORBIDDEN[table]]


def _protect_on_postgresql() -> None:
    for table in HISTORY:
        op.execute(
            f"CREATE TRIGGER {table}_is_history BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in STAYING:
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("DROP TRIGGER reservation_closes_once ON reservation")
    for table in FIXED:
        op.execute(
            f"CREATE TRIGGER {table}_changes BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({' OR '.join(_conditions(table))}) EXECUTE FUNCTION refuse_change()"
        )


def _protect_on_sqlite() -> None:
    for table in HISTORY:
        for change in ("UPDATE", "DELETE"):
            _refuse_on_sqlite(table, change, "")
    for table in STAYING:
        _refuse_on_sqlite(table, "DELETE", "")
    op.execute("DROP TRIGGER reservation_refuses_update")
    for table in FIXED:
        _refuse_on_sqlite(table, "UPDATE", f"WHEN {' OR '.join(_conditions(table))}")


def _refuse_on_sqlite(table: str, change: str, condition: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is history: its rows are never changed or deleted'); END"
    )
