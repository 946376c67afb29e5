"""The real openai SDK for Python: which of its exceptions a refusal becomes, plain and streamed."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.conformance.conftest import MakeClient
from tests.harness.gateway import Gateway

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def ask(client: openai.OpenAI, **more: Any) -> Any:
    """What the SDK gives; a stream is read to its end."""
    request: Any = {"model": "test/ok", "messages": [{"role": "user", "content": "refuse me"}], **more}
    answer = client.chat.completions.create(**request)
    return list(answer) if more.get("stream") else answer


def refused(client: openai.OpenAI, kind: type[openai.APIStatusError], **more: Any) -> openai.APIStatusError:
    """The exception, which is of exactly that kind and has what a user needs to act on it."""
    with pytest.raises(kind) as raised:
        ask(client, **more)
    assert type(raised.value) is kind
    assert raised.value.response.headers["content-type"] == "application/json"
    assert len(raised.value.response.headers["x-trace-id"]) == 32
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "code", "param"}
    assert "Traceback" not in str(raised.value)
    return raised.value


@STREAMED
@pytest.mark.parametrize("key", ["tg-nobody-ever-had-this-key", "sk-of-someone-else"])
def test_a_key_that_nobody_has(client_for: MakeClient, key: str, stream: bool) -> None:
    error = refused(client_for(key), openai.AuthenticationError, stream=stream)
    assert (error.status_code, error.code) == (401, "invalid_api_key")


@STREAMED
def test_a_revoked_key(gateway: Gateway, client_for: MakeClient, stream: bool) -> None:
    error = refused(client_for(gateway.revoked_key), openai.AuthenticationError, stream=stream)
    assert (error.status_code, error.code) == (401, "invalid_api_key")
    assert gateway.upstream.calls == ()


@STREAMED
def test_a_model_that_the_key_may_not_use(limited_key: str, client_for: MakeClient, stream: bool) -> None:
    error = refused(client_for(limited_key), openai.PermissionDeniedError, stream=stream)
    assert (error.status_code, error.code, error.param) == (403, "model_not_allowed", "model")


@STREAMED
def test_an_empty_balance(gateway: Gateway, client_for: MakeClient, stream: bool) -> None:
    error = refused(client_for(gateway.poor_key), openai.APIStatusError, stream=stream)
    assert (error.status_code, error.code) == (402, "insufficient_balance")
    assert error.response.headers["x-should-retry"] == "false"
    assert gateway.upstream.calls == ()


@STREAMED
def test_an_unknown_model(client: openai.OpenAI, stream: bool) -> None:
    error = refused(client, openai.NotFoundError, model="no-such-model", stream=stream)
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")


def test_an_unknown_model_by_its_id(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@STREAMED
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
    ],
)
def test_a_request_that_is_none(client: openai.OpenAI, wrong: dict[str, Any], param: str, stream: bool) -> None:
    error = refused(client, openai.BadRequestError, **wrong, stream=stream)
    assert (error.status_code, error.code, error.param) == (400, "invalid_request", param)


@STREAMED
def test_a_request_that_the_source_refuses(client: openai.OpenAI, gateway: Gateway, stream: bool) -> None:
    error = refused(client, openai.BadRequestError, model="test/400", stream=stream)
    assert (error.status_code, error.code) == (400, "upstream_rejected")
    assert "Unsupported value: 'temperature'." in error.message
    assert len(gateway.upstream.calls) == 1


@STREAMED
def test_a_key_that_calls_too_often(gateway: Gateway, client_for: MakeClient, stream: bool) -> None:
    client = client_for(gateway.tenants.make(10**9, requests_per_minute=1).secret)
    assert ask(client).choices[0].finish_reason == "stop"
    error = refused(client, openai.RateLimitError, stream=stream)
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert "1 request per minute" in error.message
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining"] == "0"


@STREAMED
def test_sources_that_are_called_too_often(client: openai.OpenAI, gateway: Gateway, stream: bool) -> None:
    error = refused(client, openai.RateLimitError, model="test/429", stream=stream)
    assert (error.status_code, error.code) == (429, "upstream_rate_limited")
    assert int(error.response.headers["retry-after"]) >= 1
    assert [call.source for call in gateway.upstream.calls] == ["scripted", "scripted2"]


@STREAMED
@pytest.mark.parametrize("model", ["test/500", "test/503", "test/refused", "test/cut-at-once", "test/error-at-once"])
def test_sources_that_fail(client: openai.OpenAI, model: str, stream: bool) -> None:
    error = refused(client, openai.InternalServerError, model=model, stream=stream)
    assert (error.status_code, error.code) == (502, "upstream_error")


def test_a_source_that_sends_no_json(client: openai.OpenAI) -> None:
    assert refused(client, openai.InternalServerError, model="test/malformed").code == "upstream_error"


@STREAMED
def test_the_operators_own_credentials_are_not_the_clients_fault(client: openai.OpenAI, stream: bool) -> None:
    error = refused(client, openai.InternalServerError, model="test/401", stream=stream)
    assert error.code == "upstream_error"
    assert "sk-scripted" not in str(error.body)


@STREAMED
def test_a_model_without_a_price(client: openai.OpenAI, stream: bool) -> None:
    error = refused(client, openai.BadRequestError, model="test/unpriced", stream=stream)
    assert error.code == "price_unknown"


@STREAMED
@pytest.mark.parametrize("model", ["test/500-once", "test/429-once", "test/cut-at-once-once"])
def test_another_source_answers_where_one_fails(
    client: openai.OpenAI, gateway: Gateway, model: str, stream: bool
) -> None:
    assert ask(client, model=model, stream=stream)
    assert [call.source for call in gateway.upstream.calls] == ["scripted", "scripted2"]


@pytest.mark.parametrize("model", ["test/cut", "test/error-mid-stream"])
def test_a_stream_that_breaks_off_raises(client: openai.OpenAI, model: str) -> None:
    request: Any = {"model": model, "messages": [{"role": "user", "content": "break off"}], "stream": True}
    text = ""
    with pytest.raises(openai.APIError) as raised:
        for chunk in client.chat.completions.create(**request):
            text += chunk.choices[0].delta.content or ""
    assert not isinstance(raised.value, openai.APIConnectionError)
    assert raised.value.code == "upstream_error"
    assert text == "You said:"


async def test_the_async_client_raises_the_same(async_client: openai.AsyncOpenAI) -> None:
    request: Any = {"model": "test/429", "messages": [{"role": "user", "content": "refuse me"}]}
    with pytest.raises(openai.RateLimitError):
        await async_client.chat.completions.create(**request)
    with pytest.raises(openai.RateLimitError):
        await async_client.chat.completions.create(**request, stream=True)


def test_the_sdks_own_retries_reach_the_gateway_again(client: openai.OpenAI, gateway: Gateway) -> None:
    patient = client.with_options(max_retries=1)
    assert ask(patient, model="test/500-twice").choices[0].finish_reason == "stop"
    assert len(gateway.upstream.calls) == 3
