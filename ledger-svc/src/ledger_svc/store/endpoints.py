"""Webhook endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, select, tuple_, update

from ledger_svc.domain.deliveries import DeliveryState
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import MAX_ENDPOINTS, Endpoint
from ledger_svc.service.webhook_ports import Change, ChangeEntry
from ledger_svc.store.database import Database
from ledger_svc.store.rows import Values, values
from ledger_svc.store.tables import API_KEY, ORG, WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer

_SECRET_COLUMNS = ("secret", "previous_secret", "deleted_at_ms")
ENDPOINT_COLUMNS = [column for column in WEBHOOK_ENDPOINT.columns if column.name not in _SECRET_COLUMNS]
"""What an ``Endpoint`` is made of."""
IS_LIVE: ColumnElement[bool] = WEBHOOK_ENDPOINT.c.deleted_at_ms == 0


class Endpoints:
    """Implements ``webhook_ports.Endpoints``."""

    def __init__(self, database: Database, writer: Writer, trail: Trail) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail

    async def create(self, endpoint: Endpoint, secret: str, entry: TrailEntry) -> None:
        """See ``webhook_ports.Endpoints``."""

        def create(connection: Connection) -> None:
            if connection.execute(_query(endpoint.org_id, endpoint.endpoint_id)).first():
                return  # a COMMIT in doubt did go through
            _check_room(connection, endpoint)
            sealed = {"secret": secret, "previous_secret": "", "deleted_at_ms": 0}
            connection.execute(insert(WEBHOOK_ENDPOINT).values(_values(endpoint) | sealed))
            self._trail.record(connection, entry)

        await self._writer.write(create)

    async def page(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[Endpoint]:
        """See ``webhook_ports.Endpoints``."""
        order = (WEBHOOK_ENDPOINT.c.created_at_ms, WEBHOOK_ENDPOINT.c.endpoint_id)
        query = select(*ENDPOINT_COLUMNS).where(WEBHOOK_ENDPOINT.c.org_id == org_id, IS_LIVE)
        if after:
            query = query.where(tuple_(*order) > after)
        query = query.order_by(*order).limit(limit)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [endpoint_from_row(row) for row in found]

    async def endpoint(self, org_id: str, endpoint_id: str) -> Endpoint:
        """See ``webhook_ports.Endpoints``."""
        return await self._database.read(lambda connection: find_endpoint(connection, org_id, endpoint_id))

    async def of_key(self, org_id: str, key_id: str) -> Endpoint | None:
        """See ``webhook_ports.Endpoints``."""
        query = select(*ENDPOINT_COLUMNS).where(
            WEBHOOK_ENDPOINT.c.org_id == org_id, WEBHOOK_ENDPOINT.c.key_id == key_id, IS_LIVE
        )
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else endpoint_from_row(row)

    async def update(self, org_id: str, endpoint_id: str, change: Change, entry_of: ChangeEntry) -> Endpoint:
        """See ``webhook_ports.Endpoints``."""

        def work(connection: Connection) -> Endpoint:
            before = find_endpoint(connection, org_id, endpoint_id)
            after = change(before)
            if after != before:
                entry = entry_of(before, after)
                write_endpoint(connection, after, entry.created_at_ms)
                self._trail.record(connection, entry)
            return after

        return await self._writer.write(work)

    async def delete(self, org_id: str, endpoint_id: str, entry_of: Callable[[Endpoint], TrailEntry]) -> None:
        """See ``webhook_ports.Endpoints``."""
        tries = 0

        def work(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            try:
                before = find_endpoint(connection, org_id, endpoint_id)
            except NotFound:
                if tries > 1:
                    return  # a COMMIT in doubt did go through
                raise
            entry = entry_of(before)
            _cancel_pending(connection, endpoint_id, entry.created_at_ms)
            gone = {"secret": "", "previous_secret": "", "deleted_at_ms": entry.created_at_ms}
            connection.execute(_update(endpoint_id).values(gone))
            self._trail.record(connection, entry)

        await self._writer.write(work)

    async def rotate(
        self, org_id: str, endpoint_id: str, secret: str, *, previous_until_ms: int, entry_of: ChangeEntry
    ) -> Endpoint:
        """See ``webhook_ports.Endpoints``."""

        def work(connection: Connection) -> Endpoint:
            before = find_endpoint(connection, org_id, endpoint_id)
            after = replace(before, previous_until_ms=previous_until_ms)
            of_endpoint = WEBHOOK_ENDPOINT.c.endpoint_id == endpoint_id
            current = connection.execute(select(WEBHOOK_ENDPOINT.c.secret).where(of_endpoint)).scalar_one()
            if current == secret:
                return before  # a COMMIT in doubt did go through
            secrets = {"secret": secret, "previous_secret": current, "previous_until_ms": previous_until_ms}
            connection.execute(_update(endpoint_id).values(secrets))
            self._trail.record(connection, entry_of(before, after))
            return after

        return await self._writer.write(work)


def endpoint_from_row(row: Row[Any]) -> Endpoint:
    """Of ``ENDPOINT_COLUMNS``."""
    found = row._asdict()
    return Endpoint(**found | {"event_types": tuple(json.loads(found["event_types"]))})


def find_endpoint(connection: Connection, org_id: str, endpoint_id: str) -> Endpoint:
    """Raises:
    NotFound: also where it is deleted, or another organisation's.
    """
    row = connection.execute(_query(org_id, endpoint_id).where(IS_LIVE)).one_or_none()
    if row is None:
        raise NotFound(f"no webhook {endpoint_id} in organisation {org_id}")
    return endpoint_from_row(row)


def write_endpoint(connection: Connection, endpoint: Endpoint, now_ms: int) -> None:
    """Writes how an endpoint is now, and cancels what waits for one that is off."""
    connection.execute(_update(endpoint.endpoint_id).values(_values(endpoint)))
    if not endpoint.enabled:
        _cancel_pending(connection, endpoint.endpoint_id, now_ms)


def _query(org_id: str, endpoint_id: str) -> Any:
    return select(*ENDPOINT_COLUMNS).where(
        WEBHOOK_ENDPOINT.c.endpoint_id == endpoint_id, WEBHOOK_ENDPOINT.c.org_id == org_id
    )


def _update(endpoint_id: str) -> Any:
    return update(WEBHOOK_ENDPOINT).where(WEBHOOK_ENDPOINT.c.endpoint_id == endpoint_id)


def _values(endpoint: Endpoint) -> Values:
    return values(endpoint) | {"event_types": json.dumps(endpoint.event_types)}


def _check_room(connection: Connection, endpoint: Endpoint) -> None:
    if not connection.execute(select(ORG.c.org_id).where(ORG.c.org_id == endpoint.org_id)).first():
        raise NotFound(f"no organisation {endpoint.org_id}")
    same_key = and_(WEBHOOK_ENDPOINT.c.org_id == endpoint.org_id, WEBHOOK_ENDPOINT.c.key_id == endpoint.key_id, IS_LIVE)
    count = connection.execute(select(func.count()).select_from(WEBHOOK_ENDPOINT).where(same_key)).scalar_one()
    if not endpoint.key_id:
        if count >= MAX_ENDPOINTS:
            raise InvalidRequest("url", f"the organisation has {count} webhooks, more are not allowed: delete one")
        return
    of_org = and_(API_KEY.c.key_id == endpoint.key_id, API_KEY.c.org_id == endpoint.org_id)
    if not connection.execute(select(API_KEY.c.key_id).where(of_org)).first():
        raise NotFound(f"no API key {endpoint.key_id}")
    if count:
        raise InvalidRequest("key_id", "the key has an alert webhook already: change that one")


def _cancel_pending(connection: Connection, endpoint_id: str, now_ms: int) -> None:
    pending = and_(
        WEBHOOK_DELIVERY.c.endpoint_id == endpoint_id, WEBHOOK_DELIVERY.c.state == DeliveryState.PENDING.value
    )
    connection.execute(
        update(WEBHOOK_DELIVERY)
        .where(pending)
        .values(state=DeliveryState.CANCELLED.value, next_attempt_at_ms=0, finished_at_ms=now_ms)
    )
