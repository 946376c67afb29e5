"""Payments without another party, for tests and demonstrations: whoever opens a payment's page may pay it.

Its notices are signed as Stripe signs its own (https://docs.stripe.com/webhooks#verify-manually), and go the same way.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from ledger_svc.domain.errors import InvalidNotice
from ledger_svc.domain.payment_refunds import PaymentRefund
from ledger_svc.domain.payments import CURRENCY, Checkout, Notice, NoticeKind, Payment
from ledger_svc.service.payment_ports import Headers
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.money import format_usd, parse_usd

NAME = "local"
SIGNATURE_HEADER = "tallygate-signature"
_SESSION_HEX_DIGITS = 40


class LocalPayments:
    """Implements ``Till``. ``secret``: signs notices, and makes the names of sessions, which nobody can guess.
    ``public_url``: where clients reach the gateway. ``tolerance_s``: how old a signature may be.
    """

    def __init__(self, *, secret: str, public_url: str, clock: Clock, make_id: MakeId, tolerance_s: int) -> None:
        self._secret = secret.encode()
        self._public_url = public_url.rstrip("/")
        self._clock = clock
        self._make_id = make_id
        self._tolerance_s = tolerance_s

    @property
    def name(self) -> str:
        """See ``PaymentProvider``."""
        return NAME

    async def create_checkout(self, payment: Payment) -> Checkout:
        """See ``PaymentProvider``. The session is made of the payment's id: it is always the same."""
        session_id = "cs_local_" + self._mac(b"session." + payment.payment_id.encode())[:_SESSION_HEX_DIGITS]
        return Checkout(session_id, f"{self._public_url}/v1/billing/local/{session_id}/pay")

    async def refund(self, payment: Payment, refund: PaymentRefund) -> str:  # noqa: ARG002
        """See ``PaymentProvider``. Nobody had paid anything."""
        return f"re_local_{refund.refund_id}"

    def notice_of_payment(self, payment: Payment) -> tuple[bytes, Headers]:
        """See ``Till``. Each has an event id of its own, as if it were paid again and again."""
        notice = {
            "id": self._make_id("evt"),
            "kind": NoticeKind.PAID.value,
            "session_id": payment.provider_session_id,
            "payment_id": payment.payment_id,
            "amount_usd": format_usd(payment.amount_nano_usd),
            "currency": CURRENCY,
        }
        body = json.dumps(notice).encode()
        return body, {SIGNATURE_HEADER: self.signature(body)}

    def signature(self, body: bytes) -> str:
        """The header that signs a body now."""
        at_s = self._clock.now_ms() // 1_000
        return f"t={at_s},v1={self._mac(b'%d.' % at_s + body)}"

    def parse_notice(self, body: bytes, headers: Headers) -> Notice:
        """See ``PaymentProvider``."""
        self._verify(body, headers.get(SIGNATURE_HEADER, ""))
        try:
            said = json.loads(body)
            return Notice(
                event_id=str(said["id"]),
                kind=NoticeKind(said["kind"]),
                about=f"local.{said['kind']}",
                session_id=str(said["session_id"]),
                payment_id=str(said["payment_id"]),
                provider_payment_id=f"local_{said['payment_id']}",
                amount_nano_usd=parse_usd(said["amount_usd"]),
                currency=str(said["currency"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InvalidNotice("it is not one of the local payment provider's") from error

    def _verify(self, body: bytes, header: str) -> None:
        said = dict(part.partition("=")[::2] for part in header.split(","))
        at, signature = said.get("t", ""), said.get("v1", "")
        if not (at.isascii() and at.isdecimal() and len(at) < 15):
            raise InvalidNotice(f"the {SIGNATURE_HEADER} header is missing, or is not of the form t=...,v1=...")
        if not hmac.compare_digest(self._mac(at.encode() + b"." + body).encode(), signature.encode()):
            raise InvalidNotice(f"the {SIGNATURE_HEADER} header does not sign this body")
        if abs(self._clock.now_ms() // 1_000 - int(at)) > self._tolerance_s:
            raise InvalidNotice("the signature is too old")

    def _mac(self, message: bytes) -> str:
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
