"""``tallygate.ledger.v1.BillingService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger_svc.domain.payments import MAX_PAYMENT_NANO_USD, MIN_PAYMENT_NANO_USD
from ledger_svc.service.bills import BillService
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.refunds import RefundService
from ledger_svc.servicer.billing_wire import (
    NOTICE_OUTCOMES,
    notice_to_proto,
    payment_to_proto,
    refund_to_proto,
    sum_to_proto,
    sums_from_proto,
)
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import actor_of, balance_to_proto
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import billing_pb2 as pb
from tallygate.ledger.v1.billing_pb2_grpc import BillingServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class BillingServicer(BillingServiceServicer):
    """The methods of billing.proto."""

    def __init__(self, *, payments: PaymentService, refunds: RefundService, bills: BillService) -> None:
        self._payments = payments
        self._refunds = refunds
        self._bills = bills

    async def GetFunds(self, request: pb.GetFundsRequest, context: Context) -> pb.GetFundsResponse:
        """See billing.proto."""
        funds = await self._payments.funds(request.org_id)
        return pb.GetFundsResponse(
            balance=balance_to_proto(funds.balance),
            paid_nano_usd=funds.paid_nano_usd,
            promotional_nano_usd=funds.promotional_nano_usd,
            payment_provider=self._payments.provider_name,
            min_payment_nano_usd=MIN_PAYMENT_NANO_USD,
            max_payment_nano_usd=MAX_PAYMENT_NANO_USD,
        )

    async def SumCharges(self, request: pb.SumChargesRequest, context: Context) -> pb.SumChargesResponse:
        """See billing.proto."""
        return pb.SumChargesResponse(sums=map(sum_to_proto, await self._bills.sums(sums_from_proto(request))))

    async def CreatePayment(self, request: pb.CreatePaymentRequest, context: Context) -> pb.CreatePaymentResponse:
        """See billing.proto."""
        payment = await self._payments.create(
            request.org_id,
            amount_nano_usd=request.amount_nano_usd,
            idempotency_key=request.idempotency_key,
            success_url=request.success_url,
            cancel_url=request.cancel_url,
            actor=actor_of(request),
        )
        return pb.CreatePaymentResponse(payment=payment_to_proto(payment))

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Context) -> pb.GetPaymentResponse:
        """See billing.proto."""
        payment = await self._payments.payment(request.org_id, request.payment_id)
        return pb.GetPaymentResponse(
            payment=payment_to_proto(payment), refunds=map(refund_to_proto, await self._refunds.refunds(payment))
        )

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: Context) -> pb.ListPaymentsResponse:
        """See billing.proto."""
        found, next_page_token = await self._payments.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListPaymentsResponse(payments=map(payment_to_proto, found), next_page_token=next_page_token)

    async def ReceiveNotice(self, request: pb.ReceiveNoticeRequest, context: Context) -> pb.ReceiveNoticeResponse:
        """See billing.proto."""
        outcome = await self._payments.receive(request.provider, request.body, dict(request.headers))
        return pb.ReceiveNoticeResponse(outcome=NOTICE_OUTCOMES[outcome])

    async def PayLocally(self, request: pb.PayLocallyRequest, context: Context) -> pb.PayLocallyResponse:
        """See billing.proto."""
        return pb.PayLocallyResponse(payment=payment_to_proto(await self._payments.pay_at_till(request.session_id)))

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: Context) -> pb.RefundPaymentResponse:
        """See billing.proto."""
        refund, payment = await self._refunds.refund(
            request.org_id,
            request.payment_id,
            amount_nano_usd=request.amount_nano_usd,
            reason=request.reason,
            idempotency_key=request.idempotency_key,
            actor=actor_of(request),
        )
        return pb.RefundPaymentResponse(refund=refund_to_proto(refund), payment=payment_to_proto(payment))

    async def ListNotices(self, request: pb.ListNoticesRequest, context: Context) -> pb.ListNoticesResponse:
        """See billing.proto."""
        found, next_page_token = await self._payments.notices(
            trouble_only=request.trouble_only, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListNoticesResponse(notices=map(notice_to_proto, found), next_page_token=next_page_token)
