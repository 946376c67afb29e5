"""Gives receipts their leaves in the log: the part of the log that the settlement's own transaction writes.

What a settlement pays: one signature, one row, and one update of ``log_head`` for each transaction. The row of
``log_head`` is locked from that update to the COMMIT, so leaves become visible in the order of their indices: whoever
sees leaf n sees every leaf before it. It is locked after all accounts, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, update

from ledger_svc.domain.book import ReceiptEntry
from ledger_svc.domain.signing import Keyring
from ledger_svc.store.bulk import insert_into
from ledger_svc.store.tables import LOG_HEAD, LOG_LEAF

_TAKE_INDICES = update(LOG_HEAD).values(size=LOG_HEAD.c.size + bindparam("count")).returning(LOG_HEAD.c.size)
_INSERT_LEAVES, _INSERT_LEAVES_AT_ONCE = insert(LOG_LEAF), insert_into(LOG_LEAF)
_COLUMNS = [column.name for column in LOG_LEAF.columns]


class Sealer:
    """Signs receipts and writes their leaves."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def append(self, connection: Connection, entries: Sequence[ReceiptEntry]) -> None:
        """Gives the receipts that a transaction writes their leaves, in their order, in that transaction. The last
        thing that it does: until its COMMIT nobody else can append.
        """
        self.append_documents(connection, [(entry.receipt.receipt_id, entry.document) for entry in entries])

    def append_documents(self, connection: Connection, documents: Sequence[tuple[str, str]]) -> None:
        """The same, of (receipt id, document)."""
        if not documents:
            return
        seals = [(receipt_id, self._keys.seal(document.encode())) for receipt_id, document in documents]
        size = connection.execute(_TAKE_INDICES, {"count": len(seals)}).scalar_one()
        leaves = [
            (index, receipt_id, seal.kid, seal.signature, seal.leaf_hash)
            for index, (receipt_id, seal) in enumerate(seals, size - len(seals))
        ]
        if connection.dialect.name == "postgresql":  # a JSON document, as Bulk has it there, carries no bytes
            connection.execute(_INSERT_LEAVES, [dict(zip(_COLUMNS, leaf, strict=True)) for leaf in leaves])
        else:
            _INSERT_LEAVES_AT_ONCE.run(connection, leaves)
