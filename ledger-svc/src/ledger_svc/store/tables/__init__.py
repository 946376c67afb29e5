"""The tables. Amounts are BIGINT nano-USD; times are Unix milliseconds; enumerations are their words.

transfer, posting, attempt, receipt, correction, cap, cap_alert, audit_log, external_event, failed_request and the log
are history: triggers (see migrations) forbid to change or delete their rows on both databases. Of the others, triggers
let only those columns change that the ledger changes.
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
from ledger_svc.store.tables.directory import API_KEY, AUDIT_LOG, KEY_SECRET, ORG, PROJECT
from ledger_svc.store.tables.log import CHECKPOINT, LOG_HEAD, LOG_LEAF, LOG_TILE
from ledger_svc.store.tables.payments import EXTERNAL_EVENT, PAYMENT, PAYMENT_REFUND
from ledger_svc.store.tables.row import metadata
from ledger_svc.store.tables.secrets import DATA_KEY, PROVIDER_KEY
from ledger_svc.store.tables.usage import FAILED_REQUEST, USAGE_CURSOR, USAGE_SUM
from ledger_svc.store.tables.webhooks import (
    ALERT_WATCH,
    CAP_ALERT,
    WEBHOOK_ATTEMPT,
    WEBHOOK_DELIVERY,
    WEBHOOK_ENDPOINT,
    WEBHOOK_EVENT,
)

__all__ = [
    "ACCOUNT",
    "ALERT_WATCH",
    "API_KEY",
    "ATTEMPT",
    "AUDIT_LOG",
    "CAP",
    "CAP_ALERT",
    "CAP_BUCKET",
    "CHECKPOINT",
    "CORRECTION",
    "CREDIT_LOT",
    "DATA_KEY",
    "EXTERNAL_EVENT",
    "FAILED_REQUEST",
    "KEY_SECRET",
    "LOG_HEAD",
    "LOG_LEAF",
    "LOG_TILE",
    "ORG",
    "PAYMENT",
    "PAYMENT_REFUND",
    "POSTING",
    "PROJECT",
    "PROVIDER_KEY",
    "RECEIPT",
    "RESERVATION",
    "TRANSFER",
    "USAGE_CURSOR",
    "USAGE_SUM",
    "WEBHOOK_ATTEMPT",
    "WEBHOOK_DELIVERY",
    "WEBHOOK_ENDPOINT",
    "WEBHOOK_EVENT",
    "WRITER_EPOCH",
    "metadata",
]
