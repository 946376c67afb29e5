"""Gives receipts their leaves in the log: the part of the log that the settlement's own transaction writes.

What a settlement pays: one signature, one row, and one update of ``log_head`` for each transaction. The row of
``log_head`` is locked from that update to the COMMIT, so leaves become visible in the order of their indices: whoever
sees leaf n sees every leaf before it. It is locked after all accounts, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.signing import Keyring
from ledger_svc.store.bulk import Part, insert_into
from ledger_svc.store.tables import LOG_HEAD, LOG_LEAF

_TAKE_INDICES = update(LOG_HEAD).values(size=LOG_HEAD.c.size + bindparam("count")).returning(LOG_HEAD.c.size)
_INSERT_LEAVES = insert_into(LOG_LEAF)


class Sealer:
    """Signs receipts and gives them their leaves."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def leaves(self, connection: Connection, entries: Sequence[ReceiptEntry]) -> Part:
        """What is to be written of the receipts that a transaction writes, in their order: their leaves, with the next
        indices. From here to its COMMIT nobody else can take any.
        """
        return self.leaves_of(connection, [(entry.receipt.receipt_id, entry.document) for entry in entries])

    def leaves_of(self, connection: Connection, documents: Sequence[tuple[str, str]]) -> Part:
        """The same, of (receipt id, document)."""
        if not documents:
            return _INSERT_LEAVES, []
        seals = [(receipt_id, self._keys.seal(document.encode())) for receipt_id, document in documents]
        size = connection.execute(_TAKE_INDICES, {"count": len(seals)}).scalar_one()
        return _INSERT_LEAVES, [
            (index, receipt_id, seal.kid, seal.signature, seal.leaf_hash)
            for index, (receipt_id, seal) in enumerate(seals, size - len(seals))
        ]
