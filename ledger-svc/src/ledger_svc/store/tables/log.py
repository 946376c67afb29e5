"""The log of receipts and of the audit trail: leaves, subtrees, checkpoints."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, UniqueConstraint

from ledger_svc.store.tables.row import Row, bigint_column, binary_column, table_of, text_column


class LogHeadRow(Row, table=True):
    """One row: how many leaves the log has. ``unlogged`` is not 0 while receipts and audit entries that are older than
    their place in the log may have no leaf yet.
    """

    __tablename__ = "log_head"
    __table_args__ = (CheckConstraint("log_id = 1", name="single"),)

    log_id: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    size: int = bigint_column()
    unlogged: int = bigint_column()


class LogLeafRow(Row, table=True):
    """A leaf of the log: the signature of a receipt or of an audit entry, and the hash of its JWS. ``entry_id``: the
    receipt's or the audit entry's; ids carry their kind, and the check of the ledger finds one that is of neither.
    Immutable; indices have no gap.
    """

    __tablename__ = "log_leaf"
    __table_args__ = (UniqueConstraint("entry_id"),)

    leaf_index: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    entry_id: str = text_column()
    kid: str = text_column()
    signature: bytes = binary_column()
    leaf_hash: bytes = binary_column()


class LogTileRow(Row, table=True):
    """The hash of a perfect subtree at level 8, 16, ...; ``tile_index`` counts from the left. Immutable."""

    __tablename__ = "log_tile"

    level: int = bigint_column(primary_key=True)
    tile_index: int = bigint_column(primary_key=True)
    root_hash: bytes = binary_column()


class CheckpointRow(Row, table=True):
    """A signed state of the log, and the frontier that it grows on from. Immutable."""

    __tablename__ = "checkpoint"

    size: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    root_hash: bytes = binary_column()
    frontier: bytes = binary_column()
    note: str = text_column()
    created_at_ms: int = bigint_column()


LOG_HEAD = table_of(LogHeadRow)
LOG_LEAF = table_of(LogLeafRow)
LOG_TILE = table_of(LogTileRow)
CHECKPOINT = table_of(CheckpointRow)
