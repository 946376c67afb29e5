"""The answer to a question about usage: the sums, and what they do not have yet, from one state of the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from ledger_svc.domain import latency
from ledger_svc.domain.errors import InvalidRequest, LedgerUnavailable
from ledger_svc.domain.usage import (
    COLUMN_OF,
    COUNTS,
    DAY_MS,
    Dimension,
    Period,
    Question,
    Sums,
    Usage,
    Use,
    Values,
    values_of,
)
from ledger_svc.store.tables import CORRECTION, FAILED_REQUEST, LOG_HEAD, LOG_LEAF, RECEIPT, USAGE_SUM
from ledger_svc.store.uses import LEAVES, USED, Cursor, cursor_of, failed_use_of, failures_from, use_of, with_receipt

MAX_BEHIND = 20_000
"""Leaves, and failures, that a question adds up itself."""
MAX_GROUPS = 10_000


def answer(connection: Connection, question: Question) -> Usage:
    """See ``UsageSums.usage``."""
    cursor = cursor_of(connection)
    behind = connection.execute(select(LOG_HEAD.c.size)).scalar_one() - cursor.next_leaf
    if behind > MAX_BEHIND:
        raise LedgerUnavailable(f"usage is being made up from the receipts: {behind} are left; try again in a moment")
    groups = _sums(connection, question, "", [d for d in question.dimensions if d is not Dimension.TAG])
    if Dimension.TAG in question.dimensions:
        groups = _by_tag(connection, question, groups)
    for use in _rest(connection, cursor, question):
        values = values_of(question, use)
        groups.setdefault(values, Sums()).add(use.counts, use.latencies)
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
    """The counts are added by the database; the latencies here, as no database can, but it gathers them: a row for each
    sum would cost more than adding them does.
    """
    groups: dict[Values, Sums] = {}
    columns = [_column(dimension) for dimension in dimensions]
    width = len(columns)
    counts = [func.sum(USAGE_SUM.columns[name]) for name in COUNTS]
    encoded = USAGE_SUM.c.latencies
    in_hex = func.encode(encoded, "hex") if connection.dialect.name == "postgresql" else func.hex(encoded)
    gathered = func.aggregate_strings(in_hex, ",")
    for where in _segments(question, tag_key, by_hour=Dimension.HOUR in dimensions):
        for row in connection.execute(select(*columns, *counts, gathered).where(where).group_by(*columns)).all():
            if row[width] is not None:  # a sum without groups is a row, of nothing perhaps
                latencies = sum(map(latency.decode, map(bytes.fromhex, row[-1].split(","))))
                groups.setdefault(tuple(row[:width]), Sums()).add(map(int, row[width:-1]), latencies)
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


def _rest(connection: Connection, cursor: Cursor, question: Question) -> Iterator[Use]:
    """What of the question is behind the cursor. It begins at the leaves, which are few: no index serves how the
    organisation is compared, and no database takes it for a reason to begin at the receipts.
    """
    whose = func.coalesce(RECEIPT.c.org_id, "") == question.org_id
    receipts = select(*USED).select_from(LEAVES).where(LOG_LEAF.c.leaf_index >= cursor.next_leaf, whose)
    whose = func.coalesce(FAILED_REQUEST.c.org_id, "") == question.org_id
    failures = failures_from(cursor).where(whose)
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
        .select_from(with_receipt(CORRECTION, CORRECTION.c.receipt_id))
        .where(CORRECTION.c.org_id == question.org_id, func.coalesce(RECEIPT.c.org_id, "") == question.org_id)
    )
    corrected: dict[Values, int] = {}
    for row in connection.execute(query):
        use = use_of(row)
        if _asks_for(question, use):
            values = values_of(question, use)
            corrected[values] = corrected.get(values, 0) + row.given_back
    return corrected
