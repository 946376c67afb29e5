"""Usage: sums over requests, how far they go, and requests that failed. None of it decides about money."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, UniqueConstraint

from ledger_svc.store.tables.row import Row, bigint_column, binary_column, table_of, text_column


class UsageSumRow(Row, table=True):
    """A sum over the requests of an hour or a day, of one group; see ``domain.usage``. ``group_id`` is of the texts
    from ``tag_value`` on. ``latencies``: see ``domain.latency``.
    """

    __tablename__ = "usage_sum"

    org_id: str = text_column(primary_key=True)
    tag_key: str = text_column(primary_key=True)
    period: str = text_column(primary_key=True)
    starts_at_ms: int = bigint_column(primary_key=True)
    group_id: str = text_column(primary_key=True)
    tag_value: str = text_column()
    project_id: str = text_column()
    key_id: str = text_column()
    model: str = text_column()
    source_id: str = text_column()
    tier: str = text_column()
    served_mode: str = text_column()
    requests: int = bigint_column()
    errors: int = bigint_column()
    input_tokens: int = bigint_column()
    cached_input_tokens: int = bigint_column()
    cache_write_tokens: int = bigint_column()
    output_tokens: int = bigint_column()
    reasoning_tokens: int = bigint_column()
    charged_nano_usd: int = bigint_column()
    saved_nano_usd: int = bigint_column()
    absorbed_nano_usd: int = bigint_column()
    latencies: bytes = binary_column()


class UsageCursorRow(Row, table=True):
    """One row: the first leaf of the log, and the first failure, that the sums do not have yet."""

    __tablename__ = "usage_cursor"
    __table_args__ = (CheckConstraint("cursor_id = 1", name="single"),)

    cursor_id: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    next_leaf: int = bigint_column()
    next_failure: int = bigint_column()


class FailedRequestRow(Row, table=True):
    """A request that ended in an error. ``ordinal`` counts from 0 without gaps; ``tags`` is JSON. Immutable."""

    __tablename__ = "failed_request"
    __table_args__ = (
        UniqueConstraint("org_id", "request_id"),
        Index("ix_failed_request_org_id_at_ms_request_id", "org_id", "at_ms", "request_id"),
    )

    ordinal: int = bigint_column(primary_key=True, sa_column_kwargs={"autoincrement": False})
    org_id: str = text_column()
    request_id: str = text_column()
    project_id: str = text_column()
    key_id: str = text_column()
    requested_model: str = text_column()
    model: str = text_column()
    http_status: int = bigint_column()
    error_code: str = text_column()
    latency_ms: int = bigint_column()
    trace_id: str = text_column()
    tags: str = text_column()
    at_ms: int = bigint_column()


USAGE_SUM = table_of(UsageSumRow)
USAGE_CURSOR = table_of(UsageCursorRow)
FAILED_REQUEST = table_of(FailedRequestRow)
