"""Webhooks are made, changed and ended, and each has secrets of its own, on every database."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from ledger_webhooks import Hooks
from sqlalchemy import select
from standardwebhooks import Webhook, WebhookVerificationError

from ledger_svc.domain.deliveries import Answer, Delivery
from ledger_svc.domain.errors import InvalidRequest, NotConfigured, NotFound
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.domain.webhooks import MAX_ENDPOINTS
from ledger_svc.store.database import Database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG, WEBHOOK_ENDPOINT, metadata
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


async def actions(database: Database) -> list[str]:
    query = select(AUDIT_LOG.c.action).where(AUDIT_LOG.c.action.like("webhook%")).order_by(AUDIT_LOG.c.entry_id)
    return await database.read(lambda connection: list(connection.scalars(query)))


async def state_of(hooks: Hooks, org_id: str, found: Delivery) -> Delivery:
    delivery, _, _ = await hooks.webhooks.delivery(org_id, found.endpoint_id, found.delivery_id)
    return delivery


async def test_both_secrets_sign_during_the_overlap_of_a_rotation(
    hooks: Hooks, org_id: str, clock: FakeClock, database: Database
) -> None:
    endpoint_id, first = await hooks.make(org_id)
    endpoint, second = await hooks.webhooks.rotate(org_id, endpoint_id, overlap_s=60, actor=OPERATOR)
    assert second != first
    assert endpoint.previous_until_ms == clock.now_ms() + 60_000
    await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()
    during = hooks.carrier.carried[-1]
    assert len(during.headers["webhook-signature"].split()) == 2
    for secret in (first, second):
        Webhook(secret).verify(during.body, during.headers)
    clock.advance(60_000)
    await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()
    after = hooks.carrier.carried[-1]
    Webhook(second).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(after.body, after.headers)
    assert await actions(database) == ["webhook.created", "webhook.secret_rotated"]


async def test_secrets_are_nowhere_in_the_database(hooks: Hooks, org_id: str, database: Database) -> None:
    endpoint_id, secret = await hooks.make(org_id, "https://example.com/T0/very-secret-path")
    _, rotated = await hooks.webhooks.rotate(org_id, endpoint_id, overlap_s=60, actor=OPERATOR)
    await hooks.webhooks.test(org_id, endpoint_id)
    await hooks.deliver()

    def dump(connection: object) -> str:
        return "".join(
            str(connection.execute(select(table)).all())  # type: ignore[attr-defined]
            for table in metadata.sorted_tables
        )

    everything = await database.read(dump)
    for text in (secret, rotated):
        assert text not in everything
        assert text.removeprefix("whsec_") not in everything
    trail = await database.read(lambda connection: str(connection.execute(select(AUDIT_LOG)).all()))
    assert "very-secret-path" not in trail


async def test_changes_are_told_and_what_does_not_change_is_not(hooks: Hooks, org_id: str, database: Database) -> None:
    endpoint_id, _ = await hooks.make(org_id)

    async def change(**what: object) -> None:
        fields = {"url": None, "event_types": None, "description": None, "enabled": None} | what
        await hooks.webhooks.update(org_id, endpoint_id, **fields, actor=OPERATOR)  # type: ignore[arg-type]

    await change(description="pager")
    await change(description="pager")
    await change(event_types=["cap.threshold_reached"], url="https://example.com/other")
    await change(enabled=False)
    waits = await hooks.webhooks.endpoint(org_id, endpoint_id)
    assert (waits.url, waits.event_types) == ("https://example.com/other", ("cap.threshold_reached",))
    await hooks.webhooks.delete(org_id, endpoint_id, actor=OPERATOR)
    expected = ["webhook.created", *["webhook.updated"] * 3, "webhook.deleted"]
    assert await actions(database) == expected
    query = select(AUDIT_LOG.c.document).where(AUDIT_LOG.c.action == "webhook.updated")
    first = json.loads(await database.read(lambda connection: next(iter(connection.scalars(query)))))
    assert (first["before"]["description"], first["after"]["description"]) == ("", "pager")
    with pytest.raises(NotFound):
        await hooks.webhooks.endpoint(org_id, endpoint_id)
    with pytest.raises(NotFound):
        await hooks.webhooks.delete(org_id, endpoint_id, actor=OPERATOR)
    kept = select(WEBHOOK_ENDPOINT.c.secret, WEBHOOK_ENDPOINT.c.previous_secret)
    assert await database.read(lambda connection: connection.execute(kept).one()) == ("", "")


async def test_another_organisations_webhook_is_not_there(hooks: Hooks, org_id: str, new_payer: NewPayer) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    other = (await new_payer()).org_id
    for ask in (
        hooks.webhooks.endpoint(other, endpoint_id),
        hooks.webhooks.delete(other, endpoint_id, actor=OPERATOR),
        hooks.webhooks.rotate(other, endpoint_id, overlap_s=0, actor=OPERATOR),
        hooks.webhooks.test(other, endpoint_id),
        hooks.webhooks.deliveries(other, endpoint_id, page_size=0, page_token=""),
        hooks.webhooks.delivery(other, endpoint_id, queued.delivery_id),
        hooks.webhooks.retry(other, endpoint_id, queued.delivery_id),
    ):
        with pytest.raises(NotFound):
            await ask
    assert await hooks.webhooks.page(other, page_size=0, page_token="") == ([], "")


async def test_there_are_bounds(hooks: Hooks, org_id: str, new_payer: NewPayer) -> None:
    for _ in range(MAX_ENDPOINTS):
        await hooks.make(org_id)
    with pytest.raises(InvalidRequest, match="delete one"):
        await hooks.make(org_id)
    payer = await new_payer()
    await hooks.make(payer.org_id, key_id=payer.key_id)
    with pytest.raises(InvalidRequest, match="already"):
        await hooks.make(payer.org_id, key_id=payer.key_id)
    with pytest.raises(NotFound):
        await hooks.make(payer.org_id, key_id="key_of_nobody")
    with pytest.raises(NotFound):
        await hooks.make("org_nobody")
    with pytest.raises(InvalidRequest, match="not one of"):
        await hooks.make(payer.org_id, events=("cap.everything",))


async def test_without_a_key_for_secrets_none_is_made_and_the_setting_is_named(
    database: Database, writer: Writer, clock: FakeClock, make_id: MakeId, org_id: str
) -> None:
    with pytest.raises(NotConfigured, match="TALLYGATE_LEDGER_SECRETS_KEYS"):
        await Hooks(database, writer, clock, make_id, keys={}).make(org_id)


async def test_a_secret_whose_key_is_gone_is_said_and_not_sent_without(
    database: Database, writer: Writer, clock: FakeClock, make_id: MakeId, org_id: str, hooks: Hooks
) -> None:
    endpoint_id, _ = await hooks.make(org_id)
    queued = await hooks.webhooks.test(org_id, endpoint_id)
    other = Hooks(database, writer, clock, make_id, keys={"2026-12": b"o" * 32})
    await other.deliver()
    assert other.carrier.carried == []
    assert "rotate it" in (await state_of(hooks, org_id, queued)).last_error
