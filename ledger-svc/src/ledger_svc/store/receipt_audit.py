"""Checks what receipts and checkpoints say for themselves: the arithmetic, and the signatures. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from ledger_svc.domain.charges import quote
from ledger_svc.domain.checkpoints import verify_checkpoint
from ledger_svc.domain.errors import LedgerError
from ledger_svc.domain.receipts import Receipt, decode
from ledger_svc.domain.signing import InvalidSignatureError, PublicKeys, compact, verify_jws
from ledger_svc.store.log_audit import Finding
from ledger_svc.store.tables import CHECKPOINT, LOG_LEAF, RECEIPT

CHARGED = "a receipt charges what its usage costs at its price"
SEALED = "a receipt is signed by a key of the log"
ATTESTED = "a checkpoint is signed by a key of the log"

_ROWS_AT_ONCE = 500


def decoded(document: str) -> Receipt | None:
    """The receipt of a stored document; None where someone has made of it what no receipt is."""
    try:
        return decode(document)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def receipts_charged_wrongly(connection: Connection) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the ids."""
    for row in pages(connection, select(RECEIPT.c.receipt_id, RECEIPT.c.document), RECEIPT.c.receipt_id, ""):
        receipt = decoded(row.document)
        if receipt is None:  # another rule's
            continue
        try:
            owed = quote(receipt.facts)
        except LedgerError as error:
            yield CHARGED, row.receipt_id, str(error)
            continue
        said = (receipt.charged_nano_usd + receipt.absorbed_nano_usd, receipt.saved_nano_usd)
        if said != (owed.due_nano_usd, owed.saved_nano_usd):
            detail = f"due {said[0]}, expected {owed.due_nano_usd}; saved {said[1]}, expected {owed.saved_nano_usd}"
            yield CHARGED, row.receipt_id, detail


def receipts_signed_wrongly(connection: Connection, keys: PublicKeys) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the leaves. A leaf without its receipt is another rule's."""
    query = select(LOG_LEAF, RECEIPT.c.document).join(RECEIPT, RECEIPT.c.receipt_id == LOG_LEAF.c.entry_id)
    for row in pages(connection, query, LOG_LEAF.c.leaf_index, -1):
        try:
            verify_jws(compact(row.kid, row.document.encode(), row.signature).decode(), keys)
        except InvalidSignatureError as error:
            yield SEALED, row.entry_id, f"leaf {row.leaf_index}: {error}"


def checkpoints_signed_wrongly(connection: Connection, keys: PublicKeys) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the sizes."""
    for row in pages(connection, select(CHECKPOINT), CHECKPOINT.c.size, -1):
        try:
            verify_checkpoint(row.note, keys)
        except InvalidSignatureError as error:
            yield ATTESTED, str(row.size), str(error)


def pages(connection: Connection, query: Any, key: Any, after: Any) -> Iterator[Row[Any]]:
    """The rows of a query in the order of a unique column, a bounded number in memory."""
    while True:
        page = connection.execute(query.where(key > after).order_by(key).limit(_ROWS_AT_ONCE)).all()
        yield from page
        if len(page) < _ROWS_AT_ONCE:
            return
        after = page[-1]._mapping[key]
