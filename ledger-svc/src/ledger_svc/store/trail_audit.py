"""Checks the audit trail: that each entry stands in the log, says what its columns say, and is signed. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Select, literal, select

from ledger_svc.domain.signing import InvalidSignatureError, JwsKind, PublicKeys, compact, verify_jws
from ledger_svc.domain.trail import TrailEntry, decode
from ledger_svc.store import rows
from ledger_svc.store.log_audit import Finding
from ledger_svc.store.receipt_audit import pages
from ledger_svc.store.tables import AUDIT_LOG, LOG_LEAF

TRAIL_COLUMNS = "an audit entry's columns say what its document says, which is canonical"
TRAIL_SEALED = "an audit entry is signed by a key of the log"


def _entries_without_leaf() -> Select[tuple[str, str]]:
    return (
        select(AUDIT_LOG.c.entry_id, literal("no leaf").label("has"))
        .select_from(AUDIT_LOG.outerjoin(LOG_LEAF, LOG_LEAF.c.entry_id == AUDIT_LOG.c.entry_id))
        .where(LOG_LEAF.c.leaf_index.is_(None))
    )


TRAIL_RULES: dict[str, Select[*tuple[object, ...]]] = {
    "an audit entry has a leaf in the log": _entries_without_leaf(),
}


def entries_unlike_their_columns(connection: Connection) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the ids."""
    for row in pages(connection, select(AUDIT_LOG), AUDIT_LOG.c.entry_id, ""):
        entry = _decoded(row.document)
        if entry is None:
            yield TRAIL_COLUMNS, row.entry_id, "document is not an audit entry's"
            continue
        for (name, value), right in zip(row._mapping.items(), rows.entry_record(entry), strict=True):
            if value != right:
                yield TRAIL_COLUMNS, row.entry_id, f"{name} is {value!r}, expected {right!r}"


def entries_signed_wrongly(connection: Connection, keys: PublicKeys) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the leaves. A leaf without its entry is another rule's."""
    query = select(LOG_LEAF, AUDIT_LOG.c.document).join(AUDIT_LOG, AUDIT_LOG.c.entry_id == LOG_LEAF.c.entry_id)
    for row in pages(connection, query, LOG_LEAF.c.leaf_index, -1):
        jws = compact(row.kid, row.document.encode(), row.signature, JwsKind.AUDIT_ENTRY)
        try:
            verify_jws(jws.decode(), keys, JwsKind.AUDIT_ENTRY)
        except InvalidSignatureError as error:
            yield TRAIL_SEALED, row.entry_id, f"leaf {row.leaf_index}: {error}"


def _decoded(document: str) -> TrailEntry | None:
    """The entry of a stored document; None where someone has made of it what no entry is."""
    try:
        return decode(document)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
