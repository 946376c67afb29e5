"""Balances, credit, usage, plan and hint over HTTP. Every answer is read by a parser that refuses floats."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest

from ledger_svc.store.charge_sums import ChargeSums
from meshkit.money import NANO_PER_USD
from tallygate.ledger.v1 import ledger_pb2
from tests.account.installation import Installation, Tenant, refuse_floats

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT_S = 20.0


async def test_a_balance_says_what_it_is_made_of(installation: Installation, tenant: Tenant) -> None:
    credit = ledger_pb2.AddCreditRequest(
        org_id=tenant.org_id,
        amount_nano_usd=5 * NANO_PER_USD + 1,
        idempotency_key="gift",
        kind=ledger_pb2.CREDIT_KIND_PROMOTIONAL,
        expires_at_ms=4_000_000_000_000,
    )
    await installation.ledger.AddCredit(credit, timeout=TIMEOUT_S)
    assert (await tenant.reading.get("/v1/billing/balance")).json() == {
        "object": "balance",
        "balance_usd": "1005.000000001",
        "held_usd": "0",
        "available_usd": "1005.000000001",
        "paid_usd": "1000",
        "promotional_usd": "5.000000001",
        "open_holds": 0,
    }
    credits = (await tenant.http.get("/v1/billing/credits")).json()["data"]
    assert [(item["kind"], item["remaining_usd"], item["expires_at"]) for item in credits] == [
        ("promotional", "5.000000001", 4_000_000_000),
        ("paid", "1000", None),
    ]


async def test_usage_is_what_the_balance_lost(tenant: Tenant) -> None:
    for text in ("one", "one", "two"):
        assert (await tenant.chat(text)).status_code == 200
    usage = (await tenant.http.get("/v1/billing/usage", params={"days": 7})).json()
    balance = (await tenant.http.get("/v1/billing/balance")).json()
    assert (usage["object"], usage["days"], usage["requests"]) == ("billing_usage", 7, 3)
    assert Decimal(usage["total_usd"]) == 1000 - Decimal(balance["balance_usd"]) > 0
    assert Decimal(usage["saved_usd"]) > 0
    assert set(usage["by_tier"]) == {"fast", "balanced", "auto", "passthrough", "byok"}
    assert usage["by_tier"]["passthrough"]["cost_usd"] == usage["total_usd"]
    assert usage["by_tier"]["byok"] == {"requests": 0, "cost_usd": "0", "saved_usd": "0"}
    (day,) = usage["by_day"]
    assert (day["cost_usd"], day["by_tier"]) == (usage["total_usd"], {"passthrough": usage["total_usd"]})


async def test_usage_reads_no_receipt_and_leaves_out_what_failed(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(*_: object) -> list[object]:
        raise AssertionError("receipts are read, however many there are")

    monkeypatch.setattr(ChargeSums, "sums", read)
    assert (await tenant.chat("sums")).status_code == 200
    assert (await tenant.chat("sums", model="no-such-model")).status_code == 404
    while not (await tenant.http.get("/v1/usage")).json()["total"]["errors"]:  # noqa: ASYNC110 - told within a second
        await asyncio.sleep(0.02)
    usage = (await tenant.http.get("/v1/billing/usage")).json()
    assert (usage["requests"], len(usage["by_day"])) == (1, 1)
    assert set(usage["by_day"][0]["by_tier"]) == {"passthrough"}
    assert "" not in usage["by_tier"]


@pytest.mark.parametrize("days", ["0", "367", "x", "-1"])
async def test_a_period_that_is_none_is_refused(tenant: Tenant, days: str) -> None:
    answer = await tenant.http.get("/v1/billing/usage", params={"days": days})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "days")


async def test_a_plan_says_what_tiers_cost_and_what_may_be_spent(installation: Installation, tenant: Tenant) -> None:
    cap = ledger_pb2.SetCapRequest(
        org_id=tenant.org_id,
        scope=ledger_pb2.CAP_SCOPE_ORGANIZATION,
        scope_id=tenant.org_id,
        period=ledger_pb2.CAP_PERIOD_MONTH,
        unit=ledger_pb2.CAP_UNIT_NANO_USD,
        limit=100 * NANO_PER_USD,
    )
    await installation.ledger.SetCap(cap, timeout=TIMEOUT_S)
    plan = (await tenant.http.get("/v1/billing/plan")).json()
    assert plan["tiers"] == {
        "smart": {"models": [], "input_usd_per_million": "3", "output_usd_per_million": "12"},
        "passthrough": {"markup_pct": "5"},
        "byok": {"fee_pct": "0", "fee_usd_per_call": "0"},
    }
    assert plan["replay_pct"] == "25"
    assert plan["limits"] == {"monthly_spend_cap_usd": "100", "daily_spend_cap_usd": None}
    assert plan["payments"] == {"provider": None, "minimum_usd": "0.5", "maximum_usd": "999999.99"}


async def test_a_hint_needs_usage(tenant: Tenant) -> None:
    hint = (await tenant.http.get("/v1/billing/upgrade-hint")).json()
    assert (hint["hint"], hint["reason"], hint["alternatives"]) == (None, "too_little_usage", [])
    for n in range(20):
        await tenant.chat(f"text {n}")
    hint = (await tenant.http.get("/v1/billing/upgrade-hint")).json()
    assert (hint["hint"], hint["reason"], hint["requests"]) == (None, "no_other_plan", 20)
    assert hint["alternatives"] == [{"plan": "passthrough", "would_cost_usd": hint["current_usd"], "savings_usd": "0"}]


@pytest.mark.parametrize("path", ["balance", "credits", "usage", "plan", "upgrade-hint", "payments", "payments/pay_1"])
async def test_billing_is_for_account_keys(installation: Installation, tenant: Tenant, path: str) -> None:
    nobody = await installation.client()
    assert (await nobody.get(f"/v1/billing/{path}")).status_code == 401
    assert (await tenant.chatting.get(f"/v1/billing/{path}")).status_code == 403


@pytest.mark.parametrize("body", [b'{"a": 1.0}', b'[{"b": 1e3}]', b'{"c": NaN}'])
async def test_the_parser_of_these_tests_refuses_floats(body: bytes) -> None:
    request = httpx.Request("GET", "http://edge/v1/billing/balance")
    answer: Any = httpx.Response(200, headers={"content-type": "application/json"}, content=body, request=request)
    with pytest.raises(AssertionError, match="float"):
        await refuse_floats(answer)
