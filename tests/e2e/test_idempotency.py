"""`Idempotency-Key` from outside: one call of the source, one charge, one answer, in both modes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from meshkit.ids import new_id
from tests.harness.gateway import Gateway
from tests.harness.tenants import NewKey
from tests.harness.waiting import eventually

CREDIT_NANO_USD = 10**9
SAME = ("x-receipt-id", "x-cost-usd", "x-generation-id", "x-request-id", "x-served-mode")


@pytest.fixture
def tenant(gateway: Gateway) -> NewKey:
    return gateway.tenants.make(credit_nano_usd=CREDIT_NANO_USD)


def body_of(content: str = "once only", **fields: Any) -> dict[str, Any]:
    """Sampled, so that the exact cache has no part in it."""
    return {"model": "test/ok", "messages": [{"role": "user", "content": content}]} | fields


def headers_of(tenant: NewKey, key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.secret}", "Idempotency-Key": key}


def ask(gateway: Gateway, tenant: NewKey, key: str, **fields: Any) -> httpx.Response:
    url = f"{gateway.base_url}/chat/completions"
    return httpx.post(url, json=body_of(**fields), headers=headers_of(tenant, key), timeout=60)


def charged_once(gateway: Gateway, tenant: NewKey) -> str:
    """There is one receipt, and the balance is less by that; gives its id."""
    eventually(lambda: gateway.tenants.balance(tenant.org_id).open_holds == 0)
    (receipt,) = gateway.tenants.receipts(tenant.org_id)
    balance = gateway.tenants.balance(tenant.org_id)
    assert balance.posted_nano_usd == CREDIT_NANO_USD - receipt.charged_nano_usd
    assert receipt.charged_nano_usd > 0
    return receipt.receipt_id


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_many_at_once_are_one_call_one_charge_and_one_answer(gateway: Gateway, stream: bool) -> None:
    tenant = await asyncio.to_thread(gateway.tenants.make, CREDIT_NANO_USD)
    body = body_of(stream=stream, model="test/slow-first-byte")
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=headers_of(tenant, "many"), timeout=60) as client:
        answers = await asyncio.gather(*(client.post("/chat/completions", json=body) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(gateway.upstream.calls) == 1
    replayed = [answer for answer in answers if answer.headers.get("idempotent-replayed") == "true"]
    assert len(replayed) == len(answers) - 1
    receipt_id = await asyncio.to_thread(charged_once, gateway, tenant)
    assert {answer.headers["x-receipt-id"] for answer in replayed} == {receipt_id}
    assert len({answer.headers["x-generation-id"] for answer in answers}) == 1
    if stream:
        assert f'"receipt_id":"{receipt_id}"'.encode() in answers[0].content


def test_asked_again_it_is_the_same_answer_with_the_same_headers(gateway: Gateway, tenant: NewKey) -> None:
    first, again = (ask(gateway, tenant, "again") for _ in range(2))
    assert again.content == first.content
    assert [again.headers[name] for name in SAME] == [first.headers[name] for name in SAME]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(gateway.upstream.calls) == 1
    assert charged_once(gateway, tenant) == first.headers["x-receipt-id"]


def test_another_body_under_the_key_is_a_409_and_costs_nothing(gateway: Gateway, tenant: NewKey) -> None:
    assert ask(gateway, tenant, "changed").status_code == 200
    for changed in ({"content": "another question"}, {"stream": True}, {"max_tokens": 5}):
        answer = ask(gateway, tenant, "changed", **changed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
        assert "another body" in answer.json()["error"]["message"]
    assert len(gateway.upstream.calls) == 1
    charged_once(gateway, tenant)


def test_another_key_or_another_tenant_asks_for_itself(gateway: Gateway, tenant: NewKey) -> None:
    other = gateway.tenants.make(credit_nano_usd=CREDIT_NANO_USD)
    answers = [ask(gateway, tenant, "a"), ask(gateway, tenant, "b"), ask(gateway, other, "a", content="not yours")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.headers["x-receipt-id"] for answer in answers}) == 3
    assert len(gateway.upstream.calls) == 3
    assert not any("idempotent-replayed" in answer.headers for answer in answers)


@pytest.mark.parametrize("waits", [True, False], ids=["while it runs", "when it is done"])
def test_after_a_lost_connection_the_retry_gets_the_whole_stream(gateway: Gateway, tenant: NewKey, waits: bool) -> None:
    body = body_of(model="test/gated", stream=True, stream_options={"include_usage": True})
    url, headers = f"{gateway.base_url}/chat/completions", headers_of(tenant, "lost")
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        next(response.iter_raw())
    if not waits:
        gateway.upstream.release()
        gateway.upstream.wait_until_blocking(lambda calls: calls[-1].ended)
    retry = asyncio.run(_retried(gateway, url, body, headers))
    assert retry.status_code == 200
    payloads = [line.removeprefix("data: ") for line in retry.text.splitlines() if line]
    assert payloads[-1] == "[DONE]"
    chunks = [json.loads(payload) for payload in payloads[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == "You said: once only"
    (call,) = gateway.upstream.calls
    assert not call.disconnected, "whoever sends a key comes back for the answer, so the source is heard out"
    assert chunks[-1]["tallygate"]["receipt_id"] == charged_once(gateway, tenant)


async def _retried(gateway: Gateway, url: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """Sent while the first may still run; the source goes on when it is on its way."""
    async with httpx.AsyncClient(timeout=60) as client:
        retry = asyncio.create_task(client.post(url, json=body, headers=headers))
        done, _ = await asyncio.wait({retry}, timeout=0.3)
        assert not done or gateway.upstream.calls[-1].ended, "there is nothing to give before the source has ended"
        gateway.upstream.release()
        return await retry


def test_a_failure_that_cost_nothing_may_be_tried_again_under_the_key(gateway: Gateway, tenant: NewKey) -> None:
    first = ask(gateway, tenant, "failed", model="test/500-twice")
    assert (first.status_code, first.json()["error"]["code"]) == (502, "upstream_error")
    second, third = (ask(gateway, tenant, "failed", model="test/500-twice") for _ in range(2))
    assert (second.status_code, third.status_code) == (200, 200)
    assert third.content == second.content
    assert len(gateway.upstream.calls) == 3
    assert charged_once(gateway, tenant) == second.headers["x-receipt-id"] == third.headers["x-receipt-id"]


@pytest.mark.parametrize(
    "wrong", [{"messages": []}, {"model": "no/such-model"}, {"model": "test/unpriced"}, {"model": "test/400"}], ids=str
)
def test_a_refused_request_may_be_mended_and_sent_under_the_same_key(
    gateway: Gateway, tenant: NewKey, wrong: dict[str, Any]
) -> None:
    assert ask(gateway, tenant, "mended", **wrong).status_code in {400, 404}
    assert ask(gateway, tenant, "mended").status_code == 200
    charged_once(gateway, tenant)


def test_without_balance_nothing_is_remembered(gateway: Gateway) -> None:
    poor = NewKey("", "", "", gateway.poor_key)
    assert [ask(gateway, poor, new_id("key")).status_code for _ in range(2)] == [402, 402]
    assert [ask(gateway, poor, "poor").status_code for _ in range(2)] == [402, 402]
    assert gateway.upstream.calls == ()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_replay_from_the_cache_is_charged_once_for_its_key(gateway: Gateway, tenant: NewKey, stream: bool) -> None:
    question = {"content": "from the cache", "temperature": 0, "stream": stream}
    assert ask(gateway, tenant, "origin", **question).status_code == 200
    first, again = (ask(gateway, tenant, "replay", **question) for _ in range(2))
    assert [answer.headers["x-served-mode"] for answer in (first, again)] == ["exact", "exact"]
    assert again.content == first.content
    assert [again.headers[name] for name in SAME] == [first.headers[name] for name in SAME]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(gateway.upstream.calls) == 1
    assert len(gateway.tenants.receipts(tenant.org_id)) == 2


def test_a_part_that_was_charged_is_what_a_retry_gets(gateway: Gateway, tenant: NewKey) -> None:
    first, again = (ask(gateway, tenant, "broken", model="test/cut", stream=True) for _ in range(2))
    assert b"event: error" in first.content
    assert again.content == first.content
    assert len(gateway.upstream.calls) == 1
    assert charged_once(gateway, tenant) == again.headers["x-receipt-id"]


def test_a_bad_key_is_a_400(gateway: Gateway, tenant: NewKey) -> None:
    answer = ask(gateway, tenant, "x" * 256)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "1 to 255" in answer.json()["error"]["message"]


def test_the_openai_sdk_sends_it_with_its_retries(gateway: Gateway, tenant: NewKey) -> None:
    """The SDK gives up waiting for the slow source and asks again; the retry gets the answer of its first request."""
    with openai.OpenAI(base_url=gateway.base_url, api_key=tenant.secret, max_retries=3, timeout=0.3) as client:
        completion = client.chat.completions.create(
            **body_of(model="test/slow-first-byte"), extra_headers={"Idempotency-Key": "from the sdk"}
        )
    assert completion.choices[0].message.content == "You said: once only"
    assert len(gateway.upstream.calls) == 1
    charged_once(gateway, tenant)
