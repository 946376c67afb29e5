"""Stripe, by its own package, against a server that answers as Stripe does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from ledger_svc.clients.stripe_payments import StripePayments, stripe_payments
from ledger_svc.domain.errors import InvalidNotice, ProviderFailed, ProviderRefused
from ledger_svc.domain.payments import NoticeKind, NoticeOutcome, PaymentState
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.credit import CreditService
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.refunds import RefundService
from ledger_svc.store.database import Database
from ledger_svc.store.payments import PaymentRecords
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock
from tests.harness.fake_stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    FakeStripe,
    charge,
    event,
    fake_stripe,
    session,
    signed,
)

USD = 10**9
NewPayer = Callable[..., Awaitable[Principal]]


@pytest.fixture
async def server() -> AsyncIterator[FakeStripe]:
    async with fake_stripe() as running:
        yield running


@pytest.fixture
async def stripe(server: FakeStripe, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StripePayments]:
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.001)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.001)
    async with stripe_payments(
        secret_key=SECRET_KEY,
        webhook_secrets=["whsec_former", WEBHOOK_SECRET],
        return_url="http://tallygate.example/v1/billing/done",
        timeout_s=5,
        tolerance_s=300,
        api_base=server.url,
    ) as client:
        yield client


@pytest.fixture
def store(database: Database, writer: Writer, keyring: Keyring) -> PaymentRecords:
    return PaymentRecords(database, writer, Trail(Sealer(keyring)), Sealer(keyring))


@pytest.fixture
def payments(store: PaymentRecords, stripe: StripePayments, clock: FakeClock, make_id: MakeId) -> PaymentService:
    return PaymentService(payments=store, provider=stripe, clock=clock, make_id=make_id)


@pytest.fixture
def refunds(store: PaymentRecords, stripe: StripePayments, clock: FakeClock, make_id: MakeId) -> RefundService:
    return RefundService(payments=store, provider=stripe, clock=clock, make_id=make_id)


@pytest.fixture(params=["sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_from_checkout_to_credit_and_back(
    server: FakeStripe,
    payments: PaymentService,
    refunds: RefundService,
    credit: CreditService,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    made = await payments.create(
        payer.org_id, amount_nano_usd=20_50 * 10**7, idempotency_key="k", success_url="https://shop.example/ok"
    )
    assert made.checkout_url == "https://checkout.stripe.com/c/pay/cs_test_1"
    path, form, key = server.requests[0]
    assert (path, key) == ("/v1/checkout/sessions", made.payment_id)
    assert form["line_items[0][price_data][unit_amount]"] == "2050"
    assert (form["mode"], form["line_items[0][price_data][currency]"]) == ("payment", "usd")
    for metadata in ("metadata", "payment_intent_data[metadata]"):
        assert form[f"{metadata}[payment_id]"] == made.payment_id
        assert form[f"{metadata}[org_id]"] == payer.org_id
    assert (form["success_url"], form["cancel_url"]) == ("https://shop.example/ok", "https://shop.example/ok")

    async def tell(body: bytes) -> NoticeOutcome:
        return await payments.receive("stripe", body, signed(body))

    unpaid = event("checkout.session.completed", session(made.payment_id, cents=2050, payment_status="unpaid"), "evt_0")
    assert await tell(unpaid) is NoticeOutcome.IGNORED
    done = event("checkout.session.completed", session(made.payment_id, cents=2050))
    assert await tell(done) is NoticeOutcome.CREDITED
    again = event("checkout.session.async_payment_succeeded", session(made.payment_id, cents=2050), "evt_2")
    assert await tell(again) is NoticeOutcome.REPEATED
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 20_50 * 10**7

    await refunds.refund("", made.payment_id, amount_nano_usd=5 * USD, reason="asked", idempotency_key="r1")
    path, form, key = server.requests[1]
    assert (path, form["payment_intent"], form["amount"]) == ("/v1/refunds", "pi_1", "500")
    assert key.startswith("rfd_")
    told = event("charge.refunded", charge(made.payment_id, cents=2050, refunded_cents=500), "evt_3")
    assert await tell(told) is NoticeOutcome.NOTED
    more = event("charge.refunded", charge(made.payment_id, cents=2050, refunded_cents=2050), "evt_4")
    assert await tell(more) is NoticeOutcome.RETURNED
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 0
    assert (await payments.payment("", made.payment_id)).state is PaymentState.REFUNDED


@pytest.mark.parametrize(
    ("about", "kind_told"),
    [
        ("checkout.session.async_payment_failed", NoticeKind.FAILED),
        ("checkout.session.expired", NoticeKind.EXPIRED),
        ("customer.created", NoticeKind.IGNORED),
    ],
)
def test_events_are_told_apart(stripe: StripePayments, about: str, kind_told: NoticeKind) -> None:
    body = event(about, session("pay_1", cents=100, payment_status="unpaid"))
    notice = stripe.parse_notice(body, signed(body))
    assert (notice.kind, notice.about) == (kind_told, about)


def test_a_dispute_names_its_payment_by_the_intent(stripe: StripePayments) -> None:
    body = event(
        "charge.dispute.created",
        {"id": "dp_1", "object": "dispute", "amount": 700, "currency": "usd", "payment_intent": {"id": "pi_1"}},
    )
    notice = stripe.parse_notice(body, signed(body))
    assert (notice.kind, notice.provider_payment_id) == (NoticeKind.ATTENTION, "pi_1")
    assert (notice.payment_id, notice.amount_nano_usd) == ("", 7 * USD)


BODY = event("checkout.session.completed", session("pay_1", cents=100))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"stripe-signature": "t=1,v1=\xe9"},
        {"stripe-signature": ""},
        {"stripe-signature": "t=x,v1=y"},
        {"stripe-signature": "nonsense"},
        signed(BODY, secret="whsec_other"),
        signed(BODY, at_s=int(time.time()) - 400),
        signed(BODY + b" "),
    ],
)
def test_a_notice_that_stripe_did_not_sign_lately_is_refused(stripe: StripePayments, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidNotice, match="signature"):
        stripe.parse_notice(BODY, headers)


def test_a_former_secret_is_good_while_it_is_configured(stripe: StripePayments) -> None:
    assert stripe.parse_notice(BODY, signed(BODY, secret="whsec_former")).kind is NoticeKind.PAID


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"type": "charge.refunded", "id": "e", "data": {}}', b"\xff"])
def test_what_is_signed_and_yet_no_event_is_refused(stripe: StripePayments, body: bytes) -> None:
    headers = signed(body) if body != b"\xff" else signed(b"x")
    with pytest.raises(InvalidNotice):
        stripe.parse_notice(body, headers)


async def test_a_passing_failure_is_tried_again_under_the_same_key(
    server: FakeStripe, payments: PaymentService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    server.failures = [(500, {"error": {"type": "api_error", "message": "oops"}})]
    made = await payments.create(payer.org_id, amount_nano_usd=USD, idempotency_key="k")
    assert made.checkout_url
    assert [key for _, _, key in server.requests] == [made.payment_id] * 2


REFUSAL = {"error": {"type": "invalid_request_error", "message": "Not a valid URL", "param": "success_url"}}
BAD_KEY = {"error": {"type": "invalid_request_error", "message": f"Invalid API Key provided: {SECRET_KEY}"}}


@pytest.mark.parametrize(
    ("failures", "raised", "said"),
    [
        ([(400, REFUSAL)], ProviderRefused, "Not a valid URL"),
        ([(401, BAD_KEY)], ProviderFailed, "try again"),
        ([(500, {})] * 3, ProviderFailed, "try again"),
        ([(429, {"error": {"type": "rate_limit_error", "message": "slow down"}})] * 3, ProviderFailed, "try again"),
    ],
)
async def test_what_stripe_refuses_and_where_it_fails_is_told_apart(
    server: FakeStripe,
    payments: PaymentService,
    new_payer: NewPayer,
    failures: list[tuple[int, dict[str, Any]]],
    raised: type[Exception],
    said: str,
) -> None:
    payer = await new_payer()
    server.failures = list(failures)
    with capture_logs() as logs, pytest.raises(raised, match=said) as refusal:
        await payments.create(payer.org_id, amount_nano_usd=USD, idempotency_key="k")
    assert SECRET_KEY not in f"{logs} {refusal.value}"
    server.failures = []
    assert (await payments.create(payer.org_id, amount_nano_usd=USD, idempotency_key="k")).checkout_url


async def test_a_server_that_does_not_answer_is_given_up(
    server: FakeStripe, store: PaymentRecords, clock: FakeClock, make_id: MakeId, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    server.delay_s = 1
    async with stripe_payments(
        secret_key=SECRET_KEY,
        webhook_secrets=[WEBHOOK_SECRET],
        return_url="http://tallygate.example/done",
        timeout_s=0.05,
        tolerance_s=300,
        api_base=server.url,
    ) as impatient:
        payments = PaymentService(payments=store, provider=impatient, clock=clock, make_id=make_id)
        with pytest.raises(ProviderFailed):
            await payments.create(payer.org_id, amount_nano_usd=USD, idempotency_key="k")
