"""The scripted upstream does what its scripts say; other tests build on that."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.upstream.behaviour import BEHAVIOURS, CACHED_USAGE, REASONING_USAGE, Behaviour
from tests.upstream.server import ScriptedUpstream, scripted_upstream

SAY_HELLO = {"role": "user", "content": "hello there, world"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as serving:
        yield serving


@pytest.fixture
async def client(upstream: ScriptedUpstream) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=upstream.base_url(), timeout=10) as http:
        yield http


async def ask(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    return await client.post("/chat/completions", json={"model": model, "messages": [SAY_HELLO], **more})


async def stream(client: httpx.AsyncClient, model: str, **more: Any) -> list[Any]:
    """The payloads of a stream, "[DONE]" as None; the ReadError of a cut stream passes through."""
    body = {"model": model, "messages": [SAY_HELLO], "stream": True, **more}
    payloads = []
    async with client.stream("POST", "/chat/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line:
                data = line.removeprefix("data: ")
                payloads.append(None if data == "[DONE]" else json.loads(data))
    return payloads


def text_of(payloads: list[Any]) -> str:
    return "".join(p["choices"][0]["delta"].get("content") or "" for p in payloads if p and p["choices"])


async def test_an_answer_depends_on_the_request_only(client: httpx.AsyncClient) -> None:
    first, second = (await ask(client, "test/ok")).json(), (await ask(client, "test/ok")).json()
    assert first["choices"][0]["message"]["content"] == "You said: hello there, world"
    assert first["choices"] == second["choices"]
    assert first["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}


async def test_a_stream_says_what_the_body_says(client: httpx.AsyncClient) -> None:
    payloads = await stream(client, "test/ok")
    assert text_of(payloads) == "You said: hello there, world"
    assert payloads[-1] is None
    assert payloads[-2]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in p for p in payloads if p)


async def test_usage_comes_when_asked_for(client: httpx.AsyncClient) -> None:
    payloads = await stream(client, "test/ok", stream_options={"include_usage": True})
    assert payloads[-2]["choices"] == []
    assert payloads[-2]["usage"]["total_tokens"] == 9


async def test_every_tool_is_called_and_deltas_join_to_the_calls(client: httpx.AsyncClient) -> None:
    calls = (await ask(client, "test/ok", tools=[WEATHER])).json()["choices"][0]["message"]["tool_calls"]
    assert calls[0]["function"] == {"name": "get_weather", "arguments": '{"city": "scripted"}'}
    payloads = await stream(client, "test/ok", tools=[WEATHER])
    deltas = [d for p in payloads if p for d in p["choices"][0]["delta"].get("tool_calls", [])]
    assert len(deltas) > 2
    assert deltas[0]["id"] == calls[0]["id"]
    assert "".join(delta["function"]["arguments"] for delta in deltas) == calls[0]["function"]["arguments"]
    assert payloads[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_tool_result_and_a_refused_tool_are_answered_in_words(client: httpx.AsyncClient) -> None:
    result = [SAY_HELLO, {"role": "tool", "tool_call_id": "a", "content": "sunny"}]
    after = (await ask(client, "test/ok", tools=[WEATHER], messages=result)).json()
    assert after["choices"][0]["message"]["content"] == "You said: sunny"
    refused = (await ask(client, "test/ok", tools=[WEATHER], tool_choice="none")).json()
    assert "tool_calls" not in refused["choices"][0]["message"]


async def test_a_schema_is_obeyed(client: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "$defs": {"part": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = (await ask(client, "test/ok", response_format=form)).json()["choices"][0]["message"]["content"]
    assert json.loads(said) == {"kind": "a", "parts": [{"n": 3}], "note": None}


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("test/500", 500, None),
        ("test/503", 503, "overloaded"),
        ("test/429", 429, "rate_limit_exceeded"),
        ("test/400", 400, "unsupported_value"),
        ("test/401", 401, "invalid_api_key"),
        ("test/nobody-knows", 404, "model_not_found"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, model: str, status: int, code: str | None) -> None:
    response = await ask(client, model, stream=True)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)


async def test_some_scripts_refuse_only_at_first(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    assert [(await ask(client, "test/500-twice")).status_code for _ in range(4)] == [500, 500, 200, 200]
    upstream.reset()
    assert (await ask(client, "test/500-twice")).status_code == 500


async def test_the_count_is_that_of_both_sources(upstream: ScriptedUpstream) -> None:
    async with httpx.AsyncClient() as http:
        for source, status in (("scripted", 500), ("scripted2", 200)):
            response = await http.post(f"{upstream.base_url(source)}/chat/completions", json={"model": "test/500-once"})
            assert response.status_code == status
    assert [call.source for call in upstream.calls] == ["scripted", "scripted2"]


async def test_a_cut_stream_breaks_off(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await stream(client, "test/cut")
    (call,) = await upstream.wait_until(lambda calls: calls[0].ended)
    assert (call.chunks_sent, call.disconnected) == (3, False)
    with pytest.raises(httpx.RemoteProtocolError):
        await stream(client, "test/cut-at-once")
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(client, "test/cut")


async def test_an_error_in_the_stream(client: httpx.AsyncClient) -> None:
    payloads = await stream(client, "test/error-mid-stream")
    assert [sorted(p)[0] for p in payloads] == ["choices", "choices", "choices", "error"]


async def test_usage_in_other_shapes(client: httpx.AsyncClient) -> None:
    assert "usage" not in (await ask(client, "test/no-usage")).json()
    assert (await ask(client, "test/cached-usage")).json()["usage"] == CACHED_USAGE
    reasoned = (await ask(client, "test/reasoning-usage")).json()
    assert reasoned["usage"] == REASONING_USAGE
    assert reasoned["choices"][0]["message"]["reasoning_content"]
    payloads = await stream(client, "test/usage-with-last-choice")
    assert payloads[-2]["choices"][0]["finish_reason"] == "stop"
    assert payloads[-2]["usage"]["total_tokens"] == 9


async def test_a_call_is_remembered_as_it_came(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    content = b'{"model": "test/ok", "messages": [{"role":"user","content":"\\u00e9"}], "odd": 1.0}'
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"Authorization": "Bearer sk-1", "traceparent": trace, "content-type": "application/json"}
    await client.post("/chat/completions", content=content, headers=headers)
    (call,) = upstream.calls
    assert call.raw == content
    assert (call.api_key, call.trace_id) == ("sk-1", "0af7651916cd43dd8448eb211c80319c")
    assert call.parent_span_id == "b7ad6b7169203331"
    assert (call.status, call.completed, call.disconnected, call.stream) == (200, True, False, False)


async def test_a_client_that_leaves_is_noticed(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    body = {"model": "test/gated", "messages": [SAY_HELLO], "stream": True}
    async with client.stream("POST", "/chat/completions", json=body) as response:
        assert await anext(response.aiter_lines())
    (call,) = await upstream.wait_until(lambda calls: calls[0].ended)
    assert call.disconnected
    assert not call.completed
    assert call.chunks_sent == 2


async def test_the_gate_holds_an_answer_until_it_is_opened(
    client: httpx.AsyncClient, upstream: ScriptedUpstream
) -> None:
    whole = asyncio.create_task(ask(client, "test/hang"))
    streamed = asyncio.create_task(stream(client, "test/gated"))
    await upstream.wait_until(lambda calls: len(calls) == 2 and sum(call.chunks_sent for call in calls) == 2)
    assert not whole.done()
    assert not streamed.done()
    upstream.release()
    assert (await whole).status_code == 200
    assert text_of(await streamed) == "You said: hello there, world"


async def test_a_script_can_be_changed(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    upstream.script("test/ok", Behaviour(text="otherwise"))
    assert (await ask(client, "test/ok")).json()["choices"][0]["message"]["content"] == "otherwise"
    upstream.reset()
    assert upstream.calls == ()
    assert (await ask(client, "test/ok")).json()["choices"][0]["message"]["content"].startswith("You said")


async def test_nothing_listens_where_connections_are_to_be_refused(upstream: ScriptedUpstream) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(upstream.down_url)


async def test_the_catalog_takes_the_overlay(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from catalog_svc.store.documents.origin import DocumentOrigin, seed_document

    overlay = upstream.write_overlay(tmp_path / "overlay.yaml")
    contents = await DocumentOrigin(seed_document(), [overlay]).read(datetime.now(UTC).date())
    assert set(BEHAVIOURS) <= {model.id for model in contents.models}
    offers = {offer.id: offer for offer in contents.offers}
    assert offers["scripted/test/ok"].price is not None
    assert offers["scripted/test/unpriced"].price is None
    assert "scripted2/test/500-once" in offers
    assert "scripted2/test/ok" not in offers


async def test_it_runs_as_a_process(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.upstream", "--ready-file", str(ready_file), env={**os.environ}
    )
    while not ready_file.exists():
        assert process.returncode is None
        await asyncio.sleep(0.02)
    ready = json.loads(ready_file.read_text())
    async with httpx.AsyncClient(base_url=ready["base_url"]) as http:
        assert (await ask(http, "test/ok")).status_code == 200
    assert Path(ready["overlay"]).exists()
    process.terminate()
    assert await process.wait() == 0
