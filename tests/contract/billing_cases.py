"""Cases of the ledger's billing service, with the local payment provider."""

from __future__ import annotations

import time

from meshkit.money import NANO_PER_USD
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import billing_pb2 as pb
from tests.contract.cases import TIMEOUT_S, covers, refused
from tests.contract.world import World

REASON = ErrorReason
DAY_MS = 24 * 3600 * 1000


async def _begun(world: World, *, paid: bool = False) -> pb.Payment:
    request = pb.CreatePaymentRequest(
        org_id=world.org_id, amount_nano_usd=20 * NANO_PER_USD, idempotency_key=world.request_id()
    )
    payment = (await world.billing.CreatePayment(request, timeout=TIMEOUT_S)).payment
    if not paid:
        return payment
    at_till = pb.PayLocallyRequest(session_id=payment.provider_session_id)
    return (await world.billing.PayLocally(at_till, timeout=TIMEOUT_S)).payment


@covers("BillingService/GetFunds")
async def get_funds(world: World) -> None:
    found = await world.billing.GetFunds(pb.GetFundsRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    assert found.balance.posted_nano_usd == found.paid_nano_usd + found.promotional_nano_usd
    assert (found.payment_provider, found.min_payment_nano_usd) == ("local", NANO_PER_USD // 2)
    nobody = pb.GetFundsRequest(org_id="org_other")
    await refused(world.billing.GetFunds(nobody, timeout=TIMEOUT_S), REASON.ERROR_REASON_NOT_FOUND)


@covers("BillingService/SumCharges")
async def sum_charges(world: World) -> None:
    now_ms = int(time.time() * 1000)
    request = pb.SumChargesRequest(org_id=world.org_id, from_ms=now_ms - DAY_MS, to_ms=now_ms + DAY_MS, by_day=True)
    found = await world.billing.SumCharges(request, timeout=TIMEOUT_S)
    assert all(each.requests > 0 and each.day_ms > 0 for each in found.sums)
    request.from_ms = 0
    await refused(world.billing.SumCharges(request, timeout=TIMEOUT_S), REASON.ERROR_REASON_INVALID_REQUEST)


@covers("BillingService/CreatePayment")
async def create_payment(world: World) -> None:
    payment = await _begun(world)
    assert payment.state == pb.PAYMENT_STATE_CREATED
    assert payment.checkout_url
    again = pb.CreatePaymentRequest(
        org_id=world.org_id, amount_nano_usd=payment.amount_nano_usd, idempotency_key=payment.idempotency_key
    )
    assert (await world.billing.CreatePayment(again, timeout=TIMEOUT_S)).payment == payment
    again.amount_nano_usd += NANO_PER_USD
    await refused(world.billing.CreatePayment(again, timeout=TIMEOUT_S), REASON.ERROR_REASON_IDEMPOTENCY_CONFLICT)


@covers("BillingService/GetPayment")
async def get_payment(world: World) -> None:
    payment = await _begun(world)
    request = pb.GetPaymentRequest(org_id=world.org_id, payment_id=payment.payment_id)
    assert (await world.billing.GetPayment(request, timeout=TIMEOUT_S)).payment == payment
    request.org_id = "org_other"
    await refused(world.billing.GetPayment(request, timeout=TIMEOUT_S), REASON.ERROR_REASON_NOT_FOUND)


@covers("BillingService/ListPayments")
async def list_payments(world: World) -> None:
    payment = await _begun(world)
    request = pb.ListPaymentsRequest(org_id=world.org_id, page_size=1)
    found = await world.billing.ListPayments(request, timeout=TIMEOUT_S)
    assert [each.payment_id for each in found.payments] == [payment.payment_id]
    request.page_token = "x"
    await refused(world.billing.ListPayments(request, timeout=TIMEOUT_S), REASON.ERROR_REASON_INVALID_REQUEST)


@covers("BillingService/ReceiveNotice")
async def receive_notice(world: World) -> None:
    forged = pb.ReceiveNoticeRequest(provider="local", body=b"{}", headers={"tallygate-signature": "t=1,v1=0"})
    await refused(world.billing.ReceiveNotice(forged, timeout=TIMEOUT_S), REASON.ERROR_REASON_INVALID_REQUEST)
    forged.provider = "stripe"
    await refused(world.billing.ReceiveNotice(forged, timeout=TIMEOUT_S), REASON.ERROR_REASON_NOT_FOUND)


@covers("BillingService/PayLocally")
async def pay_locally(world: World) -> None:
    funds = pb.GetFundsRequest(org_id=world.org_id)
    before = await world.billing.GetFunds(funds, timeout=TIMEOUT_S)
    payment = await _begun(world, paid=True)
    assert payment.state == pb.PAYMENT_STATE_PAID
    at_till = pb.PayLocallyRequest(session_id=payment.provider_session_id)
    assert (await world.billing.PayLocally(at_till, timeout=TIMEOUT_S)).payment.state == pb.PAYMENT_STATE_PAID
    after = await world.billing.GetFunds(funds, timeout=TIMEOUT_S)
    assert after.paid_nano_usd - before.paid_nano_usd == payment.amount_nano_usd
    at_till.session_id = "cs_other"
    await refused(world.billing.PayLocally(at_till, timeout=TIMEOUT_S), REASON.ERROR_REASON_NOT_FOUND)


@covers("BillingService/RefundPayment")
async def refund_payment(world: World) -> None:
    payment = await _begun(world, paid=True)
    request = pb.RefundPaymentRequest(payment_id=payment.payment_id, reason="asked", idempotency_key=world.request_id())
    made = await world.billing.RefundPayment(request, timeout=TIMEOUT_S)
    assert (made.refund.state, made.payment.state) == (pb.REFUND_STATE_DONE, pb.PAYMENT_STATE_REFUNDED)
    assert (await world.billing.RefundPayment(request, timeout=TIMEOUT_S)).refund == made.refund
    request.idempotency_key = world.request_id()
    await refused(world.billing.RefundPayment(request, timeout=TIMEOUT_S), REASON.ERROR_REASON_INVALID_REQUEST)


@covers("BillingService/ListNotices")
async def list_notices(world: World) -> None:
    payment = await _begun(world, paid=True)
    found = await world.billing.ListNotices(pb.ListNoticesRequest(page_size=1), timeout=TIMEOUT_S)
    assert (found.notices[0].payment_id, found.notices[0].outcome) == (payment.payment_id, pb.NOTICE_OUTCOME_CREDITED)
    trouble = await world.billing.ListNotices(pb.ListNoticesRequest(trouble_only=True), timeout=TIMEOUT_S)
    assert list(trouble.notices) == []
