"""The payment provider that the settings name."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger_svc.clients.local_payments import LocalPayments
from ledger_svc.service.payment_ports import PaymentProvider
from ledger_svc.settings import LedgerSettings
from meshkit.clock import Clock
from meshkit.ids import MakeId


@asynccontextmanager
async def payment_provider(
    settings: LedgerSettings, clock: Clock, make_id: MakeId
) -> AsyncIterator[PaymentProvider | None]:
    """None: payments are not taken."""
    if settings.billing_provider == "local":
        secret = settings.local_payment_secret
        yield LocalPayments(
            secret=secret.get_secret_value() if secret else secrets.token_hex(32),
            public_url=settings.public_url,
            clock=clock,
            make_id=make_id,
            tolerance_s=settings.payment_notice_tolerance_s,
        )
    elif settings.billing_provider == "stripe":
        # Half a second of every start, and memory, that only those who use it pay for.
        from ledger_svc.clients.stripe_payments import stripe_payments  # noqa: PLC0415

        assert settings.stripe_secret_key is not None, "the settings have checked it"
        async with stripe_payments(
            secret_key=settings.stripe_secret_key.get_secret_value(),
            webhook_secrets=[secret.get_secret_value() for secret in settings.stripe_webhook_secrets],
            return_url=f"{settings.public_url.rstrip('/')}/v1/billing/done",
            timeout_s=settings.payment_timeout_s,
            tolerance_s=settings.payment_notice_tolerance_s,
            api_base=settings.stripe_api_base,
        ) as stripe:
            yield stripe
    else:
        yield None
