"""Payments, their refunds, and what providers told of them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, UniqueConstraint

from ledger_svc.store.tables.row import Row, bigint_column, table_of, text_column


class PaymentRow(Row, table=True):
    """A payment (see ``domain.payments``)."""

    __tablename__ = "payment"
    __table_args__ = (
        UniqueConstraint("org_id", "idempotency_key"),
        CheckConstraint("state IN ('created', 'paid', 'failed', 'expired', 'refunded')", name="state"),
        CheckConstraint("amount_nano_usd > 0", name="amount"),
        CheckConstraint(
            "returned_nano_usd BETWEEN 0 AND amount_nano_usd AND uncovered_nano_usd BETWEEN 0 AND returned_nano_usd "
            "AND provider_returned_nano_usd BETWEEN 0 AND returned_nano_usd",
            name="returned",
        ),
        Index("ix_payment_org_id_created_at_ms_payment_id", "org_id", "created_at_ms", "payment_id"),
        Index("ix_payment_created_at_ms_payment_id", "created_at_ms", "payment_id"),
        Index("ix_payment_provider_provider_session_id", "provider", "provider_session_id"),
        Index("ix_payment_provider_provider_payment_id", "provider", "provider_payment_id"),
    )

    payment_id: str = text_column(primary_key=True)
    org_id: str = text_column(foreign_key="org.org_id")
    provider: str = text_column()
    idempotency_key: str = text_column()
    amount_nano_usd: int = bigint_column()
    state: str = text_column()
    success_url: str = text_column()
    cancel_url: str = text_column()
    provider_session_id: str = text_column()
    provider_payment_id: str = text_column()
    checkout_url: str = text_column()
    returned_nano_usd: int = bigint_column()
    provider_returned_nano_usd: int = bigint_column()
    uncovered_nano_usd: int = bigint_column()
    created_at_ms: int = bigint_column()
    updated_at_ms: int = bigint_column()


class PaymentRefundRow(Row, table=True):
    """A refund of a payment by the operator (see ``domain.payment_refunds``)."""

    __tablename__ = "payment_refund"
    __table_args__ = (
        UniqueConstraint("org_id", "idempotency_key"),
        CheckConstraint("state IN ('pending', 'done', 'failed')", name="state"),
        CheckConstraint("amount_nano_usd > 0", name="amount"),
        Index("ix_payment_refund_payment_id", "payment_id"),
    )

    refund_id: str = text_column(primary_key=True)
    payment_id: str = text_column(foreign_key="payment.payment_id")
    org_id: str = text_column(foreign_key="org.org_id")
    idempotency_key: str = text_column()
    amount_nano_usd: int = bigint_column()
    reason: str = text_column()
    state: str = text_column()
    provider_refund_id: str = text_column()
    created_at_ms: int = bigint_column()
    updated_at_ms: int = bigint_column()


class ExternalEventRow(Row, table=True):
    """A notice of a provider, and what it led to. Immutable; ``org_id`` is empty where it is no payment of ours."""

    __tablename__ = "external_event"
    __table_args__ = (Index("ix_external_event_received_at_ms_event_id", "received_at_ms", "event_id"),)

    provider: str = text_column(primary_key=True)
    event_id: str = text_column(primary_key=True)
    kind: str = text_column()
    about: str = text_column()
    outcome: str = text_column()
    org_id: str = text_column()
    payment_id: str = text_column()
    session_id: str = text_column()
    provider_payment_id: str = text_column()
    amount_nano_usd: int = bigint_column()
    currency: str = text_column()
    received_at_ms: int = bigint_column()


PAYMENT = table_of(PaymentRow)
PAYMENT_REFUND = table_of(PaymentRefundRow)
EXTERNAL_EVENT = table_of(ExternalEventRow)
