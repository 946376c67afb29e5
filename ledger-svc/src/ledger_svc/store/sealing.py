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


class Sealer:
    """Signs documents and gives them their leaves."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys

    def leaves(
        self,
        connection: Connection,
        receipts: Sequence[ReceiptEntry],
        entries: Sequence[TrailEntry] = (),
        *,
        size: int | None = None,
    ) -> list[Part]:
        """What is to be written of the receipts and the audit entries that a transaction writes, in their order: their
        leaves, with the next indices. ``size``: what the log has, read by whom nobody else can write beside; None: it
        is taken under a lock, and from here to its COMMIT nobody else can take any.
        """
        documents = [(entry.receipt.receipt_id, entry.document, JwsKind.RECEIPT) for entry in receipts]
        documents += [(entry.entry_id, entry.document(), JwsKind.AUDIT_ENTRY) for entry in entries]
        return self.leaves_of(connection, documents, size=size)

    def leaves_of(
        self, connection: Connection, documents: Sequence[tuple[str, str, JwsKind]], *, size: int | None = None
    ) -> list[Part]:
        """The same, of (id, document, kind)."""
        if not documents:
            return []
        seals = [(entry_id, self._keys.seal(document.encode(), kind)) for entry_id, document, kind in documents]
        heads: list[tuple[int, int]] = []
        if size is None:
            size = connection.execute(_TAKE_INDICES, {"count": len(seals)}).scalar_one() - len(seals)
        else:
            heads = [(1, size + len(seals))]
        leaves = [
            (index, entry_id, seal.kid, seal.signature, seal.leaf_hash)
            for index, (entry_id, seal) in enumerate(seals, size)
        ]
        return [(_UPDATE_HEAD, heads), (_INSERT_LEAVES, leaves)]
