"""What of Stripe's API a checkout and a refund need, on loopback: https://docs.stripe.com/api."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from stripe import WebhookSignature

SECRET_KEY = "sk_test_key"
WEBHOOK_SECRET = "whsec_current"


@dataclass
class FakeStripe:
    """Remembers what was asked, and answers as told. Like Stripe's, its answers to one idempotency key are the same."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    """(path, form, idempotency key)."""
    failures: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Answered first, in order: (status, body)."""
    delay_s: float = 0.0
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        form = {str(name): str(value) for name, value in (await request.post()).items()}
        key = request.headers.get("Idempotency-Key", "")
        self.requests.append((request.path, form, key))
        assert request.headers["Authorization"] == f"Bearer {SECRET_KEY}"
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.failures:
            status, body = self.failures.pop(0)
            return web.json_response(body, status=status)
        made = self.kept.setdefault(key, self._made(request.path, form))
        return web.json_response(made)

    def _made(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        number = len(self.kept) + 1
        if path == "/v1/refunds":
            return {"id": f"re_{number}", "object": "refund", "status": "succeeded", "amount": int(form["amount"])}
        return {
            "id": f"cs_test_{number}",
            "object": "checkout.session",
            "url": f"https://checkout.stripe.com/c/pay/cs_test_{number}",
            "mode": form["mode"],
        }


@asynccontextmanager
async def fake_stripe() -> AsyncIterator[FakeStripe]:
    """Serves inside the block."""
    fake = FakeStripe()
    app = web.Application()
    app.router.add_post("/v1/checkout/sessions", fake.answer)
    app.router.add_post("/v1/refunds", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()


def event(about: str, subject: dict[str, Any], event_id: str = "evt_1") -> bytes:
    """An event as Stripe sends it."""
    sent = {
        "id": event_id,
        "object": "event",
        "api_version": "2026-10-28",
        "created": 1_790_000_000,
        "type": about,
        "livemode": False,
        "data": {"object": subject},
    }
    return json.dumps(sent, indent=2).encode()


def session(payment_id: str, *, cents: int, session_id: str = "cs_test_1", **changes: Any) -> dict[str, Any]:
    """A checkout session that was paid."""
    return {
        "id": session_id,
        "object": "checkout.session",
        "amount_total": cents,
        "currency": "usd",
        "payment_status": "paid",
        "payment_intent": "pi_1",
        "metadata": {"payment_id": payment_id, "org_id": "org"},
        **changes,
    }


def charge(payment_id: str, *, cents: int, refunded_cents: int) -> dict[str, Any]:
    """A charge of which some was paid back."""
    return {
        "id": "ch_1",
        "object": "charge",
        "amount": cents,
        "amount_refunded": refunded_cents,
        "currency": "usd",
        "payment_intent": "pi_1",
        "metadata": {"payment_id": payment_id, "org_id": "org"},
    }


def signed(body: bytes, *, secret: str = WEBHOOK_SECRET, at_s: int | None = None) -> dict[str, str]:
    """The header that Stripe sends with a body."""
    return {"stripe-signature": WebhookSignature.generate_signature_header(body.decode(), secret, at_s)}
