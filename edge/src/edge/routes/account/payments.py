"""``/billing/topup``, ``/billing/checkout``, ``/billing/payments``: paying for credit."""

from __future__ import annotations

from fastapi import APIRouter

from edge.account import Account
from edge.auth import Authenticator
from edge.routes.account.guard import AccountCaller, CallerOf, Cursor, Limit, account_router
from edge.wire.account.base import Page, nano_usd_of, refused
from edge.wire.account.payments import NewCheckout, NewTopup, Payment, PaymentWithRefunds
from tallygate.ledger.v1 import billing_pb2

PROVIDER_TIMEOUT_S = 45.0
"""A payment provider is asked in turn, up to three times."""


def payments_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Billing")
    refusals = refused(409, 502)

    async def begin(body: NewTopup, caller: AccountCaller, *, success_url: str = "", cancel_url: str = "") -> Payment:
        request = billing_pb2.CreatePaymentRequest(
            org_id=caller.org_id,
            amount_nano_usd=nano_usd_of(body.amount_usd),
            idempotency_key=body.idempotency_key,
            success_url=success_url,
            cancel_url=cancel_url,
            actor=caller.actor,
        )
        made = await account.ask(account.billing.CreatePayment, request, timeout_s=PROVIDER_TIMEOUT_S)
        return Payment.of(made.payment)

    @router.post("/billing/topup", status_code=201, summary="Pay for credit", responses=refusals)
    async def top_up(body: NewTopup, caller: CallerOf) -> Payment:
        """Begins a payment. Credit is added when it is paid, at `checkout_url`."""
        return await begin(body, caller)

    @router.post("/billing/checkout", status_code=201, summary="Pay for credit in a browser", responses=refusals)
    async def check_out(body: NewCheckout, caller: CallerOf) -> Payment:
        """As `/billing/topup`, and says where the browser goes afterwards."""
        return await begin(body, caller, success_url=body.success_url, cancel_url=body.cancel_url)

    @router.get("/billing/payments", summary="List payments")
    async def list_payments(caller: CallerOf, limit: Limit = 50, cursor: Cursor = "") -> Page[Payment]:
        """The payments of the organisation, newest first."""
        request = billing_pb2.ListPaymentsRequest(org_id=caller.org_id, page_size=limit, page_token=cursor)
        found = await account.ask(account.billing.ListPayments, request)
        return Page[Payment].of([Payment.of(payment) for payment in found.payments], found.next_page_token)

    @router.get("/billing/payments/{payment_id}", summary="Get a payment")
    async def get_payment(payment_id: str, caller: CallerOf) -> PaymentWithRefunds:
        """One payment, and what was paid back of it."""
        request = billing_pb2.GetPaymentRequest(org_id=caller.org_id, payment_id=payment_id)
        return PaymentWithRefunds.with_refunds(await account.ask(account.billing.GetPayment, request))

    return router
