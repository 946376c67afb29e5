"""The log in the database: subtrees and checkpoints, proofs, and leaves for receipts and audit entries that are older
than their place in it. The other leaves come with what they are of, see ``store.sealing``.

Growing the tree never changes a row. It starts from the newest checkpoint, and two replicas that grow it at once write
the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, and_, bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ledger_svc.domain.checkpoints import Checkpoint, sign_checkpoint
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.merkle import TILE_LEVELS, Frontier, Node, Range, perfect_root, perfect_subtrees, proof
from ledger_svc.domain.receipts import decode
from ledger_svc.domain.signing import JwsKind, Keyring, compact
from ledger_svc.service.ports import LoggedReceipt
from ledger_svc.store import rows
from ledger_svc.store.bulk import write_all
from ledger_svc.store.database import Database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG, CHECKPOINT, LOG_HEAD, LOG_LEAF, LOG_TILE, RECEIPT
from ledger_svc.store.writer import CommitSeam, Writer

LEAVES_AT_ONCE = 4_096
BACKFILL_AT_ONCE = 500

_UNLOGGED: dict[JwsKind, tuple[Column[Any], Column[Any]]] = {
    JwsKind.RECEIPT: (RECEIPT.c.receipt_id, RECEIPT.c.document),
    JwsKind.AUDIT_ENTRY: (AUDIT_LOG.c.entry_id, AUDIT_LOG.c.document),
}
"""Of each kind of document that has leaves: its id and itself."""

_UNLOGGED_COUNT = select(LOG_HEAD.c.unlogged)
_NEWEST = select(CHECKPOINT).order_by(CHECKPOINT.c.size.desc()).limit(1)
_LEAVES_FROM = (
    select(LOG_LEAF.c.leaf_index, LOG_LEAF.c.leaf_hash)
    .where(LOG_LEAF.c.leaf_index >= bindparam("start"))
    .order_by(LOG_LEAF.c.leaf_index)
    .limit(LEAVES_AT_ONCE)
)
_INSERT_ONCE = {
    (dialect, table.name): make(table).on_conflict_do_nothing()
    for dialect, make in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
    for table in (LOG_TILE, CHECKPOINT)
}


@dataclass(frozen=True, slots=True)
class _Growth:
    frontier: Frontier
    tiles: list[tuple[Node, bytes]]


class ReceiptLog:
    """Implements ``ports.ReceiptLog``."""

    def __init__(
        self, database: Database, writer: Writer, keys: Keyring, origin: str, *, seam: CommitSeam | None = None
    ) -> None:
        self._database = database
        self._writer = writer
        self._keys = keys
        self._origin = origin
        self._seam = seam or CommitSeam()

    async def backfill(self) -> int:
        """Gives leaves to the receipts and the audit entries from before they had any; gives their number. Safe to run
        again, and beside others that do. Only the writer can.
        """
        total = 0
        if self._writer.is_leading and not await self._database.read(_unlogged):
            return total
        for kind, (entry_id, _) in _UNLOGGED.items():
            after = ""
            while True:
                count, after = await self._writer.write(partial(self._give_leaves, kind, entry_id, after))
                total += count
                if not count:
                    break
        await self._writer.write(_end_backfill)
        return total

    def _give_leaves(self, kind: JwsKind, entry_id: Column[Any], after: str, connection: Connection) -> tuple[int, str]:
        connection.execute(_UNLOGGED_COUNT.with_for_update()).one()  # the lock that leaves are taken under
        query = (
            select(*_UNLOGGED[kind])
            .where(entry_id > after)
            .where(~select(LOG_LEAF).where(LOG_LEAF.c.entry_id == entry_id).exists())
            .order_by(entry_id)
            .limit(BACKFILL_AT_ONCE)
        )
        found = [(row[0], row[1], kind) for row in connection.execute(query)]
        write_all(connection, *Sealer(self._keys).leaves_of(connection, found))
        return len(found), found[-1][0] if found else ""

    async def receipt(self, org_id: str, receipt_id: str) -> LoggedReceipt:
        """One receipt with its JWS and its place; ``org_id`` "": of any organisation.

        Raises:
            NotFound: also where it is another organisation's.
        """
        query = (
            select(RECEIPT.c.document, LOG_LEAF.c.leaf_index, LOG_LEAF.c.kid, LOG_LEAF.c.signature)
            .join(LOG_LEAF, LOG_LEAF.c.entry_id == RECEIPT.c.receipt_id)
            .where(RECEIPT.c.receipt_id == receipt_id)
        )
        if org_id:
            query = query.where(RECEIPT.c.org_id == org_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no receipt {receipt_id}")
        jws = compact(row.kid, row.document.encode(), row.signature).decode()
        return LoggedReceipt(decode(row.document), jws, row.leaf_index)

    async def newest(self) -> Checkpoint | None:
        """The checkpoint of the largest size; None before the first."""
        return await self._database.read(_newest)

    async def checkpoint(self, size: int) -> Checkpoint:
        """Raises:
        NotFound: none was signed at this size.
        """
        query = select(CHECKPOINT).where(CHECKPOINT.c.size == size)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no checkpoint of size {size}")
        return rows.checkpoint_from_row(row)

    async def grow(self, now_ms: int) -> Checkpoint | None:
        """Takes up to ``LEAVES_AT_ONCE`` leaves into the tree and signs a checkpoint; None where there were none."""
        growth = await self._database.read(_growth)
        if growth is None:
            return None
        checkpoint = sign_checkpoint(self._origin, growth.frontier, self._keys, now_ms)

        def write(connection: Connection) -> None:
            dialect = connection.dialect.name
            tiles = [{"level": level, "tile_index": index, "root_hash": root} for (level, index), root in growth.tiles]
            if tiles:
                connection.execute(_INSERT_ONCE[dialect, LOG_TILE.name], tiles)
            self._seam.in_checkpoint()
            connection.execute(_INSERT_ONCE[dialect, CHECKPOINT.name], rows.checkpoint_values(checkpoint))

        await self._writer.write(write, beside_books=True)
        return checkpoint

    async def proof(self, ranges: Sequence[Range]) -> list[bytes]:
        """The hashes of ranges of leaves, all within the newest checkpoint. Reads at most some hundred short rows for
        each eight levels of the tree.
        """
        nodes = {node for leaves in ranges for node in perfect_subtrees(leaves)}
        if not nodes:
            return []
        hashes = await self._database.read(lambda connection: _subtree_hashes(connection, nodes))
        return proof(ranges, hashes)


def _unlogged(connection: Connection) -> int:
    count: int = connection.execute(_UNLOGGED_COUNT).scalar_one()
    return count


def _end_backfill(connection: Connection) -> None:
    connection.execute(update(LOG_HEAD).values(unlogged=0).where(LOG_HEAD.c.unlogged != 0))


def _newest(connection: Connection) -> Checkpoint | None:
    row = connection.execute(_NEWEST).one_or_none()
    return None if row is None else rows.checkpoint_from_row(row)


def _growth(connection: Connection) -> _Growth | None:
    newest = _newest(connection)
    frontier = newest.frontier if newest else Frontier()
    leaves = connection.execute(_LEAVES_FROM, {"start": frontier.size}).all()
    if newest and not leaves:
        return None
    expected = range(frontier.size, frontier.size + len(leaves))
    assert [leaf.leaf_index for leaf in leaves] == list(expected), f"the log has a gap after {frontier.size} leaves"
    return _Growth(*frontier.extended(leaf.leaf_hash for leaf in leaves))


def _subtree_hashes(connection: Connection, nodes: Iterable[Node]) -> dict[Node, bytes]:
    wanted: defaultdict[int, list[tuple[Node, range]]] = defaultdict(list)
    for level, index in nodes:
        stored = level - level % TILE_LEVELS
        width = 1 << (level - stored)
        wanted[stored].append(((level, index), range(index * width, (index + 1) * width)))
    found = {}
    for stored, spans in wanted.items():
        hashes = _stored_hashes(connection, stored, [span for _, span in spans])
        found.update({node: perfect_root([hashes[n] for n in span]) for node, span in spans})
    return found


def _stored_hashes(connection: Connection, level: int, spans: Sequence[range]) -> dict[int, bytes]:
    """The hashes of one stored level by index. Each span is a range of the primary key by itself, or a database would
    read the whole level.
    """
    if level:
        query = select(LOG_TILE.c.tile_index, LOG_TILE.c.root_hash).where(
            or_(
                *(
                    and_(LOG_TILE.c.level == level, LOG_TILE.c.tile_index.between(span.start, span.stop - 1))
                    for span in spans
                )
            )
        )
    else:
        query = select(LOG_LEAF.c.leaf_index, LOG_LEAF.c.leaf_hash).where(
            or_(*(LOG_LEAF.c.leaf_index.between(span.start, span.stop - 1) for span in spans))
        )
    return {row[0]: row[1] for row in connection.execute(query)}
