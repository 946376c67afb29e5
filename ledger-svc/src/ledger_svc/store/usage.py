"""Sums over requests: made up from the receipts in the order of the log, and never unlike them.

The log's leaves have no gap, so a cursor says exactly which receipts the sums have. It moves in the transaction that
adds them: each is added once, whatever fails in between. A question takes the sums and the receipts behind the cursor
from one state of the database, so its answer is what the receipts say at that moment. Failures have ordinals of their
own and a cursor of their own, and go the same way.

What a transaction adds is worked out before it begins: while this process writes, as each batch is written
(``store.tail``); else from the log's rows, which never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, insert, select, tuple_, update

from ledger_svc.domain import latency
from ledger_svc.domain.book import Book
from ledger_svc.domain.errors import Standby
from ledger_svc.domain.usage import (
    COUNTS,
    Question,
    SumName,
    Sums,
    Tally,
    Usage,
    Use,
    group_id,
    receipt_use,
    sum_up,
)
from ledger_svc.service.usage_ports import Failure
from ledger_svc.store.bulk import Record, insert_into, select_by, update_by, write_all
from ledger_svc.store.database import Database
from ledger_svc.store.tables import FAILED_REQUEST, LOG_HEAD, LOG_LEAF, USAGE_CURSOR, USAGE_SUM
from ledger_svc.store.tail import Tail
from ledger_svc.store.usage_answer import answer
from ledger_svc.store.uses import LEAVES, USED, Cursor, cursor_of, failed_use_of, failures_from, use_of
from ledger_svc.store.writer import Writer

MAX_ALIKE = 256
"""Different uses that one transaction takes, unless a single batch has more."""

KEY = ("org_id", "tag_key", "period", "starts_at_ms", "group_id")
_ADDED = (*COUNTS, "latencies")
_READ_SUMS = select_by(USAGE_SUM, [USAGE_SUM.columns[name] for name in (*KEY, *_ADDED)], *KEY)
_INSERT_SUMS = insert_into(USAGE_SUM)
_UPDATE_SUMS = update_by(USAGE_SUM, KEY, *_ADDED)
_MOVE_CURSOR = update_by(USAGE_CURSOR, "cursor_id", "next_leaf", "next_failure")


@dataclass(frozen=True, slots=True)
class _Known:
    """The cursor as this process left it, under the epoch in which nobody else can have moved it."""

    epoch: int
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where the sums end, where they will, and what is between."""

    before: Cursor
    after: Cursor
    uses: list[Use]

    @property
    def size(self) -> int:
        """Leaves and failures."""
        return self.after.next_leaf - self.before.next_leaf + self.after.next_failure - self.before.next_failure


class UsageSums:
    """Implements ``ports.UsageStore``."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._tail: Tail[Tally] = Tail(Tally, _tally)
        self._known: _Known | None = None
        self._has_failures = True
        writer.follow(self._tail.saw)

    async def fold(self, *, limit: int) -> int:
        """Takes what is next into the sums: at most ``limit`` leaves and as many failures where it must be read, or
        what was kept of newer ones; gives how many there were.

        Raises:
            Standby: another replica does it.
        """
        epoch = self._writer.epoch
        if epoch is None:
            raise Standby
        if self._known is None or self._known.epoch != epoch:
            self._known, self._has_failures = None, True
        piece = await self._next(self._known.cursor if self._known else None, limit)
        if not piece.size:
            return 0
        added = sum_up(piece.uses)

        def write(connection: Connection) -> bool:
            is_next = cursor_of(connection) == piece.before
            if is_next:  # else a COMMIT in doubt did go through, or the sums are made up anew
                _add(connection, added, piece.after)
            return is_next

        self._known = None
        if await self._writer.write(write, beside_books=True):
            self._known = _Known(epoch, piece.after)
        return piece.size

    async def _next(self, cursor: Cursor | None, limit: int) -> _Piece:
        if cursor is None:
            cursor = await self._database.read(cursor_of)
        run, goes_on = self._tail.take(cursor.next_leaf)
        if run is None:
            if cursor.next_leaf == self._writer.log_size and not self._has_failures:
                return _Piece(cursor, cursor, [])
            until = cursor.next_leaf + limit
            return await self._from_log(cursor, until if goes_on is None else min(until, goes_on), limit)
        failed = _Piece(cursor, cursor, [])
        if self._has_failures:
            failed = await self._from_log(cursor, cursor.next_leaf, limit)
        return _Piece(cursor, Cursor(run.end, failed.after.next_failure), run.content.uses() + failed.uses)

    async def _from_log(self, cursor: Cursor, until: int, limit: int) -> _Piece:
        self._has_failures = False  # those that are recorded from here on may not be seen
        try:
            piece = await self._database.snapshot(lambda connection: _read(connection, cursor, until, limit))
        except BaseException:
            self._has_failures = True
            raise
        if piece.after.next_failure - cursor.next_failure == limit:
            self._has_failures = True
        return piece

    async def rebuild(self) -> int:
        """Throws all sums away; gives how many leaves the log has."""

        def write(connection: Connection) -> int:
            size = connection.execute(select(LOG_HEAD.c.size)).scalar_one()
            connection.execute(delete(USAGE_SUM))
            connection.execute(update(USAGE_CURSOR).values(next_leaf=0, next_failure=0))
            return int(size)

        size = await self._writer.write(write, beside_books=True)
        self._known = None
        return size

    async def record(self, failures: Sequence[Failure]) -> int:
        """Keeps failures, each once by its request; gives how many are new."""
        by_name = {(failure.org_id, failure.request_id): failure for failure in reversed(failures)}

        def write(connection: Connection) -> int:
            names = (FAILED_REQUEST.c.org_id, FAILED_REQUEST.c.request_id)
            known = {tuple(row) for row in connection.execute(select(*names).where(tuple_(*names).in_(list(by_name))))}
            new = [failure for name, failure in reversed(by_name.items()) if name not in known]
            highest = connection.execute(select(func.max(FAILED_REQUEST.c.ordinal))).scalar_one()
            ordinal = 0 if highest is None else highest + 1
            if new:
                records = [_failure_values(failure, n) for n, failure in enumerate(new, ordinal)]
                connection.execute(insert(FAILED_REQUEST), records)
            return len(new)

        recorded = await self._writer.write(write, beside_books=True) if by_name else 0
        self._has_failures = self._has_failures or recorded > 0
        return recorded

    async def usage(self, question: Question) -> Usage:
        """The sums of one moment, with what has not been taken into them yet.

        Raises:
            LedgerUnavailable: that is too much: the sums are being made up.
            InvalidRequest: there are more groups than an answer can have.
        """
        return await self._database.snapshot(lambda connection: answer(connection, question))


def _tally(tally: Tally, book: Book) -> bool:
    for entry in book.new_receipts:
        receipt = entry.receipt
        hold = book.holds[receipt.org_id, receipt.request_id]
        tally.add(receipt_use(receipt, held_at_ms=hold.created_at_ms))
    return len(tally) < MAX_ALIKE


def _read(connection: Connection, before: Cursor, until: int, limit: int) -> _Piece:
    """From the log, up to a leaf."""
    leaves = (
        select(LOG_LEAF.c.leaf_index, *USED)
        .select_from(LEAVES)
        .where(LOG_LEAF.c.leaf_index >= before.next_leaf, LOG_LEAF.c.leaf_index < until)
        .order_by(LOG_LEAF.c.leaf_index)
    )
    found = connection.execute(leaves).all() if until > before.next_leaf else []
    failures = connection.execute(failures_from(before).where(FAILED_REQUEST.c.ordinal < before.next_failure + limit))
    uses = [use_of(row) for row in found if row.org_id is not None]  # a leaf may be of something else than a receipt
    failed = [failed_use_of(row) for row in failures]
    next_leaf = found[-1].leaf_index + 1 if found else before.next_leaf
    return _Piece(before, Cursor(next_leaf, before.next_failure + len(failed)), uses + failed)


def _failure_values(failure: Failure, ordinal: int) -> dict[str, Any]:
    names = [column.name for column in FAILED_REQUEST.columns if column.name not in ("ordinal", "tags")]
    tags = orjson.dumps(dict(failure.tags), option=orjson.OPT_SORT_KEYS).decode()
    return {name: getattr(failure, name) for name in names} | {"ordinal": ordinal, "tags": tags}


def key_of(name: SumName) -> Record:
    """The primary key of a sum."""
    *place, group = name
    return (*place, group_id(group))


def record_of(name: SumName, sums: Sums) -> Record:
    """For usage_sum."""
    group = name[-1]
    texts = (group.tag_value, group.project_id, group.key_id, group.model)
    return (*key_of(name), *texts, group.source_id, group.tier, group.served_mode, *_added(sums))


def _added(sums: Sums) -> Record:
    return (*sums.counts, latency.encode(sums.latencies))


def _add(connection: Connection, added: dict[SumName, Sums], after: Cursor) -> None:
    by_key = {tuple(key_of(name)): (name, sums) for name, sums in added.items()}
    changed = []
    for row in _READ_SUMS.run(connection, list(by_key)):
        key, counts, latencies = tuple(row[: len(KEY)]), row[len(KEY) : -1], row[-1]
        _, sums = by_key.pop(key)
        sums = Sums(list(sums.counts), sums.latencies)  # what was worked out stays: this may run again
        sums.add(counts, latency.decode(latencies))
        changed.append((*key, *_added(sums)))
    new = [record_of(name, sums) for name, sums in by_key.values()]
    moved = [(1, after.next_leaf, after.next_failure)]
    write_all(connection, (_INSERT_SUMS, new), (_UPDATE_SUMS, changed), (_MOVE_CURSOR, moved))
