"""What payment providers and their customers' browsers open, without an API key: notices, which are signed; the till of
the local provider, whose address nobody can guess; and the page behind a checkout.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from edge.account import Account
from edge.inbound import read_body
from edge.wire.account.base import refused
from edge.wire.account.payments import LocallyPaid, Received
from tallygate.ledger.v1 import billing_pb2

MAX_NOTICE_BYTES = 256 * 1024
NOTICE_TIMEOUT_S = 20.0
MAX_SIGNATURE_CHARS = 4_000
_SIGNATURES = ("stripe-signature", "tallygate-signature")
_REFUSALS = refused(400, 404, 413, 429, 500, 503, 504)
_ANY_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}


def notices_router(account: Account) -> APIRouter:
    """The routes. They stand behind no guard."""
    router = APIRouter(tags=["Billing"], responses=_REFUSALS)

    @router.post(
        "/billing/webhooks/{provider}", summary="For a payment provider: tell of a payment", openapi_extra=_ANY_BODY
    )
    async def receive_notice(provider: str, request: Request) -> Received:
        """Takes a notice that the provider has signed. Told again it changes nothing."""
        body = await read_body(request, max_bytes=MAX_NOTICE_BYTES, timeout_s=NOTICE_TIMEOUT_S)
        headers = {name: request.headers[name][:MAX_SIGNATURE_CHARS] for name in _SIGNATURES if name in request.headers}
        notice = billing_pb2.ReceiveNoticeRequest(provider=provider, body=body, headers=headers)
        await account.ask(account.billing.ReceiveNotice, notice)
        return Received()

    @router.post("/billing/local/{session_id}/pay", summary="Pay at the local provider of tests and demonstrations")
    async def pay_locally(session_id: str) -> LocallyPaid:
        """Pays, if the installation has the local provider. Its signed notice goes the way of any provider's."""
        paid = await account.ask(account.billing.PayLocally, billing_pb2.PayLocallyRequest(session_id=session_id))
        return LocallyPaid.of(paid.payment)

    @router.get("/billing/done", summary="The page behind a checkout", response_class=PlainTextResponse)
    async def done() -> PlainTextResponse:
        """Where a browser is led that was told no other page."""
        return PlainTextResponse(
            "Thank you. The credit is there once the payment is confirmed. You may close this page."
        )

    return router
