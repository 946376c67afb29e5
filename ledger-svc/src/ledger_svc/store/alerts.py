"""Alerts of caps. Looking costs by what was spent since the last look, not by how many caps there are: whose receipts
came is known in the order of their leaves, from the batches that this process wrote (``store.tail``) or from the log.
Where nothing came that a cap may be of, nothing is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection, insert, select, tuple_, update

from ledger_svc.domain.alerts import Alert, AlertName, alert, crossed
from ledger_svc.domain.book import Book
from ledger_svc.domain.caps import Bucket, Cap, CapPeriod, CapScope, CapUnit, period_start_ms, scopes_of
from ledger_svc.service.webhook_ports import CapRevision, Look, Watermark
from ledger_svc.store.database import Database
from ledger_svc.store.outbox import publish
from ledger_svc.store.rollup import roll_up
from ledger_svc.store.rows import bucket_from_row, cap_from_row, values
from ledger_svc.store.tables import (
    ALERT_WATCH,
    API_KEY,
    CAP,
    CAP_ALERT,
    CAP_BUCKET,
    LOG_HEAD,
    LOG_LEAF,
    ORG,
    PROJECT,
    RECEIPT,
    RESERVATION,
)
from ledger_svc.store.tail import Run, Tail
from ledger_svc.store.writer import Writer

LEAVES = 5_000
"""Of one look."""
_SCOPES = 400
"""Of one query."""
_DAY_MS = 24 * 3_600 * 1_000
_NAMES = {
    CapScope.KEY: (API_KEY.c.key_id, API_KEY.c.name),
    CapScope.PROJECT: (PROJECT.c.project_id, PROJECT.c.name),
    CapScope.ORGANIZATION: (ORG.c.org_id, ORG.c.name),
}


@dataclass(slots=True)
class _Seen:
    """What is to be looked at: by scope, the days in which something of it was held; and caps that are new, also by
    (scope id, period, unit). ``has_new_caps``: there are such, to be read.
    """

    has_new_caps: bool = False
    days: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    caps: list[CapRevision] = field(default_factory=list)
    new: set[tuple[str, str, str]] = field(default_factory=set)


class Alerts:
    """Implements ``webhook_ports.Alerts``."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._tail: Tail[_Seen] = Tail(_Seen, _see_batch)
        writer.follow(self._tail.saw)

    async def watermark(self) -> Watermark:
        """See ``webhook_ports.Alerts``."""
        query = select(ALERT_WATCH.c.leaf_index, ALERT_WATCH.c.caps_since_ms)
        return Watermark(*await self._database.read(lambda connection: connection.execute(query).one()))

    async def look(self, mark: Watermark, known_caps: Collection[CapRevision], now_ms: int) -> Look:
        """See ``webhook_ports.Alerts``."""

        run, goes_on = self._tail.take(mark.leaf_index)
        if run is not None:
            return await self._look_at(run, mark, known_caps, now_ms)
        if mark.leaf_index == self._writer.log_size:  # a cap that is set has a leaf, too
            return Look([], mark.leaf_index, False, [])

        def read(connection: Connection) -> Look:
            # The size comes first: whatever is read behind it has what these receipts did.
            size = connection.execute(select(LOG_HEAD.c.size)).scalar_one()
            end = min(size, mark.leaf_index + LEAVES, size if goes_on is None else goes_on)
            seen = _Seen()
            _see_receipts(connection, seen, mark.leaf_index, end)
            _see_caps(connection, seen, mark.caps_since_ms, known_caps, now_ms)
            return Look(_all_reached(connection, seen, now_ms), end, end < size, seen.caps)

        return await self._database.read(read)

    async def _look_at(
        self, run: Run[_Seen], mark: Watermark, known_caps: Collection[CapRevision], now_ms: int
    ) -> Look:
        """At what was written by batches, and is durable."""
        seen = run.content
        if not seen.days and not seen.has_new_caps:
            return Look([], run.end, self._tail.has_runs, [])

        def read(connection: Connection) -> list[Alert]:
            if seen.has_new_caps:
                _see_caps(connection, seen, mark.caps_since_ms, known_caps, now_ms)
            return _all_reached(connection, seen, now_ms)

        return Look(await self._database.read(read), run.end, self._tail.has_runs, seen.caps)

    async def tell(self, alerts: Sequence[Alert], mark: Watermark) -> list[Alert]:
        """See ``webhook_ports.Alerts``."""

        def work(connection: Connection) -> list[Alert]:
            told = _told(connection, {alert.scope_id for alert in alerts}, {alert.starts_at_ms for alert in alerts})
            new = [alert for alert in alerts if alert.alert_name not in told]
            for found in new:
                connection.execute(insert(CAP_ALERT).values(_values(found)))
                publish(connection, found.event())
            connection.execute(update(ALERT_WATCH).values(values(mark)))
            return new

        return await self._writer.write(work, beside_books=True)

    async def page(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Alert]:
        """See ``webhook_ports.Alerts``."""
        order = (CAP_ALERT.c.created_at_ms, CAP_ALERT.c.alert_id)
        query = select(CAP_ALERT).where(CAP_ALERT.c.org_id == org_id)
        if before:
            query = query.where(tuple_(*order) < before)
        query = query.order_by(*(column.desc() for column in order)).limit(limit)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            Alert(
                *(scope_id, CapPeriod(period), CapUnit(unit), starts_at_ms, percent),
                *(alert_id, org_id, CapScope(scope), *rest),
            )
            for scope_id, period, unit, starts_at_ms, percent, alert_id, org_id, scope, *rest in found
        ]


def _see_batch(seen: _Seen, book: Book) -> bool:
    """What ``_see_receipts`` would read. An organisation without caps has nothing that could be reached; where it is
    given its first, that is new.
    """
    seen.has_new_caps = seen.has_new_caps or bool(book.new_caps)
    for entry in book.new_receipts:
        receipt = entry.receipt
        if receipt.org_id in book.capped:
            day_ms = book.holds[receipt.org_id, receipt.request_id].created_at_ms // _DAY_MS * _DAY_MS
            for scope_id in scopes_of(receipt.key_id, receipt.project_id, receipt.org_id):
                seen.days[scope_id].add(day_ms)
    return len(seen.days) < _SCOPES


def _see_receipts(connection: Connection, seen: _Seen, start: int, end: int) -> None:
    """Whose receipts these are, and of which days their holds. A hold belongs to the period in which it was made."""
    if start >= end:
        return
    of_scopes = (RESERVATION.c.org_id, RESERVATION.c.project_id, RESERVATION.c.key_id)
    query = (
        select(*of_scopes, (RESERVATION.c.created_at_ms // _DAY_MS).label("day"))
        .distinct()
        .select_from(LOG_LEAF)
        .join(RECEIPT, RECEIPT.c.receipt_id == LOG_LEAF.c.entry_id)
        .join(RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id)
        .where(LOG_LEAF.c.leaf_index >= start, LOG_LEAF.c.leaf_index < end)
    )
    for *scope_ids, day in connection.execute(query):
        for scope_id in scope_ids:
            seen.days[scope_id].add(int(day) * _DAY_MS)


def _see_caps(connection: Connection, seen: _Seen, since_ms: int, known: Collection[CapRevision], now_ms: int) -> None:
    query = select(CAP.c.scope_id, CAP.c.period, CAP.c.unit, CAP.c.revision, CAP.c.set_at_ms)
    for row in connection.execute(query.where(CAP.c.set_at_ms >= since_ms)):
        revision = (row.scope_id, row.period, row.unit, row.revision, row.set_at_ms)
        if revision not in known:
            seen.caps.append(revision)
            seen.new.add(revision[:3])
            seen.days[row.scope_id].add(now_ms)


def _all_reached(connection: Connection, seen: _Seen, now_ms: int) -> list[Alert]:
    scope_ids = iter(sorted(seen.days))
    alerts: list[Alert] = []
    while some := list(islice(scope_ids, _SCOPES)):
        alerts += _reached(connection, some, seen, now_ms)
    return alerts


def _reached(connection: Connection, scope_ids: Sequence[str], seen: _Seen, now_ms: int) -> list[Alert]:
    """The thresholds of these scopes that were reached and not told."""
    newest: dict[tuple[str, CapPeriod, CapUnit], Cap] = {}
    for row in connection.execute(select(CAP).where(CAP.c.scope_id.in_(scope_ids)).order_by(CAP.c.revision)):
        cap = cap_from_row(row)
        newest[cap.scope_id, cap.period, cap.unit] = cap
    caps = [cap for cap in newest.values() if cap.is_set]
    if not caps:
        return []
    found: list[tuple[Cap, Bucket]] = list(_buckets(connection, caps, seen))
    starts = {bucket.starts_at_ms for _, bucket in found}
    told = _told(connection, {cap.scope_id for cap in caps}, starts)
    reached = [
        (cap, bucket, percent)
        for cap, bucket in found
        for percent in crossed(cap, bucket)
        if (bucket.scope_id, bucket.period, bucket.unit, bucket.starts_at_ms, percent) not in told
    ]
    names = _names(connection, [cap for cap, _, _ in reached])
    return [
        alert(cap, bucket, percent, name=names.get(cap.scope_id, ""), now_ms=now_ms) for cap, bucket, percent in reached
    ]


def _buckets(connection: Connection, caps: Sequence[Cap], seen: _Seen) -> Iterator[tuple[Cap, Bucket]]:
    """What counts for the caps in the periods that something happened in. Where nothing has asked for the bucket of a
    new cap yet, it is made up from the books, as it will be by the next hold.
    """
    wanted = {
        (cap.scope_id, cap.period, cap.unit, period_start_ms(cap.period, at_ms)): cap
        for cap in caps
        for at_ms in seen.days[cap.scope_id]
    }
    query = select(CAP_BUCKET).where(
        CAP_BUCKET.c.scope_id.in_(sorted({cap.scope_id for cap in caps})),
        CAP_BUCKET.c.starts_at_ms.in_(sorted({name[-1] for name in wanted})),
    )
    for row in connection.execute(query).all():
        bucket = bucket_from_row(row)
        cap = wanted.pop(bucket.name, None)
        if cap is not None:
            yield cap, bucket
    for name, cap in wanted.items():
        if (cap.scope_id, cap.period.value, cap.unit.value) in seen.new:
            yield cap, roll_up(connection, cap, name[-1])


def _told(connection: Connection, scope_ids: Collection[str], starts: Collection[int]) -> set[AlertName]:
    if not scope_ids or not starts:
        return set()
    told = (CAP_ALERT.c.scope_id, CAP_ALERT.c.period, CAP_ALERT.c.unit)
    query = select(*told, CAP_ALERT.c.starts_at_ms, CAP_ALERT.c.threshold_percent).where(
        CAP_ALERT.c.scope_id.in_(sorted(scope_ids)), CAP_ALERT.c.starts_at_ms.in_(sorted(starts))
    )
    return {
        (scope_id, CapPeriod(period), CapUnit(unit), starts_at_ms, percent)
        for scope_id, period, unit, starts_at_ms, percent in connection.execute(query)
    }


def _names(connection: Connection, caps: Iterable[Cap]) -> Mapping[str, str]:
    by_scope: dict[CapScope, set[str]] = defaultdict(set)
    for cap in caps:
        by_scope[cap.scope].add(cap.scope_id)
    names: dict[str, str] = {}
    for scope, scope_ids in by_scope.items():
        scope_id, name = _NAMES[scope]
        names |= {row[0]: row[1] for row in connection.execute(select(scope_id, name).where(scope_id.in_(scope_ids)))}
    return names


def _values(found: Alert) -> dict[str, object]:
    enums = {"period": found.period.value, "unit": found.unit.value, "scope": found.scope.value}
    return values(found) | enums
