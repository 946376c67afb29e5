"""``/webhooks``, ``/keys/{id}/alert-webhook`` and ``/alerts``: what an organisation is told, where, and whether it
arrived.
"""

from __future__ import annotations

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.wire.account.base import Page
from edge.wire.account.webhooks import (
    DEFAULT_OVERLAP_S,
    Alert,
    AlertWebhook,
    AlertWebhookChange,
    DeletedWebhook,
    Delivery,
    DeliveryWithAttempts,
    NewWebhook,
    SecretRotation,
    Webhook,
    WebhookChange,
    WebhookWithSecret,
)
from tallygate.ledger.v1 import webhooks_pb2 as pb


def webhooks_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resources."""
    router = account_router(authenticator, "Webhooks")
    _route_webhooks(router, account)
    _route_deliveries(router, account)
    _route_alerts(router, account)
    return router


def _route_webhooks(router: APIRouter, account: Account) -> None:
    ledger = account.webhooks

    @router.get("/webhooks", summary="List webhooks")
    async def list_webhooks(caller: CallerOf, limit: Limit = 50, cursor: Cursor = "") -> Page[Webhook]:
        """The webhooks of the organisation, oldest first; those of its keys, too."""
        request = pb.ListWebhooksRequest(org_id=caller.org_id, page_size=limit, page_token=cursor)
        found = await account.ask(ledger.ListWebhooks, request)
        return Page[Webhook].of([Webhook.of(webhook) for webhook in found.webhooks], found.next_page_token)

    @router.post("/webhooks", status_code=201, summary="Make a webhook")
    async def create_webhook(body: NewWebhook, caller: CallerOf) -> WebhookWithSecret:
        """Makes a webhook. Its name is resolved, and has to lead to public addresses only."""
        request = pb.CreateWebhookRequest(
            org_id=caller.org_id,
            url=body.url,
            event_types=body.events,
            description=body.description,
            key_id=body.key_id,
            actor=caller.actor,
        )
        made = await account.ask(ledger.CreateWebhook, request)
        return WebhookWithSecret(**Webhook.fields_of(made.webhook), secret=made.secret)

    @router.get("/webhooks/{webhook_id}", summary="Get a webhook")
    async def get_webhook(webhook_id: str, caller: CallerOf) -> Webhook:
        """One webhook."""
        request = pb.GetWebhookRequest(org_id=caller.org_id, webhook_id=webhook_id)
        return Webhook.of((await account.ask(ledger.GetWebhook, request)).webhook)

    @router.patch("/webhooks/{webhook_id}", summary="Change a webhook")
    async def update_webhook(webhook_id: str, body: WebhookChange, caller: CallerOf) -> Webhook:
        """Changes what is given. One that was switched off begins anew when it is enabled."""
        request = pb.UpdateWebhookRequest(
            org_id=caller.org_id,
            webhook_id=webhook_id,
            url=body.url,
            event_types=None if body.events is None else pb.EventTypes(event_types=body.events),
            description=body.description,
            enabled=body.enabled,
            actor=caller.actor,
        )
        return Webhook.of((await account.ask(ledger.UpdateWebhook, request)).webhook)

    @router.delete("/webhooks/{webhook_id}", summary="Delete a webhook")
    async def delete_webhook(webhook_id: str, caller: CallerOf) -> DeletedWebhook:
        """Ends a webhook and what is on its way to it."""
        request = pb.DeleteWebhookRequest(org_id=caller.org_id, webhook_id=webhook_id, actor=caller.actor)
        await account.ask(ledger.DeleteWebhook, request)
        return DeletedWebhook(id=webhook_id)

    @router.post("/webhooks/{webhook_id}/rotate-secret", summary="Rotate a webhook's secret")
    async def rotate_secret(webhook_id: str, caller: CallerOf, body: SecretRotation | None = None) -> WebhookWithSecret:
        """Gives it a new secret. During the overlap messages carry a signature by each of the two."""
        overlap_s = DEFAULT_OVERLAP_S if body is None else body.overlap_s
        request = pb.RotateWebhookSecretRequest(
            org_id=caller.org_id, webhook_id=webhook_id, overlap_s=overlap_s, actor=caller.actor
        )
        made = await account.ask(ledger.RotateWebhookSecret, request)
        return WebhookWithSecret(**Webhook.fields_of(made.webhook), secret=made.secret)


def _route_deliveries(router: APIRouter, account: Account) -> None:
    ledger = account.webhooks

    @router.post("/webhooks/{webhook_id}/test", status_code=202, summary="Test a webhook")
    async def test_webhook(webhook_id: str, caller: CallerOf) -> Delivery:
        """Sends an event `webhook.test` as any other is sent. Get the delivery to see what became of it."""
        request = pb.TestWebhookRequest(org_id=caller.org_id, webhook_id=webhook_id)
        return Delivery.of((await account.ask(ledger.TestWebhook, request)).delivery)

    @router.get("/webhooks/{webhook_id}/deliveries", summary="List deliveries")
    async def list_deliveries(
        webhook_id: str, caller: CallerOf, limit: Limit = 50, cursor: Cursor = ""
    ) -> Page[Delivery]:
        """What was sent, or will be, newest first."""
        request = pb.ListDeliveriesRequest(
            org_id=caller.org_id, webhook_id=webhook_id, page_size=limit, page_token=cursor
        )
        found = await account.ask(ledger.ListDeliveries, request)
        return Page[Delivery].of([Delivery.of(delivery) for delivery in found.deliveries], found.next_page_token)

    @router.get("/webhooks/{webhook_id}/deliveries/{delivery_id}", summary="Get a delivery")
    async def get_delivery(webhook_id: str, delivery_id: str, caller: CallerOf) -> DeliveryWithAttempts:
        """One delivery, with each attempt and what is sent."""
        request = pb.GetDeliveryRequest(org_id=caller.org_id, webhook_id=webhook_id, delivery_id=delivery_id)
        return DeliveryWithAttempts.of_answer(await account.ask(ledger.GetDelivery, request))

    @router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/retry", status_code=202, summary="Retry a delivery")
    async def retry_delivery(webhook_id: str, delivery_id: str, caller: CallerOf) -> Delivery:
        """Has a delivery attempted at once, whatever became of it, and as often as a new one if that fails."""
        request = pb.RetryDeliveryRequest(org_id=caller.org_id, webhook_id=webhook_id, delivery_id=delivery_id)
        return Delivery.of((await account.ask(ledger.RetryDelivery, request)).delivery)


def _route_alerts(router: APIRouter, account: Account) -> None:
    ledger = account.webhooks

    @router.get("/keys/{key_id}/alert-webhook", summary="Get a key's alert webhook")
    async def get_alert_webhook(key_id: str, caller: CallerOf) -> AlertWebhook:
        """Where alerts of this key's caps go, beside the webhooks of the organisation."""
        return AlertWebhook.of(key_id, await _of_key(caller.org_id, key_id))

    @router.patch("/keys/{key_id}/alert-webhook", summary="Set or clear a key's alert webhook")
    async def set_alert_webhook(key_id: str, body: AlertWebhookChange, caller: CallerOf) -> AlertWebhook:
        """Has alerts of this key's caps sent to a URL, or nowhere. A webhook that is made has its secret in the answer,
        this once.
        """
        if body.url is not None:
            request = pb.SetKeyWebhookRequest(org_id=caller.org_id, key_id=key_id, url=body.url, actor=caller.actor)
            made = await account.ask(ledger.SetKeyWebhook, request)
            return AlertWebhook.of(key_id, made.webhook, made.secret)
        existing = await _of_key(caller.org_id, key_id)
        if existing is not None:
            gone = pb.DeleteWebhookRequest(org_id=caller.org_id, webhook_id=existing.webhook_id, actor=caller.actor)
            await account.ask(ledger.DeleteWebhook, gone)
        return AlertWebhook.of(key_id, None)

    @router.get("/alerts", summary="List alerts")
    async def list_alerts(caller: CallerOf, limit: Limit = 50, cursor: Cursor = "") -> Page[Alert]:
        """The thresholds of caps that spending has reached, newest first, whether or not there are webhooks."""
        request = pb.ListAlertsRequest(org_id=caller.org_id, page_size=limit, page_token=cursor)
        found = await account.ask(ledger.ListAlerts, request)
        return Page[Alert].of([Alert.of(alert) for alert in found.alerts], found.next_page_token)

    async def _of_key(org_id: str, key_id: str) -> pb.Webhook | None:
        found = await account.ask(ledger.GetKeyWebhook, pb.GetKeyWebhookRequest(org_id=org_id, key_id=key_id))
        return found.webhook if found.HasField("webhook") else None
