"""Payments through Stripe Checkout (https://docs.stripe.com/payments/checkout), with Stripe's own package.

A session is made for one payment; the payment's id is in the session's metadata and in that of its payment intent, so
that notices of either, and of the charge, name it (https://docs.stripe.com/metadata). Stripe counts US dollars in
cents. Its idempotency keys are our ids (https://docs.stripe.com/api/idempotent_requests).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import stripe
import structlog

from ledger_svc.domain.errors import InvalidNotice, ProviderFailed, ProviderRefused
from ledger_svc.domain.payment_refunds import PaymentRefund
from ledger_svc.domain.payments import CURRENCY, NANO_PER_CENT, Checkout, Notice, NoticeKind, Payment
from ledger_svc.service.payment_ports import Headers

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "stripe"
SIGNATURE_HEADER = "stripe-signature"
API_BASE = "https://api.stripe.com"
_RETRIES = 2
_log = structlog.get_logger(__name__)

_KINDS = {
    "checkout.session.completed": NoticeKind.PAID,
    "checkout.session.async_payment_succeeded": NoticeKind.PAID,
    "checkout.session.async_payment_failed": NoticeKind.FAILED,
    "checkout.session.expired": NoticeKind.EXPIRED,
    "charge.refunded": NoticeKind.REFUNDED,
    "charge.dispute.created": NoticeKind.ATTENTION,
    "charge.dispute.closed": NoticeKind.ATTENTION,
    "charge.dispute.funds_withdrawn": NoticeKind.ATTENTION,
    "refund.failed": NoticeKind.ATTENTION,
}
"""What is taken of Stripe's events (https://docs.stripe.com/api/events/types); the others are ignored."""


@asynccontextmanager
async def stripe_payments(
    *,
    secret_key: str,
    webhook_secrets: Sequence[str],
    return_url: str,
    timeout_s: float,
    tolerance_s: int,
    api_base: str = API_BASE,
) -> AsyncIterator[StripePayments]:
    """Stripe, with connections that are closed when the block ends. ``timeout_s``: of one try of a call."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base},
            http_client=stripe.AIOHTTPClient(session=session, timeout=timeout),
            max_network_retries=_RETRIES,
        )
        yield StripePayments(client, webhook_secrets=webhook_secrets, return_url=return_url, tolerance_s=tolerance_s)


class StripePayments:
    """Implements ``PaymentProvider``. ``webhook_secrets``: any of them may have signed a notice, so that they can be
    rotated. ``return_url``: where a browser goes after a checkout that names no URL. ``tolerance_s``: how old a
    signature may be.
    """

    def __init__(
        self,
        client: stripe.StripeClient,
        *,
        webhook_secrets: Sequence[str],
        return_url: str,
        tolerance_s: int,
    ) -> None:
        self._client = client
        self._webhook_secrets = tuple(webhook_secrets)
        self._return_url = return_url
        self._tolerance_s = tolerance_s

    @property
    def name(self) -> str:
        """See ``PaymentProvider``."""
        return NAME

    async def create_checkout(self, payment: Payment) -> Checkout:
        """See ``PaymentProvider``."""
        metadata = {"payment_id": payment.payment_id, "org_id": payment.org_id}
        success_url = payment.success_url or self._return_url
        with _failures("checkout"):
            session = await self._client.v1.checkout.sessions.create_async(
                params={
                    "mode": "payment",
                    "client_reference_id": payment.payment_id,
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": CURRENCY,
                                "unit_amount": payment.amount_nano_usd // NANO_PER_CENT,
                                "product_data": {"name": "Prepaid credit"},
                            },
                        }
                    ],
                    "metadata": metadata,
                    "payment_intent_data": {"metadata": metadata},
                    "success_url": success_url,
                    "cancel_url": payment.cancel_url or success_url,
                },
                options={"idempotency_key": payment.payment_id},
            )
        if not session.url:
            raise ProviderFailed("Stripe made a checkout session without a page")
        return Checkout(session.id, session.url)

    async def refund(self, payment: Payment, refund: PaymentRefund) -> str:
        """See ``PaymentProvider``."""
        with _failures("refund"):
            made = await self._client.v1.refunds.create_async(
                params={
                    "payment_intent": payment.provider_payment_id,
                    "amount": refund.amount_nano_usd // NANO_PER_CENT,
                    "metadata": {"payment_id": payment.payment_id, "refund_id": refund.refund_id},
                },
                options={"idempotency_key": refund.refund_id},
            )
        if made.status in ("failed", "canceled"):
            raise ProviderRefused(f"Stripe made a refund that is {made.status}")
        return made.id

    def parse_notice(self, body: bytes, headers: Headers) -> Notice:
        """See ``PaymentProvider``."""
        event = self._event(body, headers.get(SIGNATURE_HEADER, ""))
        try:
            return _notice(event)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidNotice("Stripe's event is not of a form that is known here") from error

    def _event(self, body: bytes, signature: str) -> Mapping[str, Any]:
        for secret in self._webhook_secrets if signature.isascii() else ():
            try:
                event = self._client.construct_event(body, signature, secret, self._tolerance_s)
            except stripe.SignatureVerificationError:
                continue
            except (
                ValueError,
                AttributeError,
            ) as error:  # no UTF-8, no JSON, no object
                raise InvalidNotice("its body is not a JSON object") from error
            found: Mapping[str, Any] = event.to_dict()
            return found
        raise InvalidNotice(f"the {SIGNATURE_HEADER} header is not a fresh signature of this body by Stripe")


def _notice(event: Mapping[str, Any]) -> Notice:
    about, subject = event["type"], event["data"]["object"]
    kind = _KINDS.get(about, NoticeKind.IGNORED)
    if kind is NoticeKind.IGNORED or (kind is NoticeKind.PAID and subject["payment_status"] != "paid"):
        return Notice(event["id"], NoticeKind.IGNORED, about)
    is_session = about.startswith("checkout.session.")
    amount = {NoticeKind.PAID: "amount_total", NoticeKind.REFUNDED: "amount_refunded"}.get(kind, "amount")
    return Notice(
        event_id=event["id"],
        kind=kind,
        about=about,
        session_id=subject["id"] if is_session else "",
        payment_id=(subject.get("metadata") or {}).get("payment_id", ""),
        provider_payment_id=_id(subject.get("payment_intent")),
        amount_nano_usd=int(subject.get(amount) or 0) * NANO_PER_CENT,
        currency=subject.get("currency") or "",
    )


def _id(reference: Any) -> str:
    """Of a thing that Stripe names, or has expanded."""
    return str(reference["id"]) if isinstance(reference, Mapping) else str(reference or "")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Raises:
    ProviderRefused: Stripe understood, and will not.
    ProviderFailed: the rest; what Stripe says of our own key is for the log.
    """
    try:
        yield
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        raise ProviderRefused(f"Stripe refused the {what}: {error.user_message or error.code}") from error
    except stripe.StripeError as error:
        _log.error(
            "stripe_failed",
            what=what,
            cause=type(error).__name__,
            http_status=error.http_status,
            stripe_request_id=error.request_id,
        )
        raise ProviderFailed(f"Stripe did not answer the {what} as it should; try again in a moment") from error
    except (TimeoutError, aiohttp.ClientError) as error:
        _log.error("stripe_failed", what=what, cause=type(error).__name__)
        raise ProviderFailed(f"Stripe did not answer the {what} in time; try again in a moment") from error
