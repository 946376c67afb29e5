"""Rebuilds the log from the receipts and the audit entries and compares it with what is stored, reading only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, tuple_

from ledger_svc.domain.checkpoints import parse_checkpoint
from ledger_svc.domain.merkle import TILE_LEVELS, Frontier, Node, leaf_hash
from ledger_svc.domain.signing import InvalidSignatureError, JwsKind, compact
from ledger_svc.store.tables import AUDIT_LOG, CHECKPOINT, LOG_HEAD, LOG_LEAF, LOG_TILE, RECEIPT

GAPLESS = "the leaves of the log have no gap, and its head counts them"
HASHED = "a leaf is the hash of its receipt or audit entry as signed"
TILED = "a stored subtree is the hash of its leaves"
SIGNED = "a checkpoint says the root of the leaves"

_LEAVES_AT_ONCE = 1_000

Finding = tuple[str, str, str]
"""(rule, where, detail)."""


def log_findings(connection: Connection) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the leaves. Ends at a gap: after it every hash is another."""
    frontier, newest = Frontier(), connection.execute(select(func.max(CHECKPOINT.c.size))).scalar_one() or 0
    yield from _check_roots(connection, 0, frontier, [])
    while page := connection.execute(_page(frontier.size)).all():
        for index, leaf in enumerate(page, frontier.size):
            if leaf.leaf_index != index:
                yield GAPLESS, str(index), f"the next leaf is {leaf.leaf_index}"
                return
            if _expected_hash(leaf) != leaf.leaf_hash:
                yield HASHED, leaf.entry_id, f"leaf {index}"
        hashes = [leaf.leaf_hash for leaf in page]
        grown, completed = frontier.extended(hashes)
        yield from _check_tiles(connection, completed, newest)
        yield from _check_roots(connection, frontier.size, frontier, hashes)
        frontier = grown
    yield from _check_counts(connection, frontier.size, newest)


def _page(start: int) -> Any:
    leaves = LOG_LEAF.outerjoin(RECEIPT, RECEIPT.c.receipt_id == LOG_LEAF.c.entry_id).outerjoin(
        AUDIT_LOG, AUDIT_LOG.c.entry_id == LOG_LEAF.c.entry_id
    )
    return (
        select(LOG_LEAF, RECEIPT.c.document.label("receipt"), AUDIT_LOG.c.document.label("entry"))
        .select_from(leaves)
        .where(LOG_LEAF.c.leaf_index >= start)
        .order_by(LOG_LEAF.c.leaf_index)
        .limit(_LEAVES_AT_ONCE)
    )


def _expected_hash(leaf: Row[Any]) -> bytes | None:
    """None where there is nothing that the leaf is of, or two things are."""
    if (leaf.receipt is None) == (leaf.entry is None):
        return None
    kind = JwsKind.AUDIT_ENTRY if leaf.receipt is None else JwsKind.RECEIPT
    document = leaf.entry if leaf.receipt is None else leaf.receipt
    return leaf_hash(compact(leaf.kid, document.encode(), leaf.signature, kind))


def _check_tiles(connection: Connection, completed: Sequence[tuple[Node, bytes]], newest: int) -> Iterator[Finding]:
    expected = {(level, index): root for (level, index), root in completed if (index + 1) << level <= newest}
    if not expected:
        return
    names = tuple_(LOG_TILE.c.level, LOG_TILE.c.tile_index).in_(list(expected))
    stored = {(row.level, row.tile_index): row.root_hash for row in connection.execute(select(LOG_TILE).where(names))}
    for (level, index), root in expected.items():
        if stored.get((level, index)) != root:
            yield TILED, f"level {level} index {index}", "differs" if (level, index) in stored else "is not stored"


def _check_roots(connection: Connection, start: int, frontier: Frontier, hashes: Sequence[bytes]) -> Iterator[Finding]:
    """Those checkpoints that end within the leaves after ``frontier``; the one of size 0 before all."""
    end = start + len(hashes)
    query = (
        select(CHECKPOINT).where(CHECKPOINT.c.size.between(start + 1 if end else 0, end)).order_by(CHECKPOINT.c.size)
    )
    for row in connection.execute(query).all():
        frontier, _ = frontier.extended(hashes[frontier.size - start : row.size - start])
        try:
            said = parse_checkpoint(row.note)
        except InvalidSignatureError as error:
            yield SIGNED, str(row.size), str(error)
            continue
        if not (said.root_hash == row.root_hash == frontier.root and row.frontier == frontier.encode()):
            yield SIGNED, str(row.size), f"root {row.root_hash.hex()}, rebuilt {frontier.root.hex()}"
        elif said.size != row.size:
            yield SIGNED, str(row.size), f"is signed for {said.size}"


def _check_counts(connection: Connection, leaves: int, newest: int) -> Iterator[Finding]:
    head = connection.execute(select(LOG_HEAD.c.size)).scalar_one_or_none()
    if head != leaves:
        yield GAPLESS, "log_head", f"says {head}, there are {leaves}"
    if newest > leaves:
        yield SIGNED, str(newest), f"there are {leaves} leaves"
    tiles = connection.execute(select(func.count()).select_from(LOG_TILE)).scalar_one()
    expected = sum(newest >> level for level in range(TILE_LEVELS, 63, TILE_LEVELS))
    if tiles > expected:
        yield TILED, "log_tile", f"{tiles} are stored, of {expected}"
