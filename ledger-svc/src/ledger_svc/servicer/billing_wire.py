"""Between the messages of billing.proto and the domain's values."""

from __future__ import annotations

from ledger_svc.domain.charge_sums import ChargeSum, SumsWanted
from ledger_svc.domain.payment_refunds import PaymentRefund, RefundState
from ledger_svc.domain.payments import NoticeOutcome, Payment, PaymentState, TakenNotice
from meshkit import codec
from meshkit.money import BillingTier
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import billing_pb2 as pb

PAYMENT_STATES = {
    PaymentState.CREATED: pb.PAYMENT_STATE_CREATED,
    PaymentState.PAID: pb.PAYMENT_STATE_PAID,
    PaymentState.FAILED: pb.PAYMENT_STATE_FAILED,
    PaymentState.EXPIRED: pb.PAYMENT_STATE_EXPIRED,
    PaymentState.REFUNDED: pb.PAYMENT_STATE_REFUNDED,
}
REFUND_STATES = {
    RefundState.PENDING: pb.REFUND_STATE_PENDING,
    RefundState.DONE: pb.REFUND_STATE_DONE,
    RefundState.FAILED: pb.REFUND_STATE_FAILED,
}
NOTICE_OUTCOMES = {
    NoticeOutcome.CREDITED: pb.NOTICE_OUTCOME_CREDITED,
    NoticeOutcome.NOTED: pb.NOTICE_OUTCOME_NOTED,
    NoticeOutcome.RETURNED: pb.NOTICE_OUTCOME_RETURNED,
    NoticeOutcome.REPEATED: pb.NOTICE_OUTCOME_REPEATED,
    NoticeOutcome.MISMATCHED: pb.NOTICE_OUTCOME_MISMATCHED,
    NoticeOutcome.UNKNOWN: pb.NOTICE_OUTCOME_UNKNOWN,
    NoticeOutcome.ATTENTION: pb.NOTICE_OUTCOME_ATTENTION,
    NoticeOutcome.IGNORED: pb.NOTICE_OUTCOME_IGNORED,
}
_TIERS = {
    BillingTier.FLAT: money_pb2.BILLING_TIER_FLAT,
    BillingTier.PASSTHROUGH: money_pb2.BILLING_TIER_PASSTHROUGH,
    BillingTier.BYOK: money_pb2.BILLING_TIER_BYOK,
    BillingTier.FREE: money_pb2.BILLING_TIER_FREE,
}


def payment_to_proto(payment: Payment) -> pb.Payment:
    """A payment."""
    return pb.Payment(
        payment_id=payment.payment_id,
        org_id=payment.org_id,
        provider=payment.provider,
        idempotency_key=payment.idempotency_key,
        amount_nano_usd=payment.amount_nano_usd,
        state=PAYMENT_STATES[payment.state],
        checkout_url=payment.checkout_url,
        provider_session_id=payment.provider_session_id,
        provider_payment_id=payment.provider_payment_id,
        returned_nano_usd=payment.returned_nano_usd,
        uncovered_nano_usd=payment.uncovered_nano_usd,
        created_at_ms=payment.created_at_ms,
        updated_at_ms=payment.updated_at_ms,
    )


def refund_to_proto(refund: PaymentRefund) -> pb.PaymentRefund:
    """A refund."""
    return pb.PaymentRefund(
        refund_id=refund.refund_id,
        payment_id=refund.payment_id,
        amount_nano_usd=refund.amount_nano_usd,
        reason=refund.reason,
        state=REFUND_STATES[refund.state],
        provider_refund_id=refund.provider_refund_id,
        created_at_ms=refund.created_at_ms,
    )


def notice_to_proto(taken: TakenNotice) -> pb.Notice:
    """A notice."""
    notice = taken.notice
    return pb.Notice(
        provider=taken.provider,
        event_id=notice.event_id,
        about=notice.about,
        outcome=NOTICE_OUTCOMES[taken.outcome],
        org_id=taken.org_id,
        payment_id=notice.payment_id,
        session_id=notice.session_id,
        provider_payment_id=notice.provider_payment_id,
        amount_nano_usd=notice.amount_nano_usd,
        currency=notice.currency,
        received_at_ms=taken.received_at_ms,
    )


def sums_from_proto(request: pb.SumChargesRequest) -> SumsWanted:
    """What to add up."""
    return SumsWanted(
        org_id=request.org_id,
        from_ms=request.from_ms,
        to_ms=request.to_ms,
        by_day=request.by_day,
        by_offer=request.by_offer,
        prompt_thresholds=tuple(request.prompt_thresholds),
    )


def sum_to_proto(found: ChargeSum) -> pb.ChargeSum:
    """One sum."""
    return pb.ChargeSum(
        tier=_TIERS[found.tier],
        alias=found.alias,
        is_replay=found.is_replay,
        requests=found.requests,
        charged_nano_usd=found.charged_nano_usd,
        saved_nano_usd=found.saved_nano_usd,
        usage=codec.usage_to_proto(found.usage),
        day_ms=found.day_ms,
        model=found.model,
        source_id=found.source_id,
        prompt_above=found.prompt_above,
    )
