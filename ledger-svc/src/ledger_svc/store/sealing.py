"""Gives receipts and entries of the audit trail their leaves in the log: the part of the log that the transaction of
the settlement, or of the change, writes itself.

What a settlement pays: one signature, one row, and one update of ``log_head`` for each transaction. Leaves become
visible in the order of their indices: whoever sees leaf n sees every leaf before it, because the one writer commits one
transaction after another, and who is not fenced as the writer is keeps the row of ``log_head`` locked from that update
to the COMMIT. It is locked after all accounts, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.signing import JwsKind, Keyring
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.store.bulk import Part, insert_into, update_by
from ledger_svc.store.tables import LOG_HEAD, LOG_LEAF

_TAKE_INDICES = update(LOG_HEAD).values(size=LOG_HEAD.c.size + bindparam("count")).returning(LOG_HEAD.c.size)
_UPDATE_HEAD = update_by(LOG_HEAD, "log_id", "size")
_INSERT_LEAVES = insert_into(LOG_LEAF)


Document = tuple[str, str, JwsKind]
"""(id, canonical JSON, what it is)."""


def documents_of(receipts: Sequence[ReceiptEntry], entries: Sequence[TrailEntry]) -> list[Document]:
    """What is to be sealed of a transaction, in order."""
    sealed = [(entry.receipt.receipt_id, entry.document, JwsKind.RECEIPT) for entry in receipts]
    return [*sealed, *((entry.entry_id, entry.document(), JwsKind.AUDIT_ENTRY) for entry in entries)]


class Sealer:
    """Signs documents and gives them their leaves."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def leaves(self, receipts: Sequence[ReceiptEntry], entries: Sequence[TrailEntry], size: int) -> list[Part]:
        """What is to be written of the receipts and the audit entries that a transaction writes, in their order: their
        leaves, with the next indices. ``size``: what the log has, as the writer knows it.
        """
        documents = documents_of(receipts, entries)
        if not documents:
            return []
        return [(_UPDATE_HEAD, [(1, size + len(documents))]), self._sealed(documents, size)]

    def leaves_of(self, connection: Connection, documents: Sequence[Document]) -> list[Part]:
        """The same, of documents, where others may write: the indices are taken under a lock, and from here to its
        COMMIT nobody else can take any.
        """
        if not documents:
            return []
        size: int = connection.execute(_TAKE_INDICES, {"count": len(documents)}).scalar_one()
        return [self._sealed(documents, size - len(documents))]

    def _sealed(self, documents: Sequence[Document], size: int) -> Part:
        seals = [(entry_id, self._keys.seal(document.encode(), kind)) for entry_id, document, kind in documents]
        return _INSERT_LEAVES, [
            (index, entry_id, seal.kid, seal.signature, seal.leaf_hash)
            for index, (entry_id, seal) in enumerate(seals, size)
        ]
