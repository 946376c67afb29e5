"""A chat completion from a client's HTTP request to its receipt, in both modes."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal
from typing import Any

import httpx
import pytest

from tallygate.ledger.v1 import ledger_pb2
from tests.harness.gateway import Gateway

HOUR_S = 3600


def ask(gateway: Gateway, key: str = "", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "test/ok", "messages": [{"role": "user", "content": "hello"}], "temperature": 0} | fields
    authorization = {"Authorization": f"Bearer {key or gateway.api_key}"}
    return httpx.post(
        f"{gateway.base_url}/chat/completions", json=body, headers=authorization | (headers or {}), timeout=60
    )


def quarter_of(usd: str) -> Decimal:
    """A quarter, rounded up to the nano-dollar, as a charge is."""
    return (Decimal(usd) / 4).quantize(Decimal("1e-9"), rounding=ROUND_UP)


def receipt_of(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    response = httpx.get(f"{gateway.base_url}/receipts/{answer.headers['x-receipt-id']}", headers=headers)
    assert response.status_code == 200, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


def test_a_repeated_request_is_replayed_at_a_quarter_of_the_price(gateway: Gateway) -> None:
    question = [{"role": "user", "content": "asked twice"}]
    fresh = ask(gateway, messages=question)
    again = ask(gateway, messages=question)
    assert (fresh.headers["x-served-mode"], again.headers["x-served-mode"]) == ("fresh", "exact")
    assert len(gateway.upstream.calls) == 1
    volatile = {"id", "created"}
    assert {k: v for k, v in fresh.json().items() if k not in volatile} == {
        k: v for k, v in again.json().items() if k not in volatile
    }
    first, second = receipt_of(gateway, fresh), receipt_of(gateway, again)
    assert Decimal(first["charged_usd"]) > 0
    assert Decimal(second["charged_usd"]) == quarter_of(first["charged_usd"])
    assert Decimal(second["saved_usd"]) == Decimal(first["charged_usd"]) - Decimal(second["charged_usd"])
    assert second["origin_receipt_id"] == first["receipt_id"]
    assert fresh.headers["x-cost-usd"] == first["charged_usd"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_never_came_costs_nothing_whatever_the_source_says(gateway: Gateway, stream: bool) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    for _ in range(2):
        answer = ask(gateway, tenant.secret, model="test/no-room", stream=stream)
        assert (answer.status_code, answer.headers["x-served-mode"]) == (200, "fresh")
    for receipt in gateway.tenants.receipts(tenant.org_id):
        assert receipt.facts.usage.input_tokens == 50
        assert receipt.facts.outcome == ledger_pb2.OUTCOME_INTERRUPTED
        assert (receipt.charged_nano_usd, receipt.absorbed_nano_usd) == (0, 0)
    balance = gateway.tenants.balance(tenant.org_id)
    assert (balance.posted_nano_usd, balance.open_holds) == (10**9, 0)


def test_another_tenant_is_never_served_from_this_ones_cache(gateway: Gateway) -> None:
    question = [{"role": "user", "content": "whose answer is it"}]
    other = gateway.tenants.make(credit_nano_usd=10**9)
    assert ask(gateway, messages=question).headers["x-served-mode"] == "fresh"
    assert ask(gateway, other.secret, messages=question).headers["x-served-mode"] == "fresh"
    assert len(gateway.upstream.calls) == 2


def test_an_unknown_parameter_reaches_the_source_and_the_cache_key(gateway: Gateway) -> None:
    question = [{"role": "user", "content": "parameters of tomorrow"}]
    for invented in ({"level": 1}, {"level": 2}):
        assert ask(gateway, messages=question, parameter_of_tomorrow=invented).headers["x-served-mode"] == "fresh"
    assert [call.body["parameter_of_tomorrow"]["level"] for call in gateway.upstream.calls] == [1, 2]


def test_a_failing_source_is_replaced_before_the_first_byte_and_costs_nothing(gateway: Gateway) -> None:
    answer = ask(gateway, model="test/500-once", messages=[{"role": "user", "content": "retry"}])
    assert answer.status_code == 200, answer.text
    assert len({call.source for call in gateway.upstream.calls}) == 2
    attempts = receipt_of(gateway, answer)["attempts"]
    assert [attempt["won"] for attempt in attempts] == [False, True]
    assert len(gateway.tenants.receipts(_org(gateway, answer))) >= 1


def _org(gateway: Gateway, answer: httpx.Response) -> str:
    return str(receipt_of(gateway, answer)["org_id"])


def test_cached_prompt_tokens_are_charged_once_at_their_own_rate(gateway: Gateway) -> None:
    answer = ask(gateway, model="test/cached-usage", messages=[{"role": "user", "content": "cached prompt"}])
    receipt = receipt_of(gateway, answer)
    assert (receipt["usage"]["input_tokens"], receipt["usage"]["cached_input_tokens"]) == (400, 600)
    micro_usd = 400 * Decimal(1) + 600 * Decimal("0.1") + 100 * Decimal(2)
    assert Decimal(receipt["charged_usd"]) == micro_usd * Decimal("1.05") / 10**6


def test_usage_that_a_source_keeps_to_itself_is_estimated_and_labelled(gateway: Gateway) -> None:
    answer = ask(gateway, model="test/no-usage", messages=[{"role": "user", "content": "count for yourself"}])
    receipt = receipt_of(gateway, answer)
    assert receipt["usage"]["provenance"].lower() == "estimated"
    assert receipt["usage"]["input_tokens"] > 0
    assert Decimal(receipt["charged_usd"]) > 0
    again = ask(gateway, model="test/no-usage", messages=[{"role": "user", "content": "count for yourself"}])
    assert again.headers["x-served-mode"] == "fresh", "an answer without the source's usage is not replayed"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "no/such-model"}, 404, "model_not_found"),
        ({"model": 7}, 400, "invalid_request"),
        ({"messages": []}, 400, "invalid_request"),
        ({"messages": "hello"}, 400, "invalid_request"),
        ({"stream": "yes"}, 400, "invalid_request"),
        ({"model": "test/unpriced"}, None, "price_unknown"),
        ({"model": "test/400"}, 400, None),
        ({"model": "test/429"}, 429, None),
        ({"model": "test/500"}, 502, "upstream_error"),
        ({"model": "test/refused"}, 502, "upstream_error"),
        ({"model": "test/cut-at-once"}, 502, "upstream_error"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_refusal_is_an_openai_error_and_leaves_no_hold(
    gateway: Gateway, fields: dict[str, Any], status: int | None, code: str | None, stream: bool
) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    answer = ask(gateway, tenant.secret, **({"stream": stream} | fields))
    error = answer.json()["error"]
    assert status in {None, answer.status_code}, answer.text
    assert answer.status_code >= 400
    assert code in {None, error["code"]}, answer.text
    assert {"message", "type", "code", "param"} <= error.keys()
    assert "Traceback" not in answer.text
    assert len(answer.headers["x-trace-id"]) == 32
    balance = gateway.tenants.balance(tenant.org_id)
    assert (balance.held_nano_usd, balance.open_holds, balance.posted_nano_usd) == (0, 0, 10**9)


@pytest.mark.parametrize("model", ["test/malformed", "test/cut"])
def test_half_an_answer_is_an_error_and_costs_nothing(gateway: Gateway, model: str) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    answer = ask(gateway, tenant.secret, model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    balance = gateway.tenants.balance(tenant.org_id)
    assert (balance.open_holds, balance.posted_nano_usd) == (0, 10**9)


def test_bodies_that_are_no_json_or_too_large_or_ambiguous_are_refused(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    url = f"{gateway.base_url}/chat/completions"
    messages = '"messages": [{"role": "user", "content": "x"}]'
    malformed = httpx.post(url, content=b'{"model": ', headers=headers)
    doubled = httpx.post(url, content=f'{{"model": "test/ok", "model": "test/400", {messages}}}', headers=headers)
    oversized = httpx.post(url, content=b" " * (21 * 2**20), headers=headers, timeout=30)
    unknown = httpx.post(f"{gateway.base_url}/no/such/path", headers=headers, json={})
    answers = (malformed, doubled, oversized, unknown)
    assert [answer.status_code for answer in answers] == [400, 400, 413, 404]
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert gateway.upstream.calls == ()


def test_a_key_must_be_known_in_force_and_allowed_the_model(gateway: Gateway) -> None:
    restricted = gateway.tenants.make(credit_nano_usd=10**9, allowed_models=("test/slow*",))
    missing = httpx.post(f"{gateway.base_url}/chat/completions", json={"model": "test/ok", "messages": []})
    answers = {
        "missing": missing,
        "unknown": ask(gateway, "tg-" + "0" * 43),
        "revoked": ask(gateway, gateway.revoked_key),
        "poor": ask(gateway, gateway.poor_key),
        "not allowed": ask(gateway, restricted.secret),
        "allowed": ask(gateway, restricted.secret, model="test/slow-first-byte"),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "missing": 401,
        "unknown": 401,
        "revoked": 401,
        "poor": 402,
        "not allowed": 403,
        "allowed": 200,
    }
    assert len(gateway.upstream.calls) == 1


def test_a_revoked_key_stops_at_once(gateway: Gateway) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    assert ask(gateway, tenant.secret).status_code == 200
    gateway.tenants.revoke(tenant)
    answer = ask(gateway, tenant.secret, messages=[{"role": "user", "content": "after revocation"}])
    assert answer.status_code == 401, "the ledger refuses the hold even while an edge still knows the key"


def test_the_same_api_is_under_both_prefixes(gateway: Gateway) -> None:
    root = gateway.base_url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    for prefix in ("/v1", "/api/v1"):
        listed = httpx.get(f"{root}{prefix}/models", headers=headers).json()
        assert len(listed["data"]) >= 42
        one = httpx.get(f"{root}{prefix}/models/test/ok", headers=headers)
        assert (one.status_code, one.json()["id"]) == (200, "test/ok")
    assert httpx.get(f"{root}/api/health").status_code == 200
    assert httpx.get(f"{root}/readyz").status_code == 200


def test_a_key_has_its_limit_in_either_mode_and_is_told_of_it(gateway: Gateway) -> None:
    secret = gateway.tenants.make(10**9, requests_per_minute=2).secret
    answers = [ask(gateway, secret) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert 0 < int(answers[2].headers["retry-after"]) <= 60
