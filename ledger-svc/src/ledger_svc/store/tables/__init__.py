"""The tables. Amounts are BIGINT nano-USD; times are Unix milliseconds; enumerations are their words.

transfer, posting, attempt, receipt, correction, cap, audit_log, failed_request and the log are history: triggers (see
migrations) forbid to change or delete their rows on both databases. Of the others, triggers let only those columns
change that the ledger changes.
"""

from __future__ import annotations

from ledger_svc.store.tables.books import (
    ACCOUNT,
    ATTEMPT,
    CAP,
    CAP_BUCKET,
    CORRECTION,
    CREDIT_LOT,
    POSTING,
    RECEIPT,
    RESERVATION,
    TRANSFER,
    WRITER_EPOCH,
)
from ledger_svc.store.tables.directory import API_KEY, AUDIT_LOG, ORG, PROJECT
from ledger_svc.store.tables.log import CHECKPOINT, LOG_HEAD, LOG_LEAF, LOG_TILE
from ledger_svc.store.tables.row import metadata
from ledger_svc.store.tables.usage import FAILED_REQUEST, USAGE_CURSOR, USAGE_SUM

__all__ = [
    "ACCOUNT",
    "API_KEY",
    "ATTEMPT",
    "AUDIT_LOG",
    "CAP",
    "CAP_BUCKET",
    "CHECKPOINT",
    "CORRECTION",
    "CREDIT_LOT",
    "FAILED_REQUEST",
    "LOG_HEAD",
    "LOG_LEAF",
    "LOG_TILE",
    "ORG",
    "POSTING",
    "PROJECT",
    "RECEIPT",
    "RESERVATION",
    "TRANSFER",
    "USAGE_CURSOR",
    "USAGE_SUM",
    "WRITER_EPOCH",
    "metadata",
]
