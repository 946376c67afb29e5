"""Gives receipts their leaves in the log: the part of the log that the settlement's own transaction writes.

What a settlement pays: one signature, one row, and one update of ``log_head`` for each transaction. Leaves become
visible in the order of their indices: whoever sees leaf n sees every leaf before it, because the one writer commits one
transaction after another, and who is not fenced as the writer is keeps the row of ``log_head`` locked from that update
to the COMMIT. It is locked after all accounts, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.signing import Keyring
from ledger_svc.store.bulk import Part, insert_into, update_by
from ledger_svc.store.tables import LOG_HEAD, LOG_LEAF

_TAKE_INDICES = update(LOG_HEAD).values(size=LOG_HEAD.c.size + bindparam("count")).returning(LOG_HEAD.c.size)
_UPDATE_HEAD = update_by(LOG_HEAD, "log_id", "size")
_INSERT_LEAVES = insert_into(LOG_LEAF)


class Sealer:
    """Signs receipts and gives them their leaves."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def leaves(self, entries: Sequence[ReceiptEntry], size: int) -> list[Part]:
        """What is to be written of the receipts that a transaction writes, in their order: their leaves, with the next
        indices. ``size``: what the log has, as the writer knows it.
        """
        if not entries:
            return []
        documents = [(entry.receipt.receipt_id, entry.document) for entry in entries]
        return [(_UPDATE_HEAD, [(1, size + len(entries))]), self._sealed(documents, size)]

    def leaves_of(self, connection: Connection, documents: Sequence[tuple[str, str]]) -> list[Part]:
        """The same, of (receipt id, document), where others may write: the indices are taken under a lock, and from
        here to its COMMIT nobody else can take any.
        """
        if not documents:
            return []
        size: int = connection.execute(_TAKE_INDICES, {"count": len(documents)}).scalar_one()
        return [self._sealed(documents, size - len(documents))]

    def _sealed(self, documents: Sequence[tuple[str, str]], size: int) -> Part:
        seals = [(receipt_id, self._keys.seal(document.encode())) for receipt_id, document in documents]
        return _INSERT_LEAVES, [
            (index, receipt_id, seal.kid, seal.signature, seal.leaf_hash)
            for index, (receipt_id, seal) in enumerate(seals, size)
        ]
