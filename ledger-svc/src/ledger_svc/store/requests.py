"""Single requests: those that have a receipt, and those that failed without one, as one list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, select, text, tuple_

from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.receipts import decode
from ledger_svc.domain.usage import latency_of
from ledger_svc.service.usage_ports import Failure, FinishedRequest, RequestFilter
from ledger_svc.store.database import Database
from ledger_svc.store.tables import FAILED_REQUEST, RECEIPT, RESERVATION

# A request that failed before its answer began and has a receipt all the same was sent again, under the same
# Idempotency-Key: it is the receipt's. One that failed after that has both.
_BROKEN_OFF = and_(
    FAILED_REQUEST.c.org_id == RECEIPT.c.org_id,
    FAILED_REQUEST.c.request_id == RECEIPT.c.request_id,
    FAILED_REQUEST.c.http_status == 200,
)
_RECEIPTS = select(
    RECEIPT.c.document, RESERVATION.c.created_at_ms.label("held_at_ms"), *FAILED_REQUEST.columns
).select_from(
    RECEIPT.join(RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id).outerjoin(FAILED_REQUEST, _BROKEN_OFF)
)
_HAS_RECEIPT = (
    select(RECEIPT.c.receipt_id)
    .where(RECEIPT.c.org_id == FAILED_REQUEST.c.org_id, RECEIPT.c.request_id == FAILED_REQUEST.c.request_id)
    .exists()
)
_FAILURES = select(FAILED_REQUEST).where(~_HAS_RECEIPT)

# The text is looked for first, because that is quick; it might stand elsewhere in the JSON.
_TAGGED = {
    "sqlite": "instr({json}, :found) > 0 AND EXISTS (SELECT 1 FROM json_each({json}{path}) AS tag "
    "WHERE tag.key = :tag_key AND tag.value = :tag_value)",
    "postgresql": "strpos({json}, :found) > 0 AND CAST({json} AS json){path} ->> CAST(:tag_key AS text) = :tag_value",
}
_WIDTH = len(Failure.__dataclass_fields__)
_TAGS = list(Failure.__dataclass_fields__).index("tags")
assert [column.name for column in FAILED_REQUEST.columns][1:] == list(Failure.__dataclass_fields__)
_PATHS = {"sqlite": ", '$.tags'", "postgresql": " -> 'tags'"}


class RequestLog:
    """Implements ``ports.RequestStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def requests(
        self, asked: RequestFilter, *, limit: int, before: tuple[int, str] | None
    ) -> list[FinishedRequest]:
        """At most ``limit``, newest first; ``before``: those behind this position."""

        if before is not None:
            # SQLite does not look for the end of an index by a pair.
            asked = replace(asked, to_ms=min(asked.to_ms or before[0] + 1, before[0] + 1))

        def read(connection: Connection) -> list[FinishedRequest]:
            dialect = connection.dialect.name
            found: list[FinishedRequest] = []
            for query in (_receipts(asked, before, dialect), _failures(asked, before, dialect)):
                if query is not None:
                    found += map(_finished, connection.execute(query.limit(limit)))
            return sorted(found, key=lambda request: request.position, reverse=True)[:limit]

        return await self._database.read(read)

    async def request(self, org_id: str, request_id: str) -> FinishedRequest:
        """Raises:
        NotFound: also where it is another organisation's.
        """

        def read(connection: Connection) -> Row[Any] | None:
            charged = _RECEIPTS.where(RECEIPT.c.org_id == org_id, RECEIPT.c.request_id == request_id)
            failed = _FAILURES.where(FAILED_REQUEST.c.org_id == org_id, FAILED_REQUEST.c.request_id == request_id)
            return connection.execute(charged).one_or_none() or connection.execute(failed).one_or_none()

        row = await self._database.read(read)
        if row is None:
            raise NotFound(f"no request {request_id}")
        return _finished(row)


def _receipts(asked: RequestFilter, before: tuple[int, str] | None, dialect: str) -> Select[Any]:
    query = _RECEIPTS.where(*_wanted(asked, RECEIPT, RECEIPT.c.created_at_ms))
    if asked.source_id:
        query = query.where(RECEIPT.c.source_id == asked.source_id)
    if asked.served_mode is not None:
        query = query.where(RECEIPT.c.served_mode == asked.served_mode.value)
    if asked.ok is not None:
        failed = FAILED_REQUEST.c.ordinal
        query = query.where(failed.is_(None) if asked.ok else failed.is_not(None))
    if asked.tag is not None:
        query = query.where(_tagged("receipt.document", _PATHS[dialect], asked.tag, dialect))
    order = (RECEIPT.c.created_at_ms, RECEIPT.c.receipt_id)
    return _page(query, order, before)


def _failures(asked: RequestFilter, before: tuple[int, str] | None, dialect: str) -> Select[Any] | None:
    """None: no failure is asked for."""
    if asked.ok or asked.source_id or asked.served_mode is not None:
        return None
    query = _FAILURES.where(*_wanted(asked, FAILED_REQUEST, FAILED_REQUEST.c.at_ms))
    if asked.tag is not None:
        query = query.where(_tagged("failed_request.tags", "", asked.tag, dialect))
    return _page(query, (FAILED_REQUEST.c.at_ms, FAILED_REQUEST.c.request_id), before)


def _page(query: Select[Any], order: tuple[Any, Any], before: tuple[int, str] | None) -> Select[Any]:
    if before is not None:
        query = query.where(tuple_(*order) < before)
    return query.order_by(*(column.desc() for column in order))


def _wanted(asked: RequestFilter, table: Any, at_ms: ColumnElement[int]) -> list[ColumnElement[bool]]:
    wanted = [table.c.org_id == asked.org_id, at_ms >= asked.from_ms]
    if asked.to_ms:
        wanted.append(at_ms < asked.to_ms)
    names = ("project_id", "key_id", "model")
    return wanted + [table.c[name] == value for name in names if (value := getattr(asked, name))]


def _tagged(json: str, path: str, tag: tuple[str, str], dialect: str) -> Any:
    key, value = tag
    found = orjson.dumps({key: value}).decode()[1:-1]
    return text(_TAGGED[dialect].format(json=json, path=path)).bindparams(found=found, tag_key=key, tag_value=value)


def _finished(row: Row[Any]) -> FinishedRequest:
    """Of a row of either query."""
    failure = None if row.ordinal is None else _failure(row)
    document = row._mapping.get("document")
    if document is None:
        assert failure is not None
        return FinishedRequest(failure.at_ms, failure.latency_ms, failure=failure)
    receipt = decode(document)
    latency_ms = latency_of(receipt.created_at_ms, receipt.facts.started_at_ms, row.held_at_ms)
    return FinishedRequest(receipt.created_at_ms, latency_ms, receipt, failure)


def _failure(row: Row[Any]) -> Failure:
    values: list[Any] = list(row[-_WIDTH:])  # in the order of the columns
    values[_TAGS] = tuple(orjson.loads(values[_TAGS]).items())
    return Failure(*values)
