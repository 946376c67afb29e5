"""The outbox: events and their deliveries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, or_, select, tuple_, update

from ledger_svc.domain.deliveries import GONE, Attempt, Delivery, DeliveryState
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.webhooks import DISABLED_FAILING, DISABLED_GONE, Endpoint, Event, Secrets
from ledger_svc.service.webhook_ports import ChangeEntry, Message, Outcome
from ledger_svc.store.database import Database
from ledger_svc.store.endpoints import ENDPOINT_COLUMNS, IS_LIVE, endpoint_from_row, find_endpoint, write_endpoint
from ledger_svc.store.rows import Values, values
from ledger_svc.store.tables import WEBHOOK_ATTEMPT, WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT, WEBHOOK_EVENT
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import id_of

MAX_PENDING = 1_000
"""Deliveries that may wait for an endpoint before it is sent no more tests."""
KEPT_ATTEMPTS = 50
"""Of a delivery, in its log."""
_D, _E = WEBHOOK_DELIVERY.c, WEBHOOK_ENDPOINT.c
_PENDING = _D.state == DeliveryState.PENDING.value


class Outbox:
    """Implements ``webhook_ports.Outbox``."""

    def __init__(self, database: Database, writer: Writer, trail: Trail) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail

    async def send_to(self, org_id: str, endpoint_id: str, event: Event, delivery_id: str) -> Delivery:
        """See ``webhook_ports.Outbox``."""
        delivery = Delivery(
            delivery_id,
            endpoint_id,
            org_id,
            event.event_id,
            event.event_type,
            event.created_at_ms,
            next_attempt_at_ms=event.created_at_ms,
        )

        def work(connection: Connection) -> Delivery:
            _check_enabled(find_endpoint(connection, org_id, endpoint_id))
            if connection.execute(select(_D.delivery_id).where(_D.delivery_id == delivery_id)).first():
                return delivery  # a COMMIT in doubt did go through
            waiting = select(func.count()).where(_D.endpoint_id == endpoint_id, _PENDING)
            if connection.execute(waiting).scalar_one() >= MAX_PENDING:
                raise InvalidRequest("webhook_id", f"has {MAX_PENDING} deliveries waiting: no test until some are done")
            connection.execute(insert(WEBHOOK_EVENT).values(values(event)))
            connection.execute(insert(WEBHOOK_DELIVERY).values(_values(delivery)))
            return delivery

        return await self._writer.write(work, beside_books=True)

    async def page(
        self, org_id: str, endpoint_id: str, *, limit: int, before: tuple[int, str] | None
    ) -> list[Delivery]:
        """See ``webhook_ports.Outbox``."""
        order = (_D.created_at_ms, _D.delivery_id)
        query = select(WEBHOOK_DELIVERY).where(_D.endpoint_id == endpoint_id, _D.org_id == org_id)
        if before:
            query = query.where(tuple_(*order) < before)
        query = query.order_by(*(column.desc() for column in order)).limit(limit)

        def read(connection: Connection) -> list[Delivery]:
            find_endpoint(connection, org_id, endpoint_id)
            return [_delivery(row) for row in connection.execute(query)]

        return await self._database.read(read)

    async def delivery(self, org_id: str, endpoint_id: str, delivery_id: str) -> tuple[Delivery, list[Attempt], str]:
        """See ``webhook_ports.Outbox``."""
        attempts = select(WEBHOOK_ATTEMPT).where(WEBHOOK_ATTEMPT.c.delivery_id == delivery_id)

        def read(connection: Connection) -> tuple[Delivery, list[Attempt], str]:
            find_endpoint(connection, org_id, endpoint_id)
            found = _find(connection, org_id, endpoint_id, delivery_id)
            made = connection.execute(attempts.order_by(WEBHOOK_ATTEMPT.c.ordinal))
            body = select(WEBHOOK_EVENT.c.body).where(WEBHOOK_EVENT.c.event_id == found.event_id)
            return found, [Attempt(*row[2:]) for row in made], connection.execute(body).scalar_one()

        return await self._database.read(read)

    async def queue_again(self, org_id: str, endpoint_id: str, delivery_id: str, now_ms: int) -> Delivery:
        """See ``webhook_ports.Outbox``."""

        def work(connection: Connection) -> Delivery:
            endpoint = find_endpoint(connection, org_id, endpoint_id)
            found = _find(connection, org_id, endpoint_id, delivery_id)
            _check_enabled(endpoint)
            queued = found.queued_again(now_ms)
            _write(connection, queued)
            return queued

        return await self._writer.write(work, beside_books=True)

    async def release(self) -> None:
        """See ``webhook_ports.Outbox``."""
        leased = and_(_PENDING, _D.leased_until_ms > 0)

        def work(connection: Connection) -> None:
            connection.execute(update(WEBHOOK_DELIVERY).where(leased).values(leased_until_ms=0))

        await self._writer.write(work)

    async def due(
        self, now_ms: int, *, limit: int, busy_endpoints: Collection[str], busy_orgs: Collection[str]
    ) -> list[Delivery]:
        """See ``webhook_ports.Outbox``."""
        query = (
            select(WEBHOOK_DELIVERY)
            .where(
                _PENDING,
                _D.next_attempt_at_ms <= now_ms,
                _D.leased_until_ms <= now_ms,
                _D.endpoint_id.not_in(sorted(busy_endpoints)),
                _D.org_id.not_in(sorted(busy_orgs)),
            )
            .order_by(_D.next_attempt_at_ms, _D.delivery_id)
            .limit(limit)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_delivery(row) for row in found]

    async def claim(self, delivery_ids: Sequence[str], *, now_ms: int, leased_until_ms: int) -> list[Message]:
        """See ``webhook_ports.Outbox``."""
        # Those with this very lease are of a COMMIT in doubt that did go through.
        is_free = or_(_D.leased_until_ms <= now_ms, _D.leased_until_ms == leased_until_ms)
        query = (
            select(
                *WEBHOOK_DELIVERY.columns,
                *(_E.url, _E.secret, _E.previous_secret, _E.previous_until_ms, WEBHOOK_EVENT.c.body),
            )
            .join(WEBHOOK_ENDPOINT, _E.endpoint_id == _D.endpoint_id)
            .join(WEBHOOK_EVENT, WEBHOOK_EVENT.c.event_id == _D.event_id)
            .where(
                *(_D.delivery_id.in_(delivery_ids), _PENDING, _D.next_attempt_at_ms <= now_ms, is_free),
                *(IS_LIVE, _E.disabled_reason == ""),
            )
            .order_by(_D.next_attempt_at_ms, _D.delivery_id)
        )

        def work(connection: Connection) -> list[Message]:
            messages = []
            for row in connection.execute(query):
                url, secret, previous, until_ms, body = row[-5:]
                taken = replace(_delivery(row[:-5]), leased_until_ms=leased_until_ms)
                messages.append(Message(taken, url, Secrets(secret, previous, until_ms), body))
            taken_ids = [message.delivery.delivery_id for message in messages]
            connection.execute(
                update(WEBHOOK_DELIVERY).where(_D.delivery_id.in_(taken_ids)).values(leased_until_ms=leased_until_ms)
            )
            return messages

        return await self._writer.write(work, beside_books=True)

    async def record(self, outcomes: Sequence[Outcome], *, failing_ms: int, entry_of: ChangeEntry) -> None:
        """See ``webhook_ports.Outbox``."""

        def work(connection: Connection) -> None:
            for outcome in outcomes:
                if _record(connection, outcome):
                    self._judge(connection, outcome, failing_ms, entry_of)

        await self._writer.write(work)

    def _judge(self, connection: Connection, outcome: Outcome, failing_ms: int, entry_of: ChangeEntry) -> None:
        """What an attempt says of its endpoint."""
        query = select(*ENDPOINT_COLUMNS).where(_E.endpoint_id == outcome.delivery.endpoint_id, IS_LIVE)
        row = connection.execute(query).one_or_none()
        if row is None or not (before := endpoint_from_row(row)).enabled:
            return
        after = _judged(before, outcome.attempt, failing_ms)
        if after != before:
            write_endpoint(connection, after, outcome.attempt.at_ms)
        if not after.enabled:
            self._trail.record(connection, entry_of(before, after))

    async def prune(self, before_ms: int, *, limit: int) -> int:
        """See ``webhook_ports.Outbox``."""
        old = and_(_D.state != DeliveryState.PENDING.value, _D.finished_at_ms < before_ms)
        query = select(_D.delivery_id, _D.event_id).where(old).order_by(_D.finished_at_ms).limit(limit)
        if not await self._database.read(lambda connection: connection.execute(query.limit(1)).first()):
            return 0

        def work(connection: Connection) -> int:
            found = connection.execute(query).all()
            delivery_ids, event_ids = [row.delivery_id for row in found], {row.event_id for row in found}
            connection.execute(delete(WEBHOOK_ATTEMPT).where(WEBHOOK_ATTEMPT.c.delivery_id.in_(delivery_ids)))
            connection.execute(delete(WEBHOOK_DELIVERY).where(_D.delivery_id.in_(delivery_ids)))
            is_needed = exists().where(_D.event_id == WEBHOOK_EVENT.c.event_id)
            connection.execute(delete(WEBHOOK_EVENT).where(WEBHOOK_EVENT.c.event_id.in_(sorted(event_ids)), ~is_needed))
            return len(found)

        return await self._writer.write(work, beside_books=True)


def publish(connection: Connection, event: Event) -> None:
    """Queues an event for every endpoint of its organisation that wants it, in the transaction of what it tells of,
    once. One that nobody wants is not kept.
    """
    query = select(*ENDPOINT_COLUMNS).where(_E.org_id == event.org_id, IS_LIVE, _E.disabled_reason == "")
    wanting = [found for row in connection.execute(query) if (found := endpoint_from_row(row)).wants(event)]
    if not wanting:
        return
    connection.execute(insert(WEBHOOK_EVENT).values(values(event)))
    deliveries = [
        Delivery(
            id_of("dlv", event.event_id, endpoint.endpoint_id),
            endpoint.endpoint_id,
            event.org_id,
            event.event_id,
            event.event_type,
            event.created_at_ms,
            next_attempt_at_ms=event.created_at_ms,
        )
        for endpoint in wanting
    ]
    connection.execute(insert(WEBHOOK_DELIVERY), [_values(delivery) for delivery in deliveries])


def _record(connection: Connection, outcome: Outcome) -> bool:
    """Whether it was not recorded before."""
    name, ordinal = outcome.delivery.delivery_id, outcome.delivery.attempts + 1
    made = select(WEBHOOK_ATTEMPT.c.ordinal).where(
        WEBHOOK_ATTEMPT.c.delivery_id == name, WEBHOOK_ATTEMPT.c.ordinal == ordinal
    )
    row = connection.execute(select(WEBHOOK_DELIVERY).where(_D.delivery_id == name)).one_or_none()
    if row is None or connection.execute(made).first():
        return False  # a COMMIT in doubt did go through, or it was forgotten meanwhile
    _write(connection, _delivery(row).after(outcome.attempt, outcome.jitter))
    # Whoever asks for one retry after the other keeps the newest of them.
    old = and_(WEBHOOK_ATTEMPT.c.delivery_id == name, WEBHOOK_ATTEMPT.c.ordinal <= ordinal - KEPT_ATTEMPTS)
    connection.execute(delete(WEBHOOK_ATTEMPT).where(old))
    attempt = values(outcome.attempt) | {"delivery_id": name, "ordinal": ordinal}
    connection.execute(insert(WEBHOOK_ATTEMPT).values(attempt))
    return True


def _judged(endpoint: Endpoint, attempt: Attempt, failing_ms: int) -> Endpoint:
    if attempt.succeeded:
        return replace(endpoint, failing_since_ms=0)
    if attempt.http_status == GONE:
        return replace(endpoint, disabled_reason=DISABLED_GONE)
    since_ms = endpoint.failing_since_ms or attempt.at_ms
    too_long = attempt.at_ms - since_ms >= failing_ms
    return replace(endpoint, failing_since_ms=since_ms, disabled_reason=DISABLED_FAILING if too_long else "")


def _check_enabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        raise InvalidRequest("webhook_id", f"the webhook is off ({endpoint.disabled_reason}): enable it first")


def _find(connection: Connection, org_id: str, endpoint_id: str, delivery_id: str) -> Delivery:
    query = select(WEBHOOK_DELIVERY).where(
        _D.delivery_id == delivery_id, _D.endpoint_id == endpoint_id, _D.org_id == org_id
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"no delivery {delivery_id} of webhook {endpoint_id}")
    return _delivery(row)


_STATE = WEBHOOK_DELIVERY.columns.keys().index("state")


def _delivery(row: Row[Any] | Sequence[Any]) -> Delivery:
    return Delivery(*(*row[:_STATE], DeliveryState(row[_STATE]), *row[_STATE + 1 :]))


def _values(delivery: Delivery) -> Values:
    return values(delivery) | {"state": delivery.state.value}


def _write(connection: Connection, delivery: Delivery) -> None:
    connection.execute(update(WEBHOOK_DELIVERY).where(_D.delivery_id == delivery.delivery_id).values(_values(delivery)))
