"""``tallygate.ledger.v1.WebhookService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger_svc.domain.alerts import Alert
from ledger_svc.domain.deliveries import Attempt, Delivery, DeliveryState
from ledger_svc.domain.webhooks import Endpoint
from ledger_svc.service.alerts import AlertService
from ledger_svc.service.webhooks import WebhookService
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import PERIOD_NUMBERS, SCOPE_NUMBERS, UNIT_NUMBERS, actor_of
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import webhooks_pb2 as pb
from tallygate.ledger.v1.webhooks_pb2_grpc import WebhookServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

_STATES = {
    DeliveryState.PENDING: pb.DELIVERY_STATE_PENDING,
    DeliveryState.DELIVERED: pb.DELIVERY_STATE_DELIVERED,
    DeliveryState.FAILED: pb.DELIVERY_STATE_FAILED,
    DeliveryState.CANCELLED: pb.DELIVERY_STATE_CANCELLED,
}


@maps_errors(ERRORS)
class WebhookServicer(WebhookServiceServicer):
    """The methods of webhooks.proto."""

    def __init__(self, webhooks: WebhookService, alerts: AlertService) -> None:
        self._webhooks = webhooks
        self._alerts = alerts

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, context: Context) -> pb.CreateWebhookResponse:
        """See webhooks.proto."""
        endpoint, secret = await self._webhooks.create(
            request.org_id,
            request.url,
            request.event_types,
            description=request.description,
            key_id=request.key_id,
            actor=actor_of(request),
        )
        return pb.CreateWebhookResponse(webhook=_webhook(endpoint), secret=secret)

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Context) -> pb.ListWebhooksResponse:
        """See webhooks.proto."""
        found, next_page_token = await self._webhooks.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListWebhooksResponse(webhooks=map(_webhook, found), next_page_token=next_page_token)

    async def GetWebhook(self, request: pb.GetWebhookRequest, context: Context) -> pb.GetWebhookResponse:
        """See webhooks.proto."""
        return pb.GetWebhookResponse(
            webhook=_webhook(await self._webhooks.endpoint(request.org_id, request.webhook_id))
        )

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, context: Context) -> pb.UpdateWebhookResponse:
        """See webhooks.proto."""
        endpoint = await self._webhooks.update(
            request.org_id,
            request.webhook_id,
            url=request.url if request.HasField("url") else None,
            event_types=request.event_types.event_types if request.HasField("event_types") else None,
            description=request.description if request.HasField("description") else None,
            enabled=request.enabled if request.HasField("enabled") else None,
            actor=actor_of(request),
        )
        return pb.UpdateWebhookResponse(webhook=_webhook(endpoint))

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Context) -> pb.DeleteWebhookResponse:
        """See webhooks.proto."""
        await self._webhooks.delete(request.org_id, request.webhook_id, actor=actor_of(request))
        return pb.DeleteWebhookResponse()

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Context
    ) -> pb.RotateWebhookSecretResponse:
        """See webhooks.proto."""
        endpoint, secret = await self._webhooks.rotate(
            request.org_id, request.webhook_id, overlap_s=request.overlap_s, actor=actor_of(request)
        )
        return pb.RotateWebhookSecretResponse(webhook=_webhook(endpoint), secret=secret)

    async def GetKeyWebhook(self, request: pb.GetKeyWebhookRequest, context: Context) -> pb.GetKeyWebhookResponse:
        """See webhooks.proto."""
        endpoint = await self._webhooks.of_key(request.org_id, request.key_id)
        return pb.GetKeyWebhookResponse(webhook=None if endpoint is None else _webhook(endpoint))

    async def SetKeyWebhook(self, request: pb.SetKeyWebhookRequest, context: Context) -> pb.SetKeyWebhookResponse:
        """See webhooks.proto."""
        endpoint, secret = await self._webhooks.set_of_key(
            request.org_id, request.key_id, request.url, actor=actor_of(request)
        )
        return pb.SetKeyWebhookResponse(webhook=_webhook(endpoint), secret=secret)

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Context) -> pb.TestWebhookResponse:
        """See webhooks.proto."""
        return pb.TestWebhookResponse(delivery=_delivery(await self._webhooks.test(request.org_id, request.webhook_id)))

    async def ListDeliveries(self, request: pb.ListDeliveriesRequest, context: Context) -> pb.ListDeliveriesResponse:
        """See webhooks.proto."""
        found, next_page_token = await self._webhooks.deliveries(
            request.org_id, request.webhook_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListDeliveriesResponse(deliveries=map(_delivery, found), next_page_token=next_page_token)

    async def GetDelivery(self, request: pb.GetDeliveryRequest, context: Context) -> pb.GetDeliveryResponse:
        """See webhooks.proto."""
        delivery, attempts, body = await self._webhooks.delivery(
            request.org_id, request.webhook_id, request.delivery_id
        )
        return pb.GetDeliveryResponse(delivery=_delivery(delivery), attempts=map(_attempt, attempts), body=body)

    async def RetryDelivery(self, request: pb.RetryDeliveryRequest, context: Context) -> pb.RetryDeliveryResponse:
        """See webhooks.proto."""
        delivery = await self._webhooks.retry(request.org_id, request.webhook_id, request.delivery_id)
        return pb.RetryDeliveryResponse(delivery=_delivery(delivery))

    async def ListAlerts(self, request: pb.ListAlertsRequest, context: Context) -> pb.ListAlertsResponse:
        """See webhooks.proto."""
        found, next_page_token = await self._alerts.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListAlertsResponse(alerts=map(_alert, found), next_page_token=next_page_token)


def _webhook(endpoint: Endpoint) -> pb.Webhook:
    return pb.Webhook(
        webhook_id=endpoint.endpoint_id,
        org_id=endpoint.org_id,
        key_id=endpoint.key_id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        description=endpoint.description,
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        created_at_ms=endpoint.created_at_ms,
        failing_since_ms=endpoint.failing_since_ms,
        previous_secret_until_ms=endpoint.previous_until_ms,
    )


def _delivery(delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        delivery_id=delivery.delivery_id,
        webhook_id=delivery.endpoint_id,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        state=_STATES[delivery.state],
        attempts=delivery.attempts,
        next_attempt_at_ms=delivery.next_attempt_at_ms,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        created_at_ms=delivery.created_at_ms,
        finished_at_ms=delivery.finished_at_ms,
    )


def _attempt(attempt: Attempt) -> pb.DeliveryAttempt:
    return pb.DeliveryAttempt(
        at_ms=attempt.at_ms,
        duration_ms=attempt.duration_ms,
        http_status=attempt.http_status,
        error=attempt.error,
    )


def _alert(alert: Alert) -> pb.Alert:
    return pb.Alert(
        alert_id=alert.alert_id,
        scope=SCOPE_NUMBERS[alert.scope],
        scope_id=alert.scope_id,
        name=alert.name,
        period=PERIOD_NUMBERS[alert.period],
        unit=UNIT_NUMBERS[alert.unit],
        threshold_percent=alert.threshold_percent,
        limit=alert.cap_limit,
        spent=alert.spent,
        resets_at_ms=alert.ends_at_ms,
        created_at_ms=alert.created_at_ms,
    )
