"""Money: accounts, transfers and postings, holds, receipts, credit, caps; and who may write them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text

from ledger_svc.store.tables.row import Row, bigint_column, table_of, text_column


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

    account_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    kind: str = text_column()
    posted_nano_usd: int = bigint_column()
    reserved_nano_usd: int = bigint_column()
    hard_floor_nano_usd: int = bigint_column()
    version: int = bigint_column()


class TransferRow(Row, table=True):
    """A movement of money. Immutable."""

    __tablename__ = "transfer"
    __table_args__ = (UniqueConstraint("org_id", "idem_key"),)

    transfer_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    kind: str = text_column()
    idem_key: str = text_column()
    fingerprint: str = text_column()
    created_at_ms: int = bigint_column()


class PostingRow(Row, table=True):
    """One account's part of a transfer. Immutable. The primary key makes the chain of versions unique."""

    __tablename__ = "posting"
    __table_args__ = (
        Index("ix_posting_transfer_id", "transfer_id"),
        CheckConstraint("amount_nano_usd <> 0", name="amount"),
    )

    account_id: str = text_column(primary_key=True, foreign_key="account.account_id")
    account_version: int = bigint_column(primary_key=True)
    transfer_id: str = text_column(foreign_key="transfer.transfer_id")
    amount_nano_usd: int = bigint_column()
    balance_after_nano_usd: int = bigint_column()


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

    hold_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    project_id: str = text_column()
    key_id: str = text_column()
    request_id: str = text_column()
    model: str = text_column()
    amount_nano_usd: int = bigint_column()
    from_promo_nano_usd: int = bigint_column()
    from_paid_nano_usd: int = bigint_column()
    fingerprint: str = text_column()
    created_at_ms: int = bigint_column()
    expires_at_ms: int = bigint_column()
    state: str = text_column()
    closed_at_ms: int = bigint_column()
    released_at_ms: int = bigint_column()
    release_reason: str = text_column()
    amount_tokens: int = bigint_column(sa_column_kwargs={"server_default": "0"})


class AttemptRow(Row, table=True):
    """One call of a source, in the order of ``ordinal`` from 0."""

    __tablename__ = "attempt"

    hold_id: str = text_column(primary_key=True, foreign_key="reservation.hold_id")
    ordinal: int = bigint_column(primary_key=True)
    offer_id: str = text_column()
    started_at_ms: int = bigint_column()
    duration_ms: int = bigint_column()
    http_status: int = bigint_column()
    won: bool
    failure: str = text_column()


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

    receipt_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    request_id: str = text_column()
    hold_id: str = text_column(foreign_key="reservation.hold_id")
    transfer_id: str = text_column(foreign_key="transfer.transfer_id")
    project_id: str = text_column()
    key_id: str = text_column()
    served_mode: str = text_column()
    model: str = text_column()
    source_id: str = text_column()
    held_nano_usd: int = bigint_column()
    charged_nano_usd: int = bigint_column()
    saved_nano_usd: int = bigint_column()
    absorbed_nano_usd: int = bigint_column()
    created_at_ms: int = bigint_column()
    fingerprint: str = text_column()
    document: str = text_column()
    tokens: int = bigint_column(sa_column_kwargs={"server_default": "0"})


class CorrectionRow(Row, table=True):
    """What a transfer gave back of a receipt's charge. Immutable."""

    __tablename__ = "correction"
    __table_args__ = (
        Index("ix_correction_receipt_id", "receipt_id"),
        Index("ix_correction_org_id", "org_id"),
        CheckConstraint(
            "promo_nano_usd >= 0 AND paid_nano_usd >= 0 AND promo_nano_usd + paid_nano_usd > 0", name="amount"
        ),
    )

    transfer_id: str = text_column(primary_key=True, foreign_key="transfer.transfer_id")
    org_id: str = text_column(foreign_key="org.org_id")
    receipt_id: str = text_column(foreign_key="receipt.receipt_id")
    promo_nano_usd: int = bigint_column()
    paid_nano_usd: int = bigint_column()
    reason: str = text_column()
    created_at_ms: int = bigint_column()


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

    lot_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    kind: str = text_column()
    transfer_id: str = text_column(foreign_key="transfer.transfer_id")
    priority: int = bigint_column()
    granted_nano_usd: int = bigint_column()
    remaining_nano_usd: int = bigint_column()
    created_at_ms: int = bigint_column()
    expires_at_ms: int = bigint_column()


class CapRow(Row, table=True):
    """One revision of a cap; the highest is in force. Immutable. ``cap_limit`` -1: cleared."""

    __tablename__ = "cap"
    __table_args__ = (
        CheckConstraint("cap_limit >= -1", name="cap_limit"),
        Index("ix_cap_org_id", "org_id"),
        Index("ix_cap_set_at_ms", "set_at_ms"),
    )

    scope_id: str = text_column(primary_key=True)
    period: str = text_column(primary_key=True)
    unit: str = text_column(primary_key=True)
    revision: int = bigint_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    scope: str = text_column()
    cap_limit: int = bigint_column()
    set_at_ms: int = bigint_column()


class CapBucketRow(Row, table=True):
    """What counts for a cap in a period. The database itself refuses dollars beyond the bound."""

    __tablename__ = "cap_bucket"
    __table_args__ = (
        CheckConstraint("spent >= 0 AND reserved >= 0", name="counts"),
        CheckConstraint("unit <> 'usd' OR spent + reserved <= bound", name="bound"),
    )

    scope_id: str = text_column(primary_key=True)
    period: str = text_column(primary_key=True)
    unit: str = text_column(primary_key=True)
    starts_at_ms: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    ends_at_ms: int = bigint_column()
    org_id: str = text_column(foreign_key="org.org_id")
    spent: int = bigint_column()
    reserved: int = bigint_column()
    bound: int = bigint_column()


class WriterEpochRow(Row, table=True):
    """One row: how often the right to write was taken. See ``store.fence``."""

    __tablename__ = "writer_epoch"
    __table_args__ = (CheckConstraint("singleton = 1", name="singleton"),)

    singleton: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    epoch: int = bigint_column()


ACCOUNT = table_of(AccountRow)
TRANSFER = table_of(TransferRow)
POSTING = table_of(PostingRow)
RESERVATION = table_of(ReservationRow)
ATTEMPT = table_of(AttemptRow)
RECEIPT = table_of(ReceiptRow)
CORRECTION = table_of(CorrectionRow)
CREDIT_LOT = table_of(CreditLotRow)
CAP = table_of(CapRow)
CAP_BUCKET = table_of(CapBucketRow)
WRITER_EPOCH = table_of(WriterEpochRow)
