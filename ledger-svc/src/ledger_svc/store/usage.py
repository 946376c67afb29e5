"""Sums over requests: made up from the receipts in the order of the log, and never unlike them.

The log's leaves have no gap, so a cursor says exactly which receipts the sums have. It moves in the transaction that
adds them: each is added once, whatever fails in between. A question takes the sums and the receipts behind the cursor
from one state of the database, so its answer is what the receipts say at that moment. Failures have ordinals of their
own and a cursor of their own, and go the same way.

What a transaction adds is worked out before it begins, from rows that never change; the writer only adds it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Join,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from ledger_svc.domain import latency
from ledger_svc.domain.errors import InvalidRequest, LedgerUnavailable
from ledger_svc.domain.usage import (
    COLUMN_OF,
    COUNTS,
    DAY_MS,
    Dimension,
    Group,
    Period,
    Question,
    SumName,
    Sums,
    Usage,
    Use,
    Values,
    failed_use,
    group_id,
    latency_of,
    sum_up,
    tier_of,
    values_of,
)
from ledger_svc.service.usage_ports import Failure
from ledger_svc.store.bulk import Record, insert_into, select_by, update_by, write_all
from ledger_svc.store.database import Database
from ledger_svc.store.tables import (
    CORRECTION,
    FAILED_REQUEST,
    LOG_HEAD,
    LOG_LEAF,
    RECEIPT,
    RESERVATION,
    USAGE_CURSOR,
    USAGE_SUM,
)
from ledger_svc.store.writer import Writer

MAX_BEHIND = 20_000
"""Leaves, and failures, that a question adds up itself."""
MAX_GROUPS = 10_000

KEY = ("org_id", "tag_key", "period", "starts_at_ms", "group_id")
_ADDED = (*COUNTS, "latencies")
_READ_SUMS = select_by(USAGE_SUM, [USAGE_SUM.columns[name] for name in (*KEY, *_ADDED)], *KEY)
_INSERT_SUMS = insert_into(USAGE_SUM)
_UPDATE_SUMS = update_by(USAGE_SUM, KEY, *_ADDED)

USED = (
    *(RECEIPT.c.org_id, RECEIPT.c.project_id, RECEIPT.c.key_id, RECEIPT.c.model, RECEIPT.c.source_id),
    *(RECEIPT.c.served_mode, RECEIPT.c.charged_nano_usd, RECEIPT.c.saved_nano_usd, RECEIPT.c.absorbed_nano_usd),
    *(RECEIPT.c.created_at_ms, RECEIPT.c.document, RESERVATION.c.created_at_ms.label("held_at_ms")),
)
"""What a receipt's use is made of."""


def _with_receipt(table: Table, receipt_id: Column[Any]) -> Join:
    """Its rows, with the receipts and holds that they name. One after the other: SQLite makes up a table of a join in
    an outer join.
    """
    return table.outerjoin(RECEIPT, RECEIPT.c.receipt_id == receipt_id).outerjoin(
        RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id
    )


_LEAVES = _with_receipt(LOG_LEAF, LOG_LEAF.c.entry_id)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The first leaf and the first failure that the sums do not have."""

    next_leaf: int
    next_failure: int


class UsageSums:
    """Implements ``ports.UsageStore``."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def fold(self, *, limit: int) -> int:
        """Takes at most ``limit`` leaves and as many failures into the sums; gives how many there were."""
        before, after, uses = await self._database.snapshot(lambda connection: _next(connection, limit))
        if after == before:
            return 0
        added = sum_up(uses)

        def write(connection: Connection) -> None:
            if _cursor(connection) == before:  # else a COMMIT in doubt did go through, or the sums are made up anew
                _add(connection, added)
                values = {"next_leaf": after.next_leaf, "next_failure": after.next_failure}
                connection.execute(update(USAGE_CURSOR).values(values))

        await self._writer.write(write, beside_books=True)
        return after.next_leaf - before.next_leaf + after.next_failure - before.next_failure

    async def rebuild(self) -> int:
        """Throws all sums away; gives how many leaves the log has."""

        def write(connection: Connection) -> int:
            size = connection.execute(select(LOG_HEAD.c.size)).scalar_one()
            connection.execute(delete(USAGE_SUM))
            connection.execute(update(USAGE_CURSOR).values(next_leaf=0, next_failure=0))
            return int(size)

        return await self._writer.write(write, beside_books=True)

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

        return await self._writer.write(write, beside_books=True) if by_name else 0

    async def usage(self, question: Question) -> Usage:
        """The sums of one moment, with what has not been taken into them yet.

        Raises:
            LedgerUnavailable: that is too much: the sums are being made up.
            InvalidRequest: there are more than ``MAX_GROUPS``.
        """
        return await self._database.snapshot(lambda connection: answer(connection, question))


def _cursor(connection: Connection) -> _Cursor:
    row = connection.execute(select(USAGE_CURSOR.c.next_leaf, USAGE_CURSOR.c.next_failure)).one()
    return _Cursor(*row)


def _next(connection: Connection, limit: int) -> tuple[_Cursor, _Cursor, list[Use]]:
    """Where the sums end, where they will, and what is between."""
    before = _cursor(connection)
    leaves = connection.execute(
        select(LOG_LEAF.c.leaf_index, *USED)
        .select_from(_LEAVES)
        .where(LOG_LEAF.c.leaf_index >= before.next_leaf, LOG_LEAF.c.leaf_index < before.next_leaf + limit)
        .order_by(LOG_LEAF.c.leaf_index)
    ).all()
    failures = connection.execute(_failures_from(before).where(FAILED_REQUEST.c.ordinal < before.next_failure + limit))
    uses = [use_of(row) for row in leaves if row.org_id is not None]  # a leaf may be of something else than a receipt
    failed = [failed_use_of(row) for row in failures]
    after = _Cursor(leaves[-1].leaf_index + 1 if leaves else before.next_leaf, before.next_failure + len(failed))
    return before, after, uses + failed


def _failures_from(cursor: _Cursor) -> Select[Any]:
    return (
        select(FAILED_REQUEST).where(FAILED_REQUEST.c.ordinal >= cursor.next_failure).order_by(FAILED_REQUEST.c.ordinal)
    )


def use_of(row: Any) -> Use:
    """Of a row with ``USED``."""
    document = orjson.loads(row.document)
    used = document["usage"]
    return Use(
        row.org_id,
        Group(
            row.project_id,
            row.key_id,
            row.model,
            row.source_id,
            tier_of(document["price"]["tier"], document["requested_model"]),
            row.served_mode,
        ),
        row.created_at_ms,
        tuple(document.get("tags", {}).items()),
        (
            *(1, 0, used["input_tokens"], used["cached_input_tokens"], used["cache_write_tokens"]),
            *(used["output_tokens"], used["reasoning_tokens"]),
            *(row.charged_nano_usd, row.saved_nano_usd, row.absorbed_nano_usd),
        ),
        latency_of(row.created_at_ms, document.get("started_at_ms", 0), row.held_at_ms),
    )


def failed_use_of(row: Any) -> Use:
    """Of a row of failed_request."""
    tags = tuple(orjson.loads(row.tags).items())
    return failed_use(row.org_id, row.project_id, row.key_id, row.model, at_ms=row.at_ms, tags=tags)


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


def _add(connection: Connection, added: dict[SumName, Sums]) -> None:
    by_key = {tuple(key_of(name)): (name, sums) for name, sums in added.items()}
    changed = []
    for row in _READ_SUMS.run(connection, list(by_key)):
        key, counts, latencies = tuple(row[: len(KEY)]), row[len(KEY) : -1], row[-1]
        _, sums = by_key.pop(key)
        sums = Sums(list(sums.counts), sums.latencies)  # what was worked out stays: this may run again
        sums.add(counts, latency.decode(latencies))
        changed.append((*key, *_added(sums)))
    new = [record_of(name, sums) for name, sums in by_key.values()]
    write_all(connection, (_INSERT_SUMS, new), (_UPDATE_SUMS, changed))


def answer(connection: Connection, question: Question) -> Usage:
    """See ``UsageSums.usage``."""
    cursor = _cursor(connection)
    behind = connection.execute(select(LOG_HEAD.c.size)).scalar_one() - cursor.next_leaf
    if behind > MAX_BEHIND:
        raise LedgerUnavailable(f"usage is being made up from the receipts: {behind} are left; try again in a moment")
    groups = _sums(connection, question, "", [d for d in question.dimensions if d is not Dimension.TAG])
    if Dimension.TAG in question.dimensions:
        groups = _by_tag(connection, question, groups)
    for use in _rest(connection, cursor, question):
        values = values_of(question, use)
        latencies = 0 if use.latency_ms is None else latency.latencies_of(use.latency_ms)
        groups.setdefault(values, Sums()).add(use.counts, latencies)
    if len(groups) > MAX_GROUPS:
        raise InvalidRequest("group_by", f"gives {len(groups)} groups, more than {MAX_GROUPS}; ask for less time")
    return Usage(groups, _corrected(connection, question))


def _by_tag(connection: Connection, question: Question, all_groups: dict[Values, Sums]) -> dict[Values, Sums]:
    """What has the tag, by its value; and all else, which is what is left of the sums over all."""
    place = question.dimensions.index(Dimension.TAG)
    groups = _sums(connection, question, question.tag_key, question.dimensions)
    tagged: dict[Values, Sums] = {}
    for values, sums in groups.items():
        others = values[:place] + values[place + 1 :]
        tagged.setdefault(others, Sums()).add(sums.counts, sums.latencies)
    for others, sums in all_groups.items():
        untagged = sums.less(tagged[others]) if others in tagged else sums
        if not untagged.is_empty:
            groups[(*others[:place], None, *others[place:])] = untagged
    return groups


def _sums(
    connection: Connection, question: Question, tag_key: str, dimensions: Sequence[Dimension]
) -> dict[Values, Sums]:
    """The counts are added by the database; the latencies here, as no database can."""
    groups: dict[Values, Sums] = {}
    columns = [_column(dimension) for dimension in dimensions]
    width = len(columns)
    counts = [func.sum(USAGE_SUM.columns[name]) for name in COUNTS]
    for where in _segments(question, tag_key, by_hour=Dimension.HOUR in dimensions):
        for row in connection.execute(select(*columns, *counts).where(where).group_by(*columns)):
            if row[width] is not None:  # a sum without groups is a row, of nothing perhaps
                groups.setdefault(tuple(row[:width]), Sums()).add(map(int, row[width:]), 0)
        for row in connection.execute(select(*columns, USAGE_SUM.c.latencies).where(where)):
            groups[row[:-1]].latencies += latency.decode(row[-1])  # the one line that runs for each sum
    return groups


def _column(dimension: Dimension) -> ColumnElement[Any]:
    if dimension is Dimension.HOUR:
        return USAGE_SUM.c.starts_at_ms
    if dimension is Dimension.DAY:
        return (USAGE_SUM.c.starts_at_ms - USAGE_SUM.c.starts_at_ms % DAY_MS).label("day")
    return USAGE_SUM.columns[COLUMN_OF[dimension]]


def _segments(question: Question, tag_key: str, *, by_hour: bool) -> Iterable[ColumnElement[bool]]:
    """The question's time, in whole days where there are any, each with the filters."""
    days_from, days_to = -(-question.from_ms // DAY_MS) * DAY_MS, question.to_ms // DAY_MS * DAY_MS
    if by_hour or days_from >= days_to:
        spans = [(Period.HOUR, question.from_ms, question.to_ms)]
    else:
        spans = [
            (Period.HOUR, question.from_ms, days_from),
            (Period.DAY, days_from, days_to),
            (Period.HOUR, days_to, question.to_ms),
        ]
    filters = [
        USAGE_SUM.columns[name] == value
        for name in ("project_id", "key_id", "model")
        if (value := getattr(question, name))
    ]
    for period, low, high in spans:
        if low < high:
            yield and_(
                USAGE_SUM.c.org_id == question.org_id,
                USAGE_SUM.c.tag_key == tag_key,
                USAGE_SUM.c.period == period.value,
                USAGE_SUM.c.starts_at_ms >= low,
                USAGE_SUM.c.starts_at_ms < high,
                *filters,
            )


def _rest(connection: Connection, cursor: _Cursor, question: Question) -> Iterator[Use]:
    """What of the question is behind the cursor. It begins at the leaves, which are few: no index serves how the
    organisation is compared, and no database takes it for a reason to begin at the receipts.
    """
    whose = func.coalesce(RECEIPT.c.org_id, "") == question.org_id
    receipts = select(*USED).select_from(_LEAVES).where(LOG_LEAF.c.leaf_index >= cursor.next_leaf, whose)
    whose = func.coalesce(FAILED_REQUEST.c.org_id, "") == question.org_id
    failures = _failures_from(cursor).where(whose)
    for rows, make_use in ((receipts, use_of), (failures, failed_use_of)):
        for use in map(make_use, connection.execute(rows)):
            if _asks_for(question, use):
                yield use


def _asks_for(question: Question, use: Use) -> bool:
    group = use.group
    return (
        question.from_ms <= use.at_ms < question.to_ms
        and question.project_id in ("", group.project_id)
        and question.key_id in ("", group.key_id)
        and question.model in ("", group.model)
    )


def _corrected(connection: Connection, question: Question) -> dict[Values, int]:
    """What was given back, by the group of the receipt that it was given back of. There is little of it."""
    given_back = (CORRECTION.c.promo_nano_usd + CORRECTION.c.paid_nano_usd).label("given_back")
    query = (
        select(given_back, *USED)
        .select_from(_with_receipt(CORRECTION, CORRECTION.c.receipt_id))
        .where(CORRECTION.c.org_id == question.org_id, func.coalesce(RECEIPT.c.org_id, "") == question.org_id)
    )
    corrected: dict[Values, int] = {}
    for row in connection.execute(query):
        use = use_of(row)
        if _asks_for(question, use):
            values = values_of(question, use)
            corrected[values] = corrected.get(values, 0) + row.given_back
    return corrected
