"""Small parts: the pipe, texts for an estimate, refusals in their shapes, the HTTP client's manners."""

from __future__ import annotations

import asyncio
import gzip
import socket

import orjson
import pytest
from aiohttp import web
from router_rig import ScriptedSource, chunk, completion_body, json_answer, price, stream_answer, usage_block

from meshkit.telemetry import Telemetry
from router_svc.domain.answer import Delivery, StreamBatch
from router_svc.domain.catalog import Offer, Source
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.domain.plan import Candidate
from router_svc.service.pipe import ChunksEvent, EventPipe
from router_svc.service.ports import SourceCall
from router_svc.sources.http.opening import open_http
from router_svc.sources.openai import OpenAISourceClient, OpenAITimeouts
from router_svc.sources.refusal import refusal_of

CANDIDATE = Candidate(Offer("a/m", "m", "a", "up", None), Source("a", ""), price(), 0, 10_000, 1_000)


async def test_a_full_pipe_makes_the_writer_wait() -> None:
    pipe = EventPipe(most_bytes=10, stall_s=5.0)
    assert await pipe.put(ChunksEvent((b"x" * 10,)))
    waiting = asyncio.create_task(pipe.put(ChunksEvent((b"y",))))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await anext(pipe.events()) == ChunksEvent((b"x" * 10,))
    assert await waiting


async def test_a_writer_that_waits_is_freed_when_the_reader_leaves() -> None:
    pipe = EventPipe(most_bytes=1, stall_s=5.0)
    await pipe.put(ChunksEvent((b"x",)))
    waiting = asyncio.create_task(pipe.put(ChunksEvent((b"y",))))
    await asyncio.sleep(0)
    pipe.leave()
    assert await waiting is False


async def test_a_pipe_gives_what_is_waiting_before_its_error() -> None:
    pipe = EventPipe(most_bytes=10, stall_s=5.0)
    await pipe.put(ChunksEvent((b"x",)))
    pipe.close(ValueError("first"))
    pipe.close(ValueError("second"))
    events = pipe.events()
    assert await anext(events) == ChunksEvent((b"x",))
    with pytest.raises(ValueError, match="first"):
        await anext(events)


def test_texts_of_a_delivery_are_those_delivered() -> None:
    delivery = Delivery(CANDIDATE, 0)
    deltas = [
        {"role": "assistant", "content": "one "},
        {"reasoning_content": "hm ", "reasoning": "hm "},
        {"refusal": "no "},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]},
        {"content": None},
    ]
    payloads = [orjson.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    delivery.take(StreamBatch((*payloads, b"not json", b"[]", b'{"choices":null}', chunk("lost"))))
    delivery.delivered = len(payloads) + 3
    assert delivery.texts() == ("one no f{}", "hm ")


def test_a_delivery_of_several_choices_is_complete_with_the_last() -> None:
    delivery = Delivery(CANDIDATE, 0)
    delivery.take(StreamBatch((b"{}",), finished=frozenset({0})))
    assert not delivery.is_complete(2)
    delivery.take(StreamBatch((b"{}",), finished=frozenset({1})))
    assert delivery.is_complete(2)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "param"),
    [
        (400, b'{"error":{"message":"m","param":"p","code":null}}', FailureKind.REJECTED, "m", "p"),
        (422, b'{"object":"error","message":{"detail":[1]}}', FailureKind.REJECTED, '{"detail":[1]}', ""),
        (404, b'{"detail":"Not Found"}', FailureKind.STATUS, "HTTP 404", ""),
        (400, b'[{"error":{"code":400,"message":"google"}}]', FailureKind.REJECTED, "google", ""),
        (400, b'{"error":"plain"}', FailureKind.REJECTED, "plain", ""),
        (413, b"<html>", FailureKind.REJECTED, "the source rejected the request with HTTP 413", ""),
        (400, b'[{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}]', FailureKind.UNAUTHORIZED, None, ""),
        (401, b'{"error":{"message":"key sk-1"}}', FailureKind.UNAUTHORIZED, None, ""),
        (402, b'{"error":{"message":"Insufficient Balance"}}', FailureKind.UNAUTHORIZED, None, ""),
        (403, b"", FailureKind.UNAUTHORIZED, None, ""),
        (429, b"", FailureKind.RATE_LIMITED, "rate limited", ""),
        (408, b"", FailureKind.STATUS, "HTTP 408", ""),
        (500, b'{"error":{"message":"secret things"}}', FailureKind.STATUS, "HTTP 500", ""),
        (302, b"", FailureKind.STATUS, "HTTP 302", ""),
    ],
)
def test_refusals(status: int, body: bytes, kind: FailureKind, message: str | None, param: str) -> None:
    failure = refusal_of(status, body, "sk-1")
    assert (failure.kind, failure.http_status, failure.param) == (kind, status, param)
    assert failure.message == (message or "the operator's key was refused")
    assert failure.elsewhere is (kind is not FailureKind.REJECTED)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"error":{"message":"key sk-own-1"}}', "it is not valid there (HTTP 401)"),
        (400, b'{"error":{"message":"API_KEY_INVALID"}}', "it is not valid there (HTTP 400)"),
        (402, b'{"error":{"message":"Insufficient Balance"}}', "its account there can't pay (HTTP 402)"),
        (403, b"", "it may not be used for this there (HTTP 403)"),
    ],
)
def test_a_refused_own_key_is_told_from_the_operators(status: int, body: bytes, said: str) -> None:
    failure = refusal_of(status, body, "sk-own-1", own_key=True)
    assert (failure.kind, failure.message, failure.elsewhere) == (FailureKind.KEY_REJECTED, said, False)


async def ask(served: ScriptedSource) -> bytes:
    candidate = Candidate(Offer("a/m", "m", "a", "up", None), Source("a", served.base_url), price(), 0, 10_000, 1_000)
    async with open_http(max_connections=10) as http:
        client = OpenAISourceClient(
            http, Telemetry.off().tracer, lambda _: None, timeouts=OpenAITimeouts(), max_answer_bytes=10_000
        )
        answer = await client.ask(SourceCall(candidate, b'{"messages":[{"content":"x"}]}', 5.0))
        await client.ask(SourceCall(candidate, b'{"messages":[{"content":"x"}]}', 5.0))
    return answer.body


async def test_cookies_of_a_source_are_not_kept_and_compression_is_not_asked_for(source: ScriptedSource) -> None:
    async def sweet(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=completion_body(usage=usage_block()), content_type="application/json")
        response.set_cookie("session", "of-another-tenant")
        return response

    source.script = [sweet]
    await ask(source)
    assert all("cookie" not in headers for headers in source.headers)
    assert source.headers[0]["accept-encoding"] == "identity"
    assert source.headers[0]["user-agent"] == "tallygate"
    assert "authorization" not in source.headers[0]


async def test_redirects_are_not_followed(source: ScriptedSource) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(source.base_url + "/chat/completions")

    source.script = [elsewhere, json_answer(completion_body())]
    with pytest.raises(SourceFailure, match="HTTP 307"):
        await ask(source)
    assert source.calls == 1


async def test_a_body_compressed_all_the_same_is_read(source: ScriptedSource) -> None:
    async def squeezed(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(completion_body()), headers={"content-encoding": "gzip"})

    source.script = [squeezed]
    assert await ask(source) == completion_body()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (json_answer(b"<html>"), FailureKind.PROTOCOL),
        (json_answer(b"[]"), FailureKind.PROTOCOL),
        (json_answer(b'{"error":{"message":"overloaded"}}'), FailureKind.ERROR_EVENT),
    ],
)
async def test_a_200_that_is_no_completion(source: ScriptedSource, answer: object, kind: FailureKind) -> None:
    source.script = [answer]  # type: ignore[list-item]
    with pytest.raises(SourceFailure) as raised:
        await ask(source)
    assert raised.value.kind is kind


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(completion_body()),
        json_answer(b'{"error":{"message":"no"}}'),
        stream_answer(b""),
        stream_answer(b"data: [DONE]\n\n"),
        stream_answer(b": nothing\n\n"),
        stream_answer(b'data: {"choi'),
    ],
)
async def test_a_200_that_is_no_stream(source: ScriptedSource, answer: object) -> None:
    source.script = [answer]  # type: ignore[list-item]
    candidate = Candidate(Offer("a/m", "m", "a", "up", None), Source("a", source.base_url), price(), 0, 10_000, 1_000)
    async with open_http(max_connections=10) as http:
        client = OpenAISourceClient(
            http, Telemetry.off().tracer, lambda _: None, timeouts=OpenAITimeouts(), max_answer_bytes=10_000
        )
        with pytest.raises(SourceFailure):
            async with client.stream(SourceCall(candidate, b"{}", 5.0)):
                pass


async def test_something_that_does_not_speak_http() -> None:
    async def gibber(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x16\x03\x01 what?\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(gibber, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(SourceFailure) as raised:
            await ask(ScriptedSource(base_url=f"http://127.0.0.1:{port}"))
    assert raised.value.kind in {FailureKind.PROTOCOL, FailureKind.CUT}


async def test_small_packets_are_sent_at_once(source: ScriptedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    set_options: list[tuple[int, int]] = []
    plain_setsockopt = socket.socket.setsockopt

    class Watched(socket.socket):
        def setsockopt(self, level, name, value, *rest):  # type: ignore[no-untyped-def]
            set_options.append((level, name))
            return plain_setsockopt(self, level, name, value, *rest)

    monkeypatch.setattr(socket, "socket", Watched)
    source.script = [json_answer(completion_body())]
    await ask(source)
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY) in set_options
