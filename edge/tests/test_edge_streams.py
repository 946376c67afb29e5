"""Streams that go wrong: an error after the first chunk, a client that goes, and the SDK reading them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import httpx
import openai
import orjson
import pytest
from starlette.types import Message

from edge.exchange import ClientGone
from edge.routes.stream import EventStream
from edge.serving import running_http
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

pytestmark = pytest.mark.parametrize("transport", ["local", "unix"])

SECRET = "tg-" + "a" * 43
REQUEST = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
BROKEN = MeshError(ErrorReason.ERROR_REASON_UPSTREAM_ERROR, "The source broke off.", status=grpc.StatusCode.UNAVAILABLE)


async def test_an_error_after_the_first_chunk_is_an_event_and_the_stream_is_not_done(world: Any) -> None:
    router = world.router
    router.script = [router.route(), router.chunk(b'{"a":1}'), BROKEN]
    response = await world.chat(stream=True)
    assert response.status_code == 200
    first, last, end = response.text.split("\n\n")
    assert (first, end) == ('data: {"a":1}', "")
    event, data = last.split("\n")
    assert event == "event: error"
    assert orjson.loads(data.removeprefix("data: ")) == {
        "error": {
            "message": "The source broke off.",
            "type": "upstream_error",
            "code": "upstream_error",
            "param": None,
        }
    }


async def test_a_stream_that_ends_without_a_final_is_not_done(world: Any) -> None:
    world.router.script = [world.router.route(), world.router.chunk(b'{"a":1}')]
    response = await world.chat(stream=True)
    assert "[DONE]" not in response.text
    assert '"code":"internal_error"' in response.text


async def test_a_bug_after_the_first_chunk_is_an_event_without_its_text(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.routes.chat.usage_payload", lambda *_, **__: 1 / 0)
    world.router.streams()
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    assert '"code":"internal_error"' in response.text
    assert "division" not in response.text
    assert "[DONE]" not in response.text


async def test_a_stream_that_takes_too_long_says_so(make_world: Any) -> None:
    world = await make_world(request_timeout_s=0.2)
    world.router.script = [world.router.route(), world.router.chunk(b'{"a":1}'), asyncio.Event()]
    response = await world.chat(stream=True)
    assert '"code":"timeout"' in response.text


async def test_chunks_are_sent_as_they_come(world: Any, served: str) -> None:
    gate = asyncio.Event()
    router = world.router
    router.script = [router.route(), router.chunk(b'{"a":1}'), gate, router.chunk(b'{"a":2}'), router.final()]
    async with (
        world.new_client(served) as client,
        client.stream("POST", "/v1/chat/completions", json=REQUEST | {"stream": True}) as response,
    ):
        pieces = response.aiter_text()
        assert await anext(pieces) == 'data: {"a":1}\n\n'
        gate.set()
        assert "".join([piece async for piece in pieces]) == 'data: {"a":2}\n\ndata: [DONE]\n\n'


async def test_a_client_that_leaves_a_stream_cancels_the_call(world: Any, served: str) -> None:
    world.router.script = [world.router.route(), world.router.chunk(b'{"a":1}'), asyncio.Event()]
    async with (
        world.new_client(served) as client,
        client.stream("POST", "/v1/chat/completions", json=REQUEST | {"stream": True}) as response,
    ):
        assert await anext(response.aiter_text()) == 'data: {"a":1}\n\n'
    await world.router.cancelled.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_cancels_the_call(world: Any, served: str, stream: bool) -> None:
    world.router.script = [asyncio.Event()]
    async with world.new_client(served) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=REQUEST | {"stream": stream}))
        await world.router.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await world.router.cancelled.wait()


async def test_a_client_that_leaves_before_the_first_byte_ends_the_call_too(transport: str) -> None:
    closed = False

    async def events() -> AsyncGenerator[object]:
        nonlocal closed
        try:
            yield "route"
            yield "chunk"
        finally:
            closed = True

    async def frames() -> AsyncGenerator[bytes]:
        yield b""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        await asyncio.Event().wait()

    begun = events()
    await anext(begun)
    with pytest.raises(ClientGone):
        await EventStream(frames(), begun, [])({}, receive, send)
    assert closed


async def test_a_connection_outlives_many_requests(world: Any, served: str) -> None:
    """The watcher for a hangup must not eat what belongs to the next request."""
    async with world.new_client(served) as client:
        for number in range(6):
            if number % 2:
                world.router.streams()
            else:
                world.router.answers()
            response = await client.post("/v1/chat/completions", json=REQUEST | {"stream": bool(number % 2)})
            assert response.status_code == 200
    assert len(world.router.requests) == 6


async def test_an_oversized_body_is_refused_over_the_wire(make_world: Any) -> None:
    world = await make_world(max_body_bytes=1_000)

    async def chunked() -> Any:
        for _ in range(64):
            yield b"x" * 1_024

    async with running_http(world.app, "127.0.0.1", 0, drain_s=1) as url, world.new_client(url) as client:
        for content in (b"x" * 65_536, chunked()):
            response = await client.post("/v1/chat/completions", content=content)
            assert response.status_code == 413
            assert len(response.headers["x-trace-id"]) == 32


async def test_a_body_that_does_not_come_is_not_waited_for(make_world: Any) -> None:
    world = await make_world(body_timeout_s=0.05)
    async with running_http(world.app, "127.0.0.1", 0, drain_s=1) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {SECRET}\r\n"
        writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


async def test_the_sdk_reads_a_stream_and_its_extension_field(world: Any, served: str) -> None:
    chunk = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[%s]}'
    world.router.script = [
        world.router.route(),
        world.router.chunk(chunk % b'{"index":0,"delta":{"content":"hi"}}'),
        world.router.final(usage_chunk=chunk % b""),
    ]
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key=SECRET, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        first, last = [part async for part in stream]
    assert first.choices[0].delta.content == "hi"
    extension = (last.model_extra or {})["tallygate"]
    assert extension["receipt_id"] == "rcpt_fresh"


async def test_the_sdk_raises_an_error_in_the_middle(world: Any, served: str) -> None:
    chunk = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}'
    world.router.script = [world.router.route(), world.router.chunk(chunk), BROKEN]
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key=SECRET, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass
