"""Refunds of payments, by the operator: taken from the credit, then paid back by the provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from ledger_svc.domain.accounts import MAX_AMOUNT_NANO_USD
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import PaymentsNotConfigured, ProviderRefused
from ledger_svc.domain.limits import MAX_REASON_CHARS, check_range, check_text
from ledger_svc.domain.payment_refunds import (
    PaymentRefund,
    RefundState,
    credit_again,
    refund_begun,
    refund_debit,
    refund_failed,
)
from ledger_svc.domain.payments import Payment, check_key
from ledger_svc.service.payment_ports import PaymentProvider, Payments, RefundWork
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor

_log = structlog.get_logger(__name__)

Changed = tuple[Payment, PaymentRefund, list[Command[None]]]


class RefundService:
    """Pays payments back."""

    def __init__(self, *, payments: Payments, provider: PaymentProvider | None, clock: Clock, make_id: MakeId) -> None:
        self._payments = payments
        self._provider = provider
        self._clock = clock
        self._make_id = make_id
        self._telling = Telling(clock, make_id)

    async def refund(
        self,
        org_id: str,
        payment_id: str,
        *,
        amount_nano_usd: int,
        reason: str,
        idempotency_key: str,
        actor: Actor = OPERATOR,
    ) -> tuple[PaymentRefund, Payment]:
        """Pays some of a payment back, once under its idempotency key; 0: all that is left. ``org_id`` "": whosever it
        is. A refund whose end is not known goes on where it is asked for again.

        Raises:
            NotFound, IdempotencyConflict, InvalidRequest; InsufficientBalance: it is spent already.
            PaymentsNotConfigured.
            ProviderRefused: and what was taken from the credit is there again.
            ProviderFailed: it stays pending.
        """
        org_id, payment_id = check_text("org_id", org_id, empty=True), check_text("payment_id", payment_id)
        payment = await self._payments.payment(org_id, payment_id)
        provider = self._provider_of(payment)
        now_ms = self._clock.now_ms()
        asked = PaymentRefund(
            refund_id=self._make_id("rfd"),
            payment_id=payment.payment_id,
            org_id=payment.org_id,
            idempotency_key=check_key(idempotency_key),
            amount_nano_usd=check_range("amount_nano_usd", amount_nano_usd, 0, MAX_AMOUNT_NANO_USD),
            reason=check_text("reason", reason, max_chars=MAX_REASON_CHARS, empty=True),
            state=RefundState.PENDING,
            provider_refund_id="",
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        refund = await self._payments.begin_refund(asked, self._work(partial(self._begun, actor), actor))
        if refund.state is RefundState.PENDING:
            refund = await self._at_provider(provider, payment, refund, actor)
        return refund, await self._payments.payment(payment.org_id, payment.payment_id)

    async def refunds(self, payment: Payment) -> list[PaymentRefund]:
        """The refunds of a payment, oldest first."""
        return await self._payments.refunds(payment.payment_id)

    async def _at_provider(
        self, provider: PaymentProvider, payment: Payment, refund: PaymentRefund, actor: Actor
    ) -> PaymentRefund:
        try:
            name = await provider.refund(payment, refund)
        except ProviderRefused as refused:
            _log.error("refund_refused", refund_id=refund.refund_id, payment_id=payment.payment_id, cause=str(refused))
            await self._payments.end_refund(
                replace(refund, state=RefundState.FAILED), self._work(partial(self._refused, actor), actor)
            )
            raise
        done = replace(refund, state=RefundState.DONE, provider_refund_id=name, updated_at_ms=self._clock.now_ms())
        return await self._payments.end_refund(done, self._work(_unchanged, actor))

    def _begun(self, actor: Actor, payment: Payment, refund: PaymentRefund) -> Changed:
        after, begun = refund_begun(payment, refund)
        return after, begun, [refund_debit(begun, self._make_id("xfer"), actor)]

    def _refused(self, actor: Actor, payment: Payment, refund: PaymentRefund) -> Changed:
        now_ms = self._clock.now_ms()
        after, given_back = refund_failed(payment, refund, now_ms)
        again = [credit_again(refund, given_back, self._make_id("xfer"), now_ms, actor)] if given_back else []
        return after, replace(refund, updated_at_ms=now_ms), [*again]

    def _work(self, change: Callable[[Payment, PaymentRefund], Changed], actor: Actor) -> RefundWork:
        return RefundWork(
            change=change,
            entry=lambda refund: self._telling.entry(
                refund.org_id, actor, f"payment_refund.{refund.state.value}", refund.refund_id, after=refund.shown()
            ),
        )

    def _provider_of(self, payment: Payment) -> PaymentProvider:
        if self._provider is None or self._provider.name != payment.provider:
            raise PaymentsNotConfigured(
                f"the payment was made with {payment.provider}, which is not configured here; pay it back there, "
                "and take the credit back with `tallygate credit refund`"
            )
        return self._provider


def _unchanged(payment: Payment, refund: PaymentRefund) -> Changed:
    return payment, refund, []
