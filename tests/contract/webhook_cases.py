"""Cases of the ledger's webhook service. Nothing listens where these webhooks lead to."""

from __future__ import annotations

from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1 import webhooks_pb2 as pb
from tests.contract.cases import TIMEOUT_S, covers, refused
from tests.contract.world import World

URL = "https://localhost:65535/hook"
INVALID, NOT_FOUND = ErrorReason.ERROR_REASON_INVALID_REQUEST, ErrorReason.ERROR_REASON_NOT_FOUND


async def _made(world: World) -> pb.Webhook:
    request = pb.CreateWebhookRequest(org_id=world.org_id, url=URL, event_types=["*"])
    return (await world.webhooks.CreateWebhook(request, timeout=TIMEOUT_S)).webhook


async def _ended(world: World, webhook: pb.Webhook) -> None:
    request = pb.DeleteWebhookRequest(org_id=world.org_id, webhook_id=webhook.webhook_id)
    await world.webhooks.DeleteWebhook(request, timeout=TIMEOUT_S)


async def _queued(world: World, webhook: pb.Webhook) -> pb.Delivery:
    request = pb.TestWebhookRequest(org_id=world.org_id, webhook_id=webhook.webhook_id)
    return (await world.webhooks.TestWebhook(request, timeout=TIMEOUT_S)).delivery


@covers("WebhookService/CreateWebhook")
async def create_webhook(world: World) -> None:
    request = pb.CreateWebhookRequest(org_id=world.org_id, url=URL, event_types=["webhook.test"], description="pager")
    made = await world.webhooks.CreateWebhook(request, timeout=TIMEOUT_S)
    assert made.secret.startswith("whsec_")
    assert (made.webhook.url, made.webhook.enabled, made.webhook.description) == (URL, True, "pager")
    await _ended(world, made.webhook)
    for url in ("http://localhost/", "https://10.0.0.1/", "https://localhost:80/"):
        wrong = pb.CreateWebhookRequest(org_id=world.org_id, url=url, event_types=["*"])
        await refused(world.webhooks.CreateWebhook(wrong, timeout=TIMEOUT_S), INVALID)


@covers("WebhookService/ListWebhooks")
async def list_webhooks(world: World) -> None:
    webhook = await _made(world)
    request = pb.ListWebhooksRequest(org_id=world.org_id)
    found = await world.webhooks.ListWebhooks(request, timeout=TIMEOUT_S)
    assert webhook in found.webhooks
    await _ended(world, webhook)
    foreign = pb.ListWebhooksRequest(org_id=world.org_id, page_token="x")
    await refused(world.webhooks.ListWebhooks(foreign, timeout=TIMEOUT_S), INVALID)


@covers("WebhookService/GetWebhook")
async def get_webhook(world: World) -> None:
    webhook = await _made(world)
    request = pb.GetWebhookRequest(org_id=world.org_id, webhook_id=webhook.webhook_id)
    assert (await world.webhooks.GetWebhook(request, timeout=TIMEOUT_S)).webhook == webhook
    await _ended(world, webhook)
    await refused(world.webhooks.GetWebhook(request, timeout=TIMEOUT_S), NOT_FOUND)


@covers("WebhookService/UpdateWebhook")
async def update_webhook(world: World) -> None:
    webhook = await _made(world)
    request = pb.UpdateWebhookRequest(
        org_id=world.org_id,
        webhook_id=webhook.webhook_id,
        event_types=pb.EventTypes(event_types=["webhook.test"]),
        enabled=False,
    )
    changed = (await world.webhooks.UpdateWebhook(request, timeout=TIMEOUT_S)).webhook
    assert (changed.url, list(changed.event_types), changed.enabled) == (URL, ["webhook.test"], False)
    assert changed.disabled_reason
    await _ended(world, webhook)
    await refused(world.webhooks.UpdateWebhook(request, timeout=TIMEOUT_S), NOT_FOUND)


@covers("WebhookService/DeleteWebhook")
async def delete_webhook(world: World) -> None:
    webhook = await _made(world)
    request = pb.DeleteWebhookRequest(org_id="org_other", webhook_id=webhook.webhook_id)
    await refused(world.webhooks.DeleteWebhook(request, timeout=TIMEOUT_S), NOT_FOUND)
    await _ended(world, webhook)


@covers("WebhookService/RotateWebhookSecret")
async def rotate_webhook_secret(world: World) -> None:
    webhook = await _made(world)
    request = pb.RotateWebhookSecretRequest(org_id=world.org_id, webhook_id=webhook.webhook_id, overlap_s=60)
    rotated = await world.webhooks.RotateWebhookSecret(request, timeout=TIMEOUT_S)
    assert rotated.secret.startswith("whsec_")
    assert rotated.webhook.previous_secret_until_ms > webhook.created_at_ms
    request.overlap_s = -1
    await refused(world.webhooks.RotateWebhookSecret(request, timeout=TIMEOUT_S), INVALID)
    await _ended(world, webhook)


@covers("WebhookService/GetKeyWebhook")
async def get_key_webhook(world: World) -> None:
    request = pb.GetKeyWebhookRequest(org_id=world.org_id, key_id="key_of_nobody")
    await refused(world.webhooks.GetKeyWebhook(request, timeout=TIMEOUT_S), NOT_FOUND)


@covers("WebhookService/SetKeyWebhook")
async def set_key_webhook(world: World) -> None:
    ask = pb.GetKeyWebhookRequest(org_id=world.org_id, key_id=world.principal.key_id)
    assert not (await world.webhooks.GetKeyWebhook(ask, timeout=TIMEOUT_S)).HasField("webhook")
    request = pb.SetKeyWebhookRequest(org_id=world.org_id, key_id=world.principal.key_id, url=URL)
    first = await world.webhooks.SetKeyWebhook(request, timeout=TIMEOUT_S)
    assert first.secret.startswith("whsec_")
    request.url = f"{URL}/other"
    again = await world.webhooks.SetKeyWebhook(request, timeout=TIMEOUT_S)
    assert (again.secret, again.webhook.webhook_id) == ("", first.webhook.webhook_id)
    found = await world.webhooks.GetKeyWebhook(ask, timeout=TIMEOUT_S)
    assert (found.webhook.url, found.webhook.key_id) == (request.url, world.principal.key_id)
    await _ended(world, found.webhook)


@covers("WebhookService/TestWebhook")
async def test_webhook(world: World) -> None:
    webhook = await _made(world)
    queued = await _queued(world, webhook)
    assert (queued.webhook_id, queued.event_type) == (webhook.webhook_id, "webhook.test")
    assert queued.state == pb.DELIVERY_STATE_PENDING
    await _ended(world, webhook)


@covers("WebhookService/ListDeliveries")
async def list_deliveries(world: World) -> None:
    webhook = await _made(world)
    queued = await _queued(world, webhook)
    request = pb.ListDeliveriesRequest(org_id=world.org_id, webhook_id=webhook.webhook_id)
    found = await world.webhooks.ListDeliveries(request, timeout=TIMEOUT_S)
    assert [delivery.delivery_id for delivery in found.deliveries] == [queued.delivery_id]
    await _ended(world, webhook)
    await refused(world.webhooks.ListDeliveries(request, timeout=TIMEOUT_S), NOT_FOUND)


@covers("WebhookService/GetDelivery")
async def get_delivery(world: World) -> None:
    webhook = await _made(world)
    queued = await _queued(world, webhook)
    of_webhook = {"org_id": world.org_id, "webhook_id": webhook.webhook_id}
    request = pb.GetDeliveryRequest(**of_webhook, delivery_id=queued.delivery_id)
    found = await world.webhooks.GetDelivery(request, timeout=TIMEOUT_S)
    assert found.delivery.event_id == queued.event_id
    assert "webhook.test" in found.body
    await refused(
        world.webhooks.GetDelivery(pb.GetDeliveryRequest(**of_webhook, delivery_id="dlv_x"), timeout=TIMEOUT_S),
        NOT_FOUND,
    )
    await _ended(world, webhook)


@covers("WebhookService/RetryDelivery")
async def retry_delivery(world: World) -> None:
    webhook = await _made(world)
    queued = await _queued(world, webhook)
    of_webhook = {"org_id": world.org_id, "webhook_id": webhook.webhook_id}
    request = pb.RetryDeliveryRequest(**of_webhook, delivery_id=queued.delivery_id)
    again = (await world.webhooks.RetryDelivery(request, timeout=TIMEOUT_S)).delivery
    assert (again.delivery_id, again.state) == (queued.delivery_id, pb.DELIVERY_STATE_PENDING)
    off = pb.UpdateWebhookRequest(org_id=world.org_id, webhook_id=webhook.webhook_id, enabled=False)
    await world.webhooks.UpdateWebhook(off, timeout=TIMEOUT_S)
    await refused(world.webhooks.RetryDelivery(request, timeout=TIMEOUT_S), INVALID)
    await _ended(world, webhook)


@covers("WebhookService/ListAlerts")
async def list_alerts(world: World) -> None:
    org = await world.ledger.CreateOrganization(
        ledger_pb2.CreateOrganizationRequest(name="no alerts"), timeout=TIMEOUT_S
    )
    found = await world.webhooks.ListAlerts(pb.ListAlertsRequest(org_id=org.org_id), timeout=TIMEOUT_S)
    assert (list(found.alerts), found.next_page_token) == ([], "")
    foreign = pb.ListAlertsRequest(org_id=org.org_id, page_token="x")
    await refused(world.webhooks.ListAlerts(foreign, timeout=TIMEOUT_S), INVALID)
