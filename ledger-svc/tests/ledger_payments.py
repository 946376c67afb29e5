"""A payment provider under control, and the use cases of payments on it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from ledger_svc.domain.errors import InvalidNotice
from ledger_svc.domain.payment_refunds import PaymentRefund
from ledger_svc.domain.payments import Checkout, Notice, NoticeKind, Payment
from ledger_svc.service.payment_ports import Headers

USD = 10**9


@dataclass
class ScriptedProvider:
    """Answers as told; takes notices as JSON, without a signature, but for "forged" ones."""

    name: str = "scripted"
    checkouts: list[str] = field(default_factory=list)
    refunds: list[tuple[str, int]] = field(default_factory=list)
    failure: Exception | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None

    async def create_checkout(self, payment: Payment) -> Checkout:
        self.checkouts.append(payment.payment_id)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Checkout(f"cs_{payment.payment_id}", f"https://pay.example/{payment.payment_id}")

    async def refund(self, payment: Payment, refund: PaymentRefund) -> str:
        self.refunds.append((refund.refund_id, refund.amount_nano_usd))
        if self.failure is not None:
            raise self.failure
        return f"re_{refund.refund_id}"

    def parse_notice(self, body: bytes, headers: Headers) -> Notice:
        if body == b"forged":
            raise InvalidNotice("forged")
        said = json.loads(body)
        return Notice(**said | {"kind": NoticeKind(said["kind"])})


def told(
    payment: Payment, kind: NoticeKind, event_id: str, *, amount_nano_usd: int | None = None, currency: str = "usd"
) -> bytes:
    """The body of a notice of a payment."""
    is_session = kind in (NoticeKind.PAID, NoticeKind.FAILED, NoticeKind.EXPIRED)
    return json.dumps(
        {
            "event_id": event_id,
            "kind": kind.value,
            "about": f"scripted.{kind.value}",
            "session_id": f"cs_{payment.payment_id}" if is_session else "",
            "payment_id": payment.payment_id,
            "provider_payment_id": f"pi_{payment.payment_id}",
            "amount_nano_usd": payment.amount_nano_usd if amount_nano_usd is None else amount_nano_usd,
            "currency": currency,
        }
    ).encode()
