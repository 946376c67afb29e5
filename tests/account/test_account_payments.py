"""Paying for credit over HTTP, with the local provider: what a client, a browser and a provider send."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from tallygate.ledger.v1 import billing_pb2, billing_pb2_grpc
from tests.account.installation import Installation, Tenant, installed

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT_S = 20.0
SECRET = "a secret for account tests"
TOPUP = {"amount_usd": "20.00", "idempotency_key": "topup-2026-04-27-001"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation() -> AsyncIterator[Installation]:
    """With the local payment provider."""
    settings = {
        "billing_provider": "local",
        "local_payment_secret": SecretStr(SECRET),
        "public_url": "http://edge/",
    }
    async with installed(settings) as running:
        yield running


def signed(notice: dict[str, Any], *, secret: str = SECRET, age_s: int = 0) -> tuple[bytes, dict[str, str]]:
    """As the local provider signs."""
    body, at = json.dumps(notice).encode(), int(time.time()) - age_s
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return body, {"tallygate-signature": f"t={at},v1={mac}"}


def told(payment: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "kind": "paid",
        "session_id": payment["checkout_url"].split("/")[-2],
        "payment_id": payment["id"],
        "amount_usd": payment["amount_usd"],
        "currency": "usd",
        **changes,
    }


async def balance(tenant: Tenant) -> str:
    return str((await tenant.http.get("/v1/billing/balance")).json()["balance_usd"])


async def test_a_topup_is_paid_and_credited_once(installation: Installation, tenant: Tenant) -> None:
    made = await tenant.http.post("/v1/billing/topup", json=TOPUP)
    assert made.status_code == 201
    payment = made.json()
    assert payment["id"].startswith("pay_")
    facts = (payment["object"], payment["status"], payment["amount_usd"], payment["refunded_usd"])
    assert facts == ("payment", "created", "20", "0")
    assert (await tenant.http.post("/api/v1/billing/topup", json=TOPUP)).json() == payment
    assert await balance(tenant) == "1000"

    browser = await installation.client()
    paid = await browser.post(payment["checkout_url"])
    assert paid.json() == {"id": payment["id"], "object": "payment", "status": "paid", "amount_usd": "20"}
    for _ in range(3):
        assert (await browser.post(payment["checkout_url"])).status_code == 200
    assert await balance(tenant) == "1020"
    found = (await tenant.reading.get(f"/v1/billing/payments/{payment['id']}")).json()
    assert (found["status"], found["refunds"]) == ("paid", [])
    assert (await tenant.http.get("/v1/billing/payments")).json()["data"][0]["id"] == payment["id"]


async def test_one_key_at_once_is_one_payment_and_another_amount_a_conflict(tenant: Tenant) -> None:
    answers = await asyncio.gather(*(tenant.http.post("/v1/billing/topup", json=TOPUP) for _ in range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await tenant.http.post("/v1/billing/topup", json=TOPUP | {"amount_usd": "21"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    page = TOPUP | {"success_url": "https://shop.example/ok"}
    assert (await tenant.http.post("/v1/billing/checkout", json=page)).status_code == 409
    assert (await tenant.http.post("/v1/billing/checkout", json=page | {"idempotency_key": "k2"})).status_code == 201


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (20.0, "send the amount as a string"),
        (19.99, "send the amount as a string"),
        (True, "send the amount as a string"),
        ("12.345", "whole cents"),
        ("0.10", "within"),
        (0, "within"),
        ("1e3", "amount_usd"),
        ("-5", "amount_usd"),
        (None, "amount_usd"),
        ("9999999", "within"),
        ("9999999999.999999999", "amount_usd"),
        (10**10, "amount_usd"),
    ],
)
async def test_an_amount_that_is_none_is_refused_and_says_why(tenant: Tenant, amount: Any, said: str) -> None:
    answer = await tenant.http.post("/v1/billing/topup", json=TOPUP | {"amount_usd": amount})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("amount_usd")


async def test_a_whole_number_of_dollars_may_be_a_number(tenant: Tenant) -> None:
    made = await tenant.http.post("/v1/billing/checkout", json=TOPUP | {"amount_usd": 20})
    assert (made.status_code, made.json()["amount_usd"]) == (201, "20")


@pytest.mark.parametrize(
    "change",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "a\x00b"},
        {"success_url": "javascript:alert(1)"},
        {"cancel_url": "/relative"},
        {"success_url": "https://shop.example/\n"},
        {"currency": "eur"},
    ],
)
async def test_a_checkout_that_is_none_is_refused(tenant: Tenant, change: dict[str, str]) -> None:
    answer = await tenant.http.post("/v1/billing/checkout", json=TOPUP | change)
    assert answer.status_code == 400, answer.text


async def test_who_only_reads_does_not_pay(tenant: Tenant) -> None:
    assert (await tenant.reading.post("/v1/billing/topup", json=TOPUP)).status_code == 403


async def test_a_notice_is_taken_from_the_provider_alone(installation: Installation, tenant: Tenant) -> None:
    payment = (await tenant.http.post("/v1/billing/topup", json=TOPUP)).json()
    provider = await installation.client()

    async def deliver(body: bytes, headers: Mapping[str, Any], name: str = "local") -> httpx.Response:
        return await provider.post(f"/v1/billing/webhooks/{name}", content=body, headers=headers)

    body, headers = signed(told(payment))
    unsigned: tuple[Mapping[str, Any], ...] = (
        {},
        signed(told(payment), secret="another")[1],
        signed(told(payment), age_s=400)[1],
        {"tallygate-signature": b"t=\xff,v1="},
        {"tallygate-signature": "nonsense"},
    )
    for wrong in unsigned:
        refused = await deliver(body, wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "notice")
    assert (await deliver(body + b" ", headers)).status_code == 400
    assert (await deliver(body, headers, "stripe")).status_code == 404
    assert (await deliver(b"x" * (256 * 1024 + 1), headers)).status_code == 413
    assert (await deliver(*signed({"id": "evt_x"}))).status_code == 400
    assert await balance(tenant) == "1000"

    for _ in range(2):
        taken = await deliver(body, headers)
        assert (taken.status_code, taken.json()) == (200, {"received": True})
    assert (await deliver(*signed(told(payment, id="evt_2")))).status_code == 200
    assert await balance(tenant) == "1020"


async def test_a_notice_that_does_not_fit_is_taken_and_credits_nothing(
    installation: Installation, tenant: Tenant
) -> None:
    payment = (await tenant.http.post("/v1/billing/topup", json=TOPUP)).json()
    provider = await installation.client()
    for n, change in enumerate(({"amount_usd": "2000"}, {"currency": "eur"}, {"payment_id": "pay_x"})):
        body, headers = signed(told(payment, **change, id=f"evt_misfit_{n}"))
        answer = await provider.post("/v1/billing/webhooks/local", content=body, headers=headers)
        assert answer.status_code == 200
    assert await balance(tenant) == "1000"
    stub = billing_pb2_grpc.BillingServiceStub(installation.ledger_channel)
    shown = await stub.ListNotices(billing_pb2.ListNoticesRequest(trouble_only=True), timeout=TIMEOUT_S)
    found = {notice.event_id for notice in shown.notices if "misfit" in notice.event_id}
    assert found == {f"evt_misfit_{n}" for n in range(3)}


async def test_a_refund_by_the_operator_shows_at_the_payment(installation: Installation, tenant: Tenant) -> None:
    payment = (await tenant.http.post("/v1/billing/topup", json=TOPUP)).json()
    await (await installation.client()).post(payment["checkout_url"])
    stub = billing_pb2_grpc.BillingServiceStub(installation.ledger_channel)
    request = billing_pb2.RefundPaymentRequest(
        payment_id=payment["id"], amount_nano_usd=5 * 10**9, reason="asked", idempotency_key="r1"
    )
    await stub.RefundPayment(request, timeout=TIMEOUT_S)
    found = (await tenant.http.get(f"/v1/billing/payments/{payment['id']}")).json()
    assert (found["status"], found["refunded_usd"]) == ("paid", "5")
    assert [(refund["status"], refund["amount_usd"]) for refund in found["refunds"]] == [("done", "5")]
    assert await balance(tenant) == "1015"


async def test_another_organisations_payment_is_not_there(installation: Installation, tenant: Tenant) -> None:
    other = await installation.tenant("Other")
    payment = (await other.http.post("/v1/billing/topup", json=TOPUP)).json()
    assert (await tenant.http.get(f"/v1/billing/payments/{payment['id']}")).status_code == 404
    assert (await tenant.http.get("/v1/billing/payments")).json()["data"] == []


@pytest.mark.parametrize("session", ["cs_local_x", "%00", "a" * 300])
async def test_a_session_that_nobody_opened_is_not_paid(installation: Installation, session: str) -> None:
    answer = await (await installation.client()).post(f"/v1/billing/local/{session}/pay")
    assert answer.status_code in {400, 404}


async def test_without_a_provider_the_operator_is_named() -> None:
    async with installed() as plain:
        tenant = await plain.tenant()
        answer = await tenant.http.post("/v1/billing/topup", json=TOPUP)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "payments_not_configured")
        assert "tallygate credit add" in answer.json()["error"]["message"]
        nobody = await plain.client()
        for name in ("local", "stripe"):
            assert (await nobody.post(f"/v1/billing/webhooks/{name}", content=b"{}")).status_code == 404
        assert (await nobody.post("/v1/billing/local/cs_1/pay")).status_code == 404
        assert (await nobody.get("/v1/billing/done")).text.startswith("Thank you")
