"""What is not a request: each refused clearly, with the field at fault, and nothing held or asked of a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

HELLO = [{"role": "user", "content": "Hello"}]


def assert_openai_error(response: Any, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["code"], error["param"]) == (code, param)
    assert "Traceback" not in error["message"]
    assert len(response.headers["x-trace-id"]) == 32
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"{", "not valid JSON"),
        (b'{"model": "gpt-4o-mini", "messages": [}', "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be a JSON object, not an array"),
        (b"null", "must be a JSON object, not null"),
        (b'"text"', "must be a JSON object, not a string"),
    ],
)
async def test_malformed_json(world: Any, body: bytes, said: str) -> None:
    assert said in assert_openai_error(await world.post(body), 400, "invalid_request")
    assert not world.cache.lookups


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", None, "model"),
        ("model", "", "model"),
        ("model", 4, "model"),
        ("model", ["gpt-4o-mini"], "model"),
        ("messages", None, "messages"),
        ("messages", "Hello", "messages"),
        ("messages", {}, "messages"),
        ("messages", [], "messages"),
        ("messages", ["Hello"], "messages[0]"),
        ("messages", [None], "messages[0]"),
        ("messages", [*HELLO, {"content": "x"}], "messages[1].role"),
        ("messages", [{"role": 1, "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": {}}], "messages[0].content"),
        ("messages", [{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ("messages", [{"role": "user", "content": [{"type": []}]}], "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": [{"type": {}}]}], "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": [{"type": None}]}], "messages[0].content[0].type"),
        ("messages", [{"role": "user", "content": [{"text": 1}]}], "messages[0].content[0].text"),
        ("messages", [{"role": "user", "content": [{"image_url": []}]}], "messages[0].content[0].image_url"),
        ("messages", [{"role": "user", "content": [{"input_audio": "x"}]}], "messages[0].content[0].input_audio"),
        ("messages", [{"role": "user", "content": [{"file": "x"}]}], "messages[0].content[0].file"),
        ("messages", [{"role": "assistant", "audio": "x"}], "messages[0].audio"),
        ("messages", [{"role": "assistant", "tool_calls": [{"type": 1}]}], "messages[0].tool_calls[0].type"),
        ("messages", [{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls"),
        ("messages", [{"role": "assistant", "tool_calls": [1]}], "messages[0].tool_calls[0]"),
        ("stream", "true", "stream"),
        ("stream", 1, "stream"),
        ("stream_options", True, "stream_options"),
        ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
        ("n", 0, "n"),
        ("n", True, "n"),
        ("n", 1.5, "n"),
        ("n", 129, "n"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", "16", "max_tokens"),
        ("max_tokens", 2**63, "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("temperature", "hot", "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", [], "top_p"),
        ("presence_penalty", {}, "presence_penalty"),
        ("seed", 1.5, "seed"),
        ("logprobs", 1, "logprobs"),
        ("top_logprobs", "3", "top_logprobs"),
        ("stop", 7, "stop"),
        ("stop", ["a", 7], "stop[1]"),
        ("user", 7, "user"),
        ("tools", {}, "tools"),
        ("tools", ["f"], "tools[0]"),
        ("tools", [{"type": "function"}, {"type": {}}], "tools[1].type"),
        ("tools", [{"type": None}], "tools[0].type"),
        ("tools", [{"type": "function", "function": []}], "tools[0].function"),
        ("functions", 3, "functions"),
        ("functions", [3], "functions[0]"),
        ("modalities", 5, "modalities"),
        ("modalities", [[]], "modalities[0]"),
        ("web_search_options", 1, "web_search_options"),
        ("service_tier", [], "service_tier"),
        ("tool_choice", 1, "tool_choice"),
        ("response_format", "json", "response_format"),
        ("response_format", {"type": []}, "response_format.type"),
        ("logit_bias", [], "logit_bias"),
        ("metadata", "x", "metadata"),
        ("parallel_tool_calls", "no", "parallel_tool_calls"),
    ],
)
async def test_wrong_types(world: Any, field: str, value: Any, param: str) -> None:
    message = assert_openai_error(await world.chat(**{field: value}), 400, "invalid_request", param)
    assert param in message
    assert not world.cache.lookups
    assert not world.router.requests


async def test_a_missing_field_is_named(world: Any) -> None:
    assert_openai_error(await world.post(b'{"messages": []}'), 400, "invalid_request", "model")
    assert_openai_error(await world.post(b'{"model": "gpt-4o-mini"}'), 400, "invalid_request", "messages")


@pytest.mark.parametrize(
    "extra",
    [
        {"stream": None, "stream_options": None, "n": None, "max_tokens": None, "tools": None, "stop": None},
        {"temperature": 99, "top_p": -1, "presence_penalty": 1e300, "seed": -5, "stop": [], "tools": []},
        {"tool_choice": "auto", "response_format": {"type": "json_object"}, "unheard_of": [{"a": None}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"text": "x"}, {"type": "tomorrows", "text": None, "x": []}]}]},
        {"tools": [{"function": {"name": "f"}}, {"type": "tomorrows", "x": 1}], "modalities": ["text"]},
        {"stream_options": {"include_usage": True}},
    ],
)
async def test_what_the_source_may_judge_passes(world: Any, extra: dict[str, Any]) -> None:
    world.router.answers()
    assert (await world.chat(**extra)).status_code == 200


async def test_unknown_model_with_names_that_are_near(world: Any) -> None:
    message = assert_openai_error(await world.chat(model="gpt-4o-mimi"), 404, "model_not_found", "model")
    assert "Did you mean `gpt-4o-mini`" in message
    message = assert_openai_error(await world.chat(model="tallygate/quick"), 404, "model_not_found", "model")
    message = assert_openai_error(await world.chat(model="zzz"), 404, "model_not_found", "model")
    assert "Did you mean" not in message


async def test_an_absurd_model_name_is_not_echoed_in_full_and_not_searched_for(world: Any) -> None:
    response = await world.chat(model="gpt-4o-mini" * 10_000)
    assert len(assert_openai_error(response, 404, "model_not_found", "model")) < 300


async def test_an_alias_of_a_model_that_is_not_there_is_not_there(world: Any) -> None:
    assert_openai_error(await world.chat(model="tallygate/lost"), 404, "model_not_found", "model")


async def test_a_body_over_the_limit_by_its_own_account(make_world: Any) -> None:
    world = await make_world(max_body_bytes=1_000)
    message = assert_openai_error(await world.post(b"x" * 1_001), 413, "request_too_large")
    assert "1000 bytes" in message
    response = await world.post(b"{}", {"content-length": "9" * 5_000})
    assert_openai_error(response, 413, "request_too_large")


async def test_a_body_over_the_limit_without_a_length(make_world: Any) -> None:
    world = await make_world(max_body_bytes=1_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 100
            yield b"x" * 100

    response = await world.client.post("/v1/chat/completions", content=endless())
    assert_openai_error(response, 413, "request_too_large")
    assert sent < 2_000


async def test_a_body_at_the_limit_passes(make_world: Any) -> None:
    world = await make_world(max_body_bytes=200)
    world.router.answers()
    body = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "%s"}]}'
    assert (await world.post(body % (b"x" * (202 - len(body))))).status_code == 200


async def test_a_compressed_body_is_refused_clearly(world: Any) -> None:
    message = assert_openai_error(await world.chat({"content-encoding": "gzip"}), 400, "invalid_request")
    assert "gzip" in message


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/completions", "/v2/models", "/docs", "/v1/models/"])
async def test_unknown_path(world: Any, path: str) -> None:
    response = await world.client.get(path)
    if path == "/v1/models/":
        assert_openai_error(response, 404, "model_not_found", "model")
    else:
        assert path in assert_openai_error(response, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/api/v1/models", "GET"),
        ("PUT", "/v1/models/gpt-4o-mini", "GET"),
        ("POST", "/v1/receipts/rcpt_1", "GET"),
        ("POST", "/readyz", "GET"),
    ],
)
async def test_wrong_method(world: Any, method: str, path: str, allowed: str) -> None:
    response = await world.client.request(method, path)
    assert allowed in assert_openai_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed
