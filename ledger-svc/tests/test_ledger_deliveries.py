"""Events are delivered from an outbox at least once, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from ledger_webhooks import URL, Hooks
from sqlalchemy import func, select
from standardwebhooks import Webhook, WebhookVerificationError

from ledger_svc.domain.deliveries import SCHEDULE_S, Answer, Delivery, DeliveryState
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.domain.webhooks import DISABLED_FAILING, DISABLED_GONE
from ledger_svc.service.courier import CourierLimits
from ledger_svc.store.database import Database
from ledger_svc.store.opening import open_database
from ledger_svc.store.outbox import KEPT_ATTEMPTS
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG, WEBHOOK_DELIVERY, WEBHOOK_EVENT
from ledger_svc.store.writer import Writer
from meshkit.clock import SystemClock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
DAY_MS = 24 * 3_600 * 1_000
SEALER = Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))
REFUSED = Answer(500, "it answered 500")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(SystemClock().now_ms())  # the oracle of signatures refuses what is old


@pytest.fixture
def hooks(database: Database, writer: Writer, clock: FakeClock, make_id: MakeId) -> Hooks:
    return Hooks(database, writer, clock, make_id)


@pytest.fixture
async def org_id(new_payer: NewPayer) -> str:
    return (await new_payer()).org_id


@pytest.fixture
async def second(url: str) -> AsyncIterator[Database]:
    database = open_database(url, connections=2, wait_s=20)
    try:
        yield database
    finally:
        await database.close()


async def actions(database: Database) -> list[str]:
    query = select(AUDIT_LOG.c.action).where(AUDIT_LOG.c.action.like("webhook%")).order_by(AUDIT_LOG.c.entry_id)
    return await database.read(lambda connection: list(connection.scalars(query)))


async def state_of(hooks: Hooks, org_id: str, found: Delivery) -> Delivery:
    delivery, _, _ = await hooks.webhooks.delivery(org_id, found.endpoint_id, found.delivery_id)
    return delivery


async def test_a_test_is_sent_signed_and_logged(hooks: Hooks, org_id: str, clock: FakeClock) -> None:
    endpoint_id, secret = await hooks.make(org_id)
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    assert (queued.state, queued.attempts) == (DeliveryState.PENDING, 0)
    assert await hooks.deliver() == 1
    (message,) = hooks.carrier.carried
    content = Webhook(secret).verify(message.body, message.headers)
    assert content["type"] == "webhook.test"
    assert content["data"] == {"organization_id": org_id, "webhook_id": endpoint_id}
    assert message.headers["webhook-id"] == queued.event_id
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(message.body + b" ", message.headers)
    delivery, attempts, body = await hooks.webhooks.delivery(org_id, endpoint_id, queued.delivery_id)
    assert (delivery.state, delivery.attempts, delivery.last_status) == (DeliveryState.DELIVERED, 1, 204)
    assert [(attempt.at_ms, attempt.http_status, attempt.error) for attempt in attempts] == [(clock.now_ms(), 204, "")]
    assert body.encode() == message.body
    assert await hooks.deliver() == 0


async def test_a_failure_is_tried_again_by_the_schedule_until_none_is_left(
    hooks: Hooks, org_id: str, clock: FakeClock
) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    hooks.carrier.answers[URL] = [REFUSED]
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    assert await hooks.deliver() == 1
    for wait_s in SCHEDULE_S[1:]:
        clock.advance(wait_s * 1_000 - 1)
        assert await hooks.deliver() == 0
        clock.advance(1)
        assert await hooks.deliver() == 1
    found = await state_of(hooks, org_id, queued)
    assert (found.state, found.attempts) == (DeliveryState.FAILED, len(SCHEDULE_S))
    assert (found.last_status, found.last_error) == (500, "it answered 500")
    clock.advance(10 * DAY_MS)
    assert await hooks.deliver() == 0
    assert len({message.headers["webhook-id"] for message in hooks.carrier.carried}) == 1
    assert len({message.headers["webhook-timestamp"] for message in hooks.carrier.carried}) == len(SCHEDULE_S)
    again = await hooks.webhooks.retry(org_id, endpoint_id, queued.delivery_id)
    assert (again.state, again.tries) == (DeliveryState.PENDING, 0)
    hooks.carrier.answers[URL] = [Answer(200)]
    assert await hooks.deliver() == 1
    assert (await state_of(hooks, org_id, queued)).state is DeliveryState.DELIVERED


async def test_gone_switches_an_endpoint_off_and_cancels_what_waits(
    hooks: Hooks, org_id: str, database: Database, clock: FakeClock
) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    hooks.carrier.answers[URL] = [REFUSED, Answer(410, "it answered 410")]
    waiting = await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()
    gone = await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()
    endpoint = await hooks.webhooks.endpoint(org_id, endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, DISABLED_GONE)
    assert (await state_of(hooks, org_id, gone)).state is DeliveryState.FAILED
    assert (await state_of(hooks, org_id, waiting)).state is DeliveryState.CANCELLED
    assert await actions(database) == ["webhook.created", "webhook.disabled"]
    for refused in (
        hooks.webhooks.test(org_id, endpoint_id),
        hooks.webhooks.retry(org_id, endpoint_id, gone.delivery_id),
    ):
        with pytest.raises(InvalidRequest, match="enable it first"):
            await refused
    hooks.carrier.answers.clear()
    await hooks.webhooks.update(
        org_id, endpoint_id, url=None, event_types=None, description=None, enabled=True, actor=OPERATOR
    )
    await hooks.webhooks.retry(org_id, endpoint_id, waiting.delivery_id)
    assert await hooks.deliver() == 1
    assert (await state_of(hooks, org_id, waiting)).state is DeliveryState.DELIVERED


async def test_days_of_only_failures_switch_an_endpoint_off_and_one_success_begins_anew(
    hooks: Hooks, org_id: str, clock: FakeClock, database: Database
) -> None:
    endpoint_id, _ = await hooks.make(org_id)

    async def one(answer: Answer) -> bool:
        hooks.carrier.answers[URL] = [answer]
        await hooks.webhooks.test(org_id, endpoint_id)
        await hooks.courier.turn()
        await hooks.courier.settle()
        return (await hooks.webhooks.endpoint(org_id, endpoint_id)).enabled

    assert await one(REFUSED)
    clock.advance(4 * DAY_MS)
    assert await one(Answer(204))
    assert await one(REFUSED)
    clock.advance(5 * DAY_MS - 1)
    assert await one(REFUSED)
    clock.advance(1)
    assert not await one(REFUSED)
    assert (await hooks.webhooks.endpoint(org_id, endpoint_id)).disabled_reason == DISABLED_FAILING
    assert await actions(database) == ["webhook.created", "webhook.disabled"]


async def test_a_slow_endpoint_holds_nobody_up(
    database: Database, writer: Writer, clock: FakeClock, make_id: MakeId, new_payer: NewPayer
) -> None:
    hooks = Hooks(database, writer, clock, make_id, limits=CourierLimits(in_all=8, to_org=4, to_endpoint=2))
    slow_org, other_org = (await new_payer()).org_id, (await new_payer()).org_id
    slow_url, stop = "https://slow.example.com/", asyncio.Event()

    async def hang(url: str) -> None:
        if url == slow_url:
            await stop.wait()

    hooks.carrier.before = hang
    slow, _ = await hooks.make(slow_org, slow_url)
    same_org, _ = await hooks.make(slow_org)
    other, _ = await hooks.make(other_org, "https://other.example.com/")
    for _ in range(20):
        await hooks.webhooks.test(slow_org, slow)
    await hooks.webhooks.test(slow_org, same_org)
    await hooks.webhooks.test(other_org, other)
    running = asyncio.create_task(hooks.courier.run(0.01))
    try:
        async with asyncio.timeout(10):
            while not hooks.carrier.to(URL) or not hooks.carrier.to("https://other.example.com/"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(hooks.carrier.to(slow_url)) == 2
        stop.set()
        async with asyncio.timeout(10):
            while len(hooks.carrier.to(slow_url)) < 20:  # noqa: ASYNC110 - the courier tells nobody
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_was_under_way_is_sent_again_after_a_takeover_and_nothing_else(
    database: Database,
    second: Database,
    clock: FakeClock,
    make_id: MakeId,
    hooks: Hooks,
    writer: Writer,
    org_id: str,
) -> None:
    endpoint_id, secret = await hooks.make(org_id)
    done = await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()
    lost = await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.courier.turn()  # it is sent, and the process ends before that is recorded
    await asyncio.sleep(0)
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    await writer._drop_lease(NotFound)  # type: ignore[arg-type]
    async with Writer(second, SEALER, takeover_poll_s=0.01).running() as successor:
        assert successor.is_leading
        after = Hooks(second, successor, clock, make_id)
        assert await after.deliver() == 2
        sent = {message.headers["webhook-id"] for message in after.carrier.carried}
        assert sent == {queued.event_id, lost.event_id}
        Webhook(secret).verify(after.carrier.carried[-1].body, after.carrier.carried[-1].headers)
        assert (await state_of(after, org_id, done)).attempts == 1


async def test_a_replica_that_stands_by_sleeps_though_it_was_nudged(
    second: Database, clock: FakeClock, make_id: MakeId, writer: Writer
) -> None:
    async with Writer(second, SEALER, takeover_poll_s=10).running() as standby:
        idle = Hooks(second, standby, clock, make_id)
        sleeps = 0

        async def sleep(_: float) -> None:
            nonlocal sleeps
            sleeps += 1
            await asyncio.Event().wait()

        idle.courier.nudge()
        running = asyncio.create_task(idle.courier.run(1.0, sleep))
        for _ in range(100):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert sleeps == 2


async def test_of_many_retries_the_newest_attempts_are_kept(hooks: Hooks, org_id: str) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    for _ in range(KEPT_ATTEMPTS + 3):
        await hooks.deliver()
        await hooks.webhooks.retry(org_id, endpoint_id, queued.delivery_id)
    delivery, attempts, _ = await hooks.webhooks.delivery(org_id, endpoint_id, queued.delivery_id)
    assert (delivery.attempts, len(attempts)) == (KEPT_ATTEMPTS + 3, KEPT_ATTEMPTS)


async def test_only_the_writer_sends(
    second: Database, clock: FakeClock, make_id: MakeId, hooks: Hooks, org_id: str
) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    await hooks.webhooks.test(org_id, endpoint_id)
    async with Writer(second, SEALER, takeover_poll_s=10).running() as standby:
        idle = Hooks(second, standby, clock, make_id)
        running = asyncio.create_task(idle.courier.run(0.001))
        assert await hooks.deliver() == 1
        await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert idle.carrier.carried == []


async def test_the_log_comes_in_pages_and_is_forgotten_after_a_while(
    hooks: Hooks, org_id: str, clock: FakeClock, database: Database
) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    made = []
    for _ in range(5):
        made.append((await hooks.webhooks.test(org_id, endpoint_id)).delivery_id)
        clock.advance(1_000)
    await hooks.deliver()
    names: list[str] = []
    token = ""
    while True:
        page, token = await hooks.webhooks.deliveries(org_id, endpoint_id, page_size=2, page_token=token)
        names += [delivery.delivery_id for delivery in page]
        if not token:
            break
    assert names == made[::-1]
    assert await hooks.courier.prune() == 0
    clock.advance(30 * DAY_MS + 1)
    waiting = await hooks.webhooks.test(org_id, endpoint_id)
    assert await hooks.courier.prune() == 5

    def count(connection: object) -> list[int]:
        return [
            connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[attr-defined]
            for table in (WEBHOOK_DELIVERY, WEBHOOK_EVENT)
        ]

    assert await database.read(count) == [1, 1]
    assert (await state_of(hooks, org_id, waiting)).state is DeliveryState.PENDING
