"""Streams: what a client reads, and what is charged when someone goes before the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import ROUND_UP, Decimal
from typing import Any

import httpx
import pytest

from tests.harness.gateway import Gateway
from tests.harness.waiting import eventually


def streaming(gateway: Gateway, key: str = "", **fields: Any) -> Any:
    body = {
        "model": "test/ok",
        "messages": [{"role": "user", "content": "stream to me"}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | fields
    headers = {"Authorization": f"Bearer {key or gateway.api_key}"}
    return httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=60)


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            payload = line.removeprefix("data: ")
            yield payload if payload == "[DONE]" else json.loads(payload)


def text_of(received: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for event in received if event != "[DONE]" for choice in event["choices"]
    )


def test_a_stream_and_its_replay_say_the_same_and_end_with_their_receipts(gateway: Gateway) -> None:
    answers = []
    for _ in range(2):
        with streaming(gateway, messages=[{"role": "user", "content": "stream twice"}]) as response:
            answers.append((response.headers["x-served-mode"], list(events(response))))
    (fresh_mode, fresh), (replay_mode, replay) = answers
    assert (fresh_mode, replay_mode) == ("fresh", "exact")
    assert text_of(fresh) == text_of(replay) != ""
    assert len(gateway.upstream.calls) == 1
    for received in (fresh, replay):
        assert received[-1] == "[DONE]"
        last = received[-2]
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] > 0
        assert last["tallygate"]["receipt_id"].startswith("rcpt_")
    costs = [Decimal(received[-2]["tallygate"]["cost_usd"]) for received in (fresh, replay)]
    assert costs[1] == (costs[0] / 4).quantize(Decimal("1e-9"), rounding=ROUND_UP)


def test_a_stream_and_a_plain_request_share_their_answer(gateway: Gateway) -> None:
    question = [{"role": "user", "content": "plain after stream"}]
    with streaming(gateway, messages=question) as response:
        text = text_of(list(events(response)))
    body = {"model": "test/ok", "messages": question, "temperature": 0}
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    plain = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers)
    assert plain.headers["x-served-mode"] == "exact"
    assert plain.json()["choices"][0]["message"]["content"] == text


def test_usage_is_sent_only_to_who_asked(gateway: Gateway) -> None:
    with streaming(gateway, stream_options=None, messages=[{"role": "user", "content": "no usage please"}]) as response:
        received = list(events(response))
    assert gateway.upstream.calls[-1].body["stream_options"] == {"include_usage": True}
    assert not any("usage" in event and event["usage"] for event in received if event != "[DONE]")
    assert all(event == "[DONE]" or event["choices"] for event in received)


def test_chunks_arrive_as_they_are_made(gateway: Gateway) -> None:
    with streaming(gateway, model="test/gated") as response:
        received = events(response)
        assert next(received)["choices"], "the first chunks come while the source still holds back the rest"
        gateway.upstream.release()
        assert list(received)[-1] == "[DONE]"


@pytest.mark.parametrize("model", ["test/cut", "test/error-mid-stream"])
def test_a_source_that_breaks_off_is_an_error_event_and_what_came_is_settled(gateway: Gateway, model: str) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    with streaming(gateway, tenant.secret, model=model) as response:
        received = list(events(response))
    assert text_of(received[:-1]) != ""
    assert received[-1]["error"]["code"] == "upstream_error"
    eventually(lambda: gateway.tenants.balance(tenant.org_id).open_holds == 0)
    (receipt,) = gateway.tenants.receipts(tenant.org_id)
    assert 0 < receipt.charged_nano_usd < receipt.held_nano_usd
    assert gateway.tenants.balance(tenant.org_id).posted_nano_usd == 10**9 - receipt.charged_nano_usd


def test_a_client_that_goes_is_settled_once_for_what_was_made(gateway: Gateway) -> None:
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    with streaming(gateway, tenant.secret, model="test/gated") as response:
        next(event for event in events(response) if text_of([event]))
    gateway.upstream.wait_until_blocking(lambda calls: calls[-1].ended)
    eventually(lambda: gateway.tenants.balance(tenant.org_id).open_holds == 0)
    (receipt,) = gateway.tenants.receipts(tenant.org_id)
    assert gateway.upstream.calls[-1].disconnected, "this source stops billing when it is cancelled, so it is"
    assert 0 < receipt.charged_nano_usd < receipt.held_nano_usd
    assert gateway.tenants.balance(tenant.org_id).posted_nano_usd == 10**9 - receipt.charged_nano_usd
