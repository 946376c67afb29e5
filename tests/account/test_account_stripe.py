"""The whole way of a payment through Stripe, over HTTP, against a server that answers as Stripe does."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from ledger_svc.settings import LedgerSettings
from tests.account.installation import installed
from tests.harness.fake_stripe import SECRET_KEY, WEBHOOK_SECRET, event, fake_stripe, session, signed

TOPUP = {"amount_usd": "20.50", "idempotency_key": "topup-1"}


async def test_a_payment_is_made_at_stripe_and_credited_by_its_webhook() -> None:
    async with fake_stripe() as stripe:
        settings = {
            "billing_provider": "stripe",
            "stripe_secret_key": SecretStr(SECRET_KEY),
            "stripe_webhook_secrets": [SecretStr(WEBHOOK_SECRET)],
            "stripe_api_base": stripe.url,
        }
        async with installed(settings) as installation:
            tenant, provider = await installation.tenant(), await installation.client()
            payment = (await tenant.http.post("/v1/billing/topup", json=TOPUP)).json()
            assert payment["checkout_url"].startswith("https://checkout.stripe.com/")
            assert stripe.requests[0][1]["success_url"] == "http://127.0.0.1:8080/v1/billing/done"
            body = event("checkout.session.completed", session(payment["id"], cents=2050))
            for _ in range(2):
                taken = await provider.post("/v1/billing/webhooks/stripe", content=body, headers=signed(body))
                assert taken.status_code == 200
            assert (await provider.post("/v1/billing/webhooks/stripe", content=body)).status_code == 400
            assert (await tenant.http.get("/v1/billing/balance")).json()["balance_usd"] == "1020.5"
            plan = (await tenant.http.get("/v1/billing/plan")).json()
            assert plan["payments"]["provider"] == "stripe"

            stripe.failures = [(401, {"error": {"message": f"Invalid API Key provided: {SECRET_KEY}"}})]
            failed = await tenant.http.post("/v1/billing/topup", json=TOPUP | {"idempotency_key": "topup-2"})
            assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_error")
            assert SECRET_KEY not in failed.text


SECRETS = {"peppers": {1: "a pepper for account tests"}, "signing_keys": {"k": "b25l" * 10 + "b24"}}


def test_stripe_needs_its_secrets_and_they_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="needs stripe_secret_key"):
        LedgerSettings.model_validate(SECRETS | {"billing_provider": "stripe", "stripe_secret_key": SECRET_KEY})
    monkeypatch.setenv("TALLYGATE_LEDGER_BILLING_PROVIDER", "stripe")
    monkeypatch.setenv("TALLYGATE_LEDGER_STRIPE_SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("TALLYGATE_LEDGER_STRIPE_WEBHOOK_SECRETS", f'["whsec_new", "{WEBHOOK_SECRET}"]')
    settings = LedgerSettings(**SECRETS)  # type: ignore[arg-type]
    assert [secret.get_secret_value() for secret in settings.stripe_webhook_secrets] == ["whsec_new", WEBHOOK_SECRET]
    assert SECRET_KEY not in repr(settings)
    assert WEBHOOK_SECRET not in repr(settings)
