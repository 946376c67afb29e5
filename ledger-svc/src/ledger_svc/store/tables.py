"""The tables. Amounts are BIGINT nano-USD; times are Unix milliseconds; enumerations are their words.

transfer, posting, attempt, receipt, correction, cap and the log are history: triggers (see migrations) forbid to change
or delete their rows on both databases. Of the others, triggers let only those columns change that the ledger changes.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, MetaData, Table, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Row(SQLModel):
    """Base of all tables, with the ledger's own metadata."""

    metadata = metadata


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


def _bigint(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


def _binary(**options: Any) -> Any:
    return Field(sa_type=LargeBinary, **options)


class OrgRow(Row, table=True):
    """An organisation."""

    __tablename__ = "org"

    org_id: str = _text(primary_key=True)
    name: str = _text()
    created_at_ms: int = _bigint()


class ProjectRow(Row, table=True):
    """A project of an organisation."""

    __tablename__ = "project"
    __table_args__ = (UniqueConstraint("org_id", "name"),)

    project_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    name: str = _text()
    created_at_ms: int = _bigint()


class ApiKeyRow(Row, table=True):
    """An API key: a keyed hash of its secret, never the secret. ``allowed_models`` is a JSON array."""

    __tablename__ = "api_key"
    __table_args__ = (
        UniqueConstraint("hmac_sha256_hex"),
        Index("ix_api_key_org_id_created_at_ms", "org_id", "created_at_ms"),
        Index(
            "ix_api_key_revoked_at_ms",
            "revoked_at_ms",
            postgresql_where=text("revoked_at_ms > 0"),
            sqlite_where=text("revoked_at_ms > 0"),
        ),
    )

    key_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    project_id: str = _text(foreign_key="project.project_id")
    name: str = _text()
    prefix: str = _text()
    hmac_sha256_hex: str = _text()
    pepper_version: int = _bigint()
    allowed_models: str = _text()
    created_at_ms: int = _bigint()
    expires_at_ms: int = _bigint()
    revoked_at_ms: int = _bigint()


class AccountRow(Row, table=True):
    """An account. ``version`` counts its postings. The database itself refuses a customer's account below its floor."""

    __tablename__ = "account"
    __table_args__ = (
        UniqueConstraint("org_id", "kind"),
        CheckConstraint("reserved_nano_usd >= 0", name="reserved"),
        CheckConstraint(
            "kind NOT IN ('customer_credit', 'promo') OR posted_nano_usd - reserved_nano_usd >= hard_floor_nano_usd",
            name="floor",
        ),
    )

    account_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    kind: str = _text()
    posted_nano_usd: int = _bigint()
    reserved_nano_usd: int = _bigint()
    hard_floor_nano_usd: int = _bigint()
    version: int = _bigint()


class TransferRow(Row, table=True):
    """A movement of money. Immutable."""

    __tablename__ = "transfer"
    __table_args__ = (UniqueConstraint("org_id", "idem_key"),)

    transfer_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    kind: str = _text()
    idem_key: str = _text()
    fingerprint: str = _text()
    created_at_ms: int = _bigint()


class PostingRow(Row, table=True):
    """One account's part of a transfer. Immutable. The primary key makes the chain of versions unique."""

    __tablename__ = "posting"
    __table_args__ = (
        Index("ix_posting_transfer_id", "transfer_id"),
        CheckConstraint("amount_nano_usd <> 0", name="amount"),
    )

    account_id: str = _text(primary_key=True, foreign_key="account.account_id")
    account_version: int = _bigint(primary_key=True)
    transfer_id: str = _text(foreign_key="transfer.transfer_id")
    amount_nano_usd: int = _bigint()
    balance_after_nano_usd: int = _bigint()


class ReservationRow(Row, table=True):
    """A hold. Its state changes once (a trigger sees to it); ``released_at_ms`` may follow an expiry."""

    __tablename__ = "reservation"
    __table_args__ = (
        UniqueConstraint("org_id", "request_id"),
        CheckConstraint(
            "amount_nano_usd >= 0 AND amount_nano_usd = from_promo_nano_usd + from_paid_nano_usd", name="amount"
        ),
        CheckConstraint("state IN ('open', 'settled', 'released', 'expired')", name="state"),
        Index(
            "ix_reservation_open_expires_at_ms",
            "expires_at_ms",
            postgresql_where=text("state = 'open'"),
            sqlite_where=text("state = 'open'"),
        ),
        Index(
            "ix_reservation_open_org_id",
            "org_id",
            postgresql_where=text("state = 'open'"),
            sqlite_where=text("state = 'open'"),
        ),
    )

    hold_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    project_id: str = _text()
    key_id: str = _text()
    request_id: str = _text()
    model: str = _text()
    amount_nano_usd: int = _bigint()
    from_promo_nano_usd: int = _bigint()
    from_paid_nano_usd: int = _bigint()
    fingerprint: str = _text()
    created_at_ms: int = _bigint()
    expires_at_ms: int = _bigint()
    state: str = _text()
    closed_at_ms: int = _bigint()
    released_at_ms: int = _bigint()
    release_reason: str = _text()
    amount_tokens: int = _bigint(sa_column_kwargs={"server_default": "0"})


class AttemptRow(Row, table=True):
    """One call of a source, in the order of ``ordinal`` from 0."""

    __tablename__ = "attempt"

    hold_id: str = _text(primary_key=True, foreign_key="reservation.hold_id")
    ordinal: int = _bigint(primary_key=True)
    offer_id: str = _text()
    started_at_ms: int = _bigint()
    duration_ms: int = _bigint()
    http_status: int = _bigint()
    won: bool
    failure: str = _text()


class ReceiptRow(Row, table=True):
    """A receipt: its document (RFC 8785 JSON) and the columns to find and add by; ``tokens`` is what counts for caps.
    Immutable.
    """

    __tablename__ = "receipt"
    __table_args__ = (
        UniqueConstraint("org_id", "request_id"),
        UniqueConstraint("hold_id"),
        UniqueConstraint("transfer_id"),
        Index("ix_receipt_org_id_created_at_ms_receipt_id", "org_id", "created_at_ms", "receipt_id"),
    )

    receipt_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    request_id: str = _text()
    hold_id: str = _text(foreign_key="reservation.hold_id")
    transfer_id: str = _text(foreign_key="transfer.transfer_id")
    project_id: str = _text()
    key_id: str = _text()
    served_mode: str = _text()
    model: str = _text()
    source_id: str = _text()
    held_nano_usd: int = _bigint()
    charged_nano_usd: int = _bigint()
    saved_nano_usd: int = _bigint()
    absorbed_nano_usd: int = _bigint()
    created_at_ms: int = _bigint()
    fingerprint: str = _text()
    document: str = _text()
    tokens: int = _bigint(sa_column_kwargs={"server_default": "0"})


class CorrectionRow(Row, table=True):
    """What a transfer gave back of a receipt's charge. Immutable."""

    __tablename__ = "correction"
    __table_args__ = (
        Index("ix_correction_receipt_id", "receipt_id"),
        CheckConstraint(
            "promo_nano_usd >= 0 AND paid_nano_usd >= 0 AND promo_nano_usd + paid_nano_usd > 0", name="amount"
        ),
    )

    transfer_id: str = _text(primary_key=True, foreign_key="transfer.transfer_id")
    org_id: str = _text(foreign_key="org.org_id")
    receipt_id: str = _text(foreign_key="receipt.receipt_id")
    promo_nano_usd: int = _bigint()
    paid_nano_usd: int = _bigint()
    reason: str = _text()
    created_at_ms: int = _bigint()


class CreditLotRow(Row, table=True):
    """A credit. ``remaining_nano_usd`` only ever falls; nothing else changes."""

    __tablename__ = "credit_lot"
    __table_args__ = (
        CheckConstraint("remaining_nano_usd BETWEEN 0 AND granted_nano_usd", name="remaining"),
        Index(
            "ix_credit_lot_open_org_id",
            "org_id",
            postgresql_where=text("remaining_nano_usd > 0"),
            sqlite_where=text("remaining_nano_usd > 0"),
        ),
    )

    lot_id: str = _text(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    kind: str = _text()
    transfer_id: str = _text(foreign_key="transfer.transfer_id")
    priority: int = _bigint()
    granted_nano_usd: int = _bigint()
    remaining_nano_usd: int = _bigint()
    created_at_ms: int = _bigint()
    expires_at_ms: int = _bigint()


class CapRow(Row, table=True):
    """One revision of a cap; the highest is in force. Immutable. ``cap_limit`` -1: cleared."""

    __tablename__ = "cap"
    __table_args__ = (
        CheckConstraint("cap_limit >= -1", name="cap_limit"),
        Index("ix_cap_org_id", "org_id"),
    )

    scope_id: str = _text(primary_key=True)
    period: str = _text(primary_key=True)
    unit: str = _text(primary_key=True)
    revision: int = _bigint(primary_key=True)
    org_id: str = _text(foreign_key="org.org_id")
    scope: str = _text()
    cap_limit: int = _bigint()
    set_at_ms: int = _bigint()


class CapBucketRow(Row, table=True):
    """What counts for a cap in a period. The database itself refuses dollars beyond the bound."""

    __tablename__ = "cap_bucket"
    __table_args__ = (
        CheckConstraint("spent >= 0 AND reserved >= 0", name="counts"),
        CheckConstraint("unit <> 'usd' OR spent + reserved <= bound", name="bound"),
    )

    scope_id: str = _text(primary_key=True)
    period: str = _text(primary_key=True)
    unit: str = _text(primary_key=True)
    starts_at_ms: int = _bigint(primary_key=True, sa_column_kwargs={"autoincrement": False})
    ends_at_ms: int = _bigint()
    org_id: str = _text(foreign_key="org.org_id")
    spent: int = _bigint()
    reserved: int = _bigint()
    bound: int = _bigint()


class WriterEpochRow(Row, table=True):
    """One row: how often the right to write was taken. See ``store.fence``."""

    __tablename__ = "writer_epoch"
    __table_args__ = (CheckConstraint("singleton = 1", name="singleton"),)

    singleton: int = _bigint(primary_key=True, sa_column_kwargs={"autoincrement": False})
    epoch: int = _bigint()


class LogHeadRow(Row, table=True):
    """One row: how many leaves the log has. ``unlogged`` receipts are older than the log and have no leaf yet."""

    __tablename__ = "log_head"
    __table_args__ = (CheckConstraint("log_id = 1", name="single"),)

    log_id: int = _bigint(primary_key=True, sa_column_kwargs={"autoincrement": False})
    size: int = _bigint()
    unlogged: int = _bigint()


class LogLeafRow(Row, table=True):
    """A leaf of the log: a receipt's signature, and the hash of its JWS. Immutable; indices have no gap."""

    __tablename__ = "log_leaf"
    __table_args__ = (UniqueConstraint("receipt_id"),)

    leaf_index: int = _bigint(primary_key=True, sa_column_kwargs={"autoincrement": False})
    receipt_id: str = _text(foreign_key="receipt.receipt_id")
    kid: str = _text()
    signature: bytes = _binary()
    leaf_hash: bytes = _binary()


class LogTileRow(Row, table=True):
    """The hash of a perfect subtree at level 8, 16, ...; ``tile_index`` counts from the left. Immutable."""

    __tablename__ = "log_tile"

    level: int = _bigint(primary_key=True)
    tile_index: int = _bigint(primary_key=True)
    root_hash: bytes = _binary()


class CheckpointRow(Row, table=True):
    """A signed state of the log, and the frontier that it grows on from. Immutable."""

    __tablename__ = "checkpoint"

    size: int = _bigint(primary_key=True, sa_column_kwargs={"autoincrement": False})
    root_hash: bytes = _binary()
    frontier: bytes = _binary()
    note: str = _text()
    created_at_ms: int = _bigint()


def _table(row: type[Row]) -> Table:
    return cast(Table, row.__table__)  # type: ignore[attr-defined]


ORG, PROJECT, API_KEY, ACCOUNT = _table(OrgRow), _table(ProjectRow), _table(ApiKeyRow), _table(AccountRow)
TRANSFER, POSTING, RECEIPT = _table(TransferRow), _table(PostingRow), _table(ReceiptRow)
RESERVATION, ATTEMPT = _table(ReservationRow), _table(AttemptRow)
CORRECTION, CREDIT_LOT = _table(CorrectionRow), _table(CreditLotRow)
CAP, CAP_BUCKET = _table(CapRow), _table(CapBucketRow)
WRITER_EPOCH = _table(WriterEpochRow)
LOG_HEAD, LOG_LEAF = _table(LogHeadRow), _table(LogLeafRow)
LOG_TILE, CHECKPOINT = _table(LogTileRow), _table(CheckpointRow)
