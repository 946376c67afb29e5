"""Payments: begun, told of by their provider, paid back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import structlog

from ledger_svc.domain.errors import InvalidNotice, LedgerError, NotFound, PaymentsNotConfigured
from ledger_svc.domain.limits import check_text
from ledger_svc.domain.payments import (
    TROUBLE,
    Notice,
    NoticeKind,
    NoticeOutcome,
    Payment,
    PaymentState,
    TakenNotice,
    check_key,
    check_payment_amount,
    check_return_url,
    credit_of,
    follow,
    return_of,
)
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.payment_ports import Funds, Headers, NoticeWork, PaymentProvider, Payments, Till
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor, ActorKind

_log = structlog.get_logger(__name__)


class PaymentService:
    """What organisations pay for their credit. ``provider`` None: nothing can be paid here."""

    def __init__(
        self,
        *,
        payments: Payments,
        provider: PaymentProvider | None,
        clock: Clock,
        make_id: MakeId,
        till: Till | None = None,
    ) -> None:
        self._payments = payments
        self._provider = provider
        self._till = till
        self._clock = clock
        self._make_id = make_id
        self._telling = Telling(clock, make_id)
        self._opening: dict[str, asyncio.Task[Payment]] = {}

    @property
    def provider_name(self) -> str:
        """Empty: there is none."""
        return self._provider.name if self._provider else ""

    async def create(
        self,
        org_id: str,
        *,
        amount_nano_usd: int,
        idempotency_key: str,
        success_url: str = "",
        cancel_url: str = "",
        actor: Actor = OPERATOR,
    ) -> Payment:
        """Begins a payment and opens its checkout, once under its idempotency key.

        Raises:
            PaymentsNotConfigured, NotFound, IdempotencyConflict, InvalidRequest, ProviderRefused, ProviderFailed.
        """
        provider = self._configured()
        now_ms = self._clock.now_ms()
        asked = Payment(
            payment_id=self._make_id("pay"),
            org_id=check_text("org_id", org_id),
            provider=provider.name,
            idempotency_key=check_key(idempotency_key),
            amount_nano_usd=check_payment_amount("amount_usd", amount_nano_usd),
            state=PaymentState.CREATED,
            success_url=check_return_url("success_url", success_url),
            cancel_url=check_return_url("cancel_url", cancel_url),
            provider_session_id="",
            provider_payment_id="",
            checkout_url="",
            returned_nano_usd=0,
            provider_returned_nano_usd=0,
            uncovered_nano_usd=0,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        entry = self._telling.entry(org_id, actor, "payment.created", asked.payment_id, after=asked.shown())
        # Written before the provider hears of it: a notice that comes at once finds its payment.
        payment = await self._payments.begin(asked, entry)
        if payment.checkout_url or payment.state is not PaymentState.CREATED:
            return payment
        return await self._opened(payment)

    async def _opened(self, payment: Payment) -> Payment:
        """Callers that come together wait for one call of the provider, which goes on though they leave."""
        opening = self._opening.get(payment.payment_id)
        if opening is None:
            opening = asyncio.create_task(self._open(payment))
            self._opening[payment.payment_id] = opening
            opening.add_done_callback(partial(self._forget, payment.payment_id))
        return await asyncio.shield(opening)

    def _forget(self, payment_id: str, opening: asyncio.Task[Payment]) -> None:
        del self._opening[payment_id]
        if not opening.cancelled() and (error := opening.exception()) is not None:
            _log.warning("checkout_not_opened", payment_id=payment_id, cause=type(error).__name__)

    async def _open(self, payment: Payment) -> Payment:
        provider = self._configured(payment.provider)
        current = await self._payments.payment(payment.org_id, payment.payment_id)
        if current.checkout_url:
            return current
        checkout = await provider.create_checkout(payment)
        return await self._payments.open_checkout(payment.payment_id, checkout, self._clock.now_ms())

    async def receive(self, provider_name: str, body: bytes, headers: Headers) -> NoticeOutcome:
        """Takes a notice of a provider and does what follows of it. When this returns it is durable; when it raises
        anything but ``NotFound`` and ``InvalidNotice``, the provider must send it again.

        Raises:
            NotFound: no such provider here.
            InvalidNotice.
        """
        provider = self._provider
        if provider is None or provider.name != provider_name:
            raise NotFound(f"no payment provider {provider_name[:50]!r} is configured")
        notice = _checked(provider.parse_notice(body, headers))
        if notice.kind is NoticeKind.IGNORED:
            return NoticeOutcome.IGNORED
        try:
            outcome = await self._payments.take_notice(
                provider.name, notice, self._clock.now_ms(), self._work(provider.name, notice)
            )
        except LedgerError as error:
            _log.error("payment_notice_not_taken", event_id=notice.event_id, about=notice.about, cause=repr(error))
            raise
        tell = _log.error if outcome in TROUBLE else _log.info
        tell(
            "payment_notice",
            provider=provider.name,
            event_id=notice.event_id,
            about=notice.about,
            payment_id=notice.payment_id,
            outcome=outcome.value,
        )
        return outcome

    async def pay_at_till(self, session_id: str) -> Payment:
        """Pays in a session of the local provider: its signed notice is delivered as any other is.

        Raises:
            NotFound: no such session, or another provider is configured.
        """
        if self._till is None:
            raise NotFound("there is no local payment provider here")
        payment = await self._payments.of_session(self._till.name, check_text("session", session_id))
        body, headers = self._till.notice_of_payment(payment)
        await self.receive(self._till.name, body, headers)
        return await self._payments.payment(payment.org_id, payment.payment_id)

    async def payment(self, org_id: str, payment_id: str) -> Payment:
        """Raises:
        NotFound: also where it is another organisation's. ``org_id`` "": any.
        """
        return await self._payments.payment(
            check_text("org_id", org_id, empty=True), check_text("payment_id", payment_id)
        )

    async def page(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[Payment], str]:
        """Payments, newest first, and the token of the next page ("": there is none). ``org_id`` "": of all."""
        size = check_page_size(page_size)
        found = await self._payments.payments(
            check_text("org_id", org_id, empty=True), limit=size + 1, before=position_of_token(page_token)
        )
        return page_of(found, size, lambda payment: (payment.created_at_ms, payment.payment_id))

    async def notices(self, *, trouble_only: bool, page_size: int, page_token: str) -> tuple[list[TakenNotice], str]:
        """What providers told, newest first, and the token of the next page. ``trouble_only``: what a person has to
        look at.
        """
        size = check_page_size(page_size)
        outcomes = TROUBLE if trouble_only else tuple(NoticeOutcome)
        found = await self._payments.notices(outcomes, limit=size + 1, before=position_of_token(page_token))
        return page_of(found, size, lambda taken: (taken.received_at_ms, taken.notice.event_id))

    async def funds(self, org_id: str) -> Funds:
        """What an organisation has, by kinds of credit.

        Raises:
            NotFound.
        """
        return await self._payments.funds(check_text("org_id", org_id))

    def _configured(self, name: str = "") -> PaymentProvider:
        if self._provider is None:
            raise PaymentsNotConfigured(
                "no payment provider is configured; the operator adds credit with `tallygate credit add`"
            )
        if name and name != self._provider.name:
            raise PaymentsNotConfigured(f"this payment was begun with {name}, which is no longer configured")
        return self._provider

    def _work(self, provider: str, notice: Notice) -> NoticeWork:
        now_ms = self._clock.now_ms()
        actor = Actor(ActorKind.SYSTEM, provider)

        def entry(before: Payment, after: Payment) -> TrailEntry:
            what = "paid_back" if notice.kind is NoticeKind.REFUNDED else notice.kind.value
            return self._telling.entry(
                after.org_id,
                actor,
                f"payment.{what}",
                after.payment_id,
                before=before.shown(),
                after={**after.shown(), "event_id": notice.event_id},
            )

        return NoticeWork(
            follow=lambda payment: follow(payment, notice, now_ms),
            credit=lambda payment: credit_of(payment, self._make_id("xfer"), now_ms),
            take_back=lambda payment, amount: return_of(payment, amount, self._make_id("xfer"), now_ms),
            entry=entry,
        )


def _checked(notice: Notice) -> Notice:
    """Bounds what is to be written of a notice.

    Raises:
        InvalidNotice.
    """
    try:
        check_text("event_id", notice.event_id)
        for name in ("about", "session_id", "payment_id", "provider_payment_id", "currency"):
            check_text(name, getattr(notice, name), empty=True)
    except LedgerError as error:
        raise InvalidNotice(str(error)) from error
    return replace(notice, currency=notice.currency.lower())
