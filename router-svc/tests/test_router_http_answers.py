"""Requests and answers of a client of sources, in every form: one suite for the own client and for aiohttp's."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib

import pytest
from http_asking import BODY, ask, failing, post, whole
from raw_source import Peer, always, chunked, fixed, raw_source

from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.sources.http.port import SourceHttp

# The request


async def test_a_request_is_what_was_asked_for_and_nothing_else(http: SourceHttp) -> None:
    async with raw_source(always(fixed(b"{}"))) as source:
        await ask(http, source, headers={"accept": "text/event-stream", "authorization": "Bearer k"})
    (request,) = source.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.body == BODY
    assert request.headers == {
        "host": f"127.0.0.1:{source.port}",
        "user-agent": "tallygate",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "authorization": "Bearer k",
        "content-length": str(len(BODY)),
    }


@pytest.mark.parametrize("value", ["a\r\nx-admin: 1", "a\n", "a\rb"])
async def test_a_header_with_a_line_break_is_not_sent(http: SourceHttp, value: str) -> None:
    async with raw_source(always(fixed(b"{}"))) as source:
        async with failing(FailureKind.PROTOCOL):
            await ask(http, source, headers={"authorization": value})
        assert source.requests == []


async def test_a_user_in_the_address_is_told_to_the_source(http: SourceHttp) -> None:
    async with raw_source(always(fixed(b"{}"))) as source:
        await ask(http, source.url.replace("127.0.0.1", "user:p%40ss@127.0.0.1"))
    assert source.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"


async def test_a_body_of_megabytes_is_sent_whole(http: SourceHttp) -> None:
    body = random.Random(1).randbytes(3_000_000)
    async with raw_source(always(fixed(b"{}"))) as source:
        await ask(http, source, body)
        await ask(http, source, body)
    assert [request.body == body for request in source.requests] == [True, True]
    assert source.connections == 1


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999/x"])
async def test_an_address_that_is_none(http: SourceHttp, url: str) -> None:
    async with failing(FailureKind.PROTOCOL):
        await ask(http, url)


# The answer, in every form


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (fixed(b'{"a":1}', content_type="application/json"), b'{"a":1}'),
        (fixed(b""), b""),
        (chunked(b"one ", b"two ", b"three"), b"one two three"),
        (chunked(b"x" * 70_000), b"x" * 70_000),
        (chunked(b"a", trailers=b"x-sum: 1\r\nx-more: 2\r\n"), b"a"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;name=value\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + fixed(b"hi"), b"hi"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + chunked(b"hi"), b"hi"),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", b"hi"),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", b"hi"),
        (fixed(b"hi", x_empty="", x_long="y" * 4_000), b"hi"),
    ],
)
async def test_an_answer_cut_anywhere_is_read_and_its_connection_used_again(
    http: SourceHttp, answer: bytes, body: bytes
) -> None:
    async def in_pieces(peer: Peer) -> None:
        while await peer.request():
            # Whatever the pieces arrive as: the outcome is the same.
            cut = len(peer.source.requests) * 7 % len(answer)
            for piece in (answer[:cut], answer[cut : cut + 1], answer[cut + 1 :]):
                await peer.send(piece)
                await asyncio.sleep(0)

    async with raw_source(in_pieces) as source:
        for _ in range(12):
            response = await post(http, source)
            assert response.status == 200
            assert await whole(response) == body
    assert source.connections == 1


async def test_an_answer_of_one_byte_at_a_time(http: SourceHttp) -> None:
    answer = b"HTTP/1.1 103 E\r\n\r\n" + chunked(b"one ", b"two", trailers=b"x: y\r\n")

    async def drip(peer: Peer) -> None:
        while await peer.request():
            for at in range(len(answer)):
                await peer.send(answer[at : at + 1])
                await asyncio.sleep(0)

    async with raw_source(drip) as source:
        assert [await ask(http, source), await ask(http, source)] == [b"one two", b"one two"]
    assert source.connections == 1


async def test_headers_of_an_answer(http: SourceHttp) -> None:
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nCONTENT-TYPE: application/json\r\nContent-Length: 0\r\n\r\n"
    async with raw_source(always(answer)) as source:
        response = await post(http, source)
        assert (response.status, response.header("retry-after"), response.header("content-type")) == (
            429,
            "7",
            "application/json",
        )
        assert response.header("x-none") == ""
        assert await whole(response) == b""


async def test_trailers_are_not_headers(http: SourceHttp) -> None:
    async with raw_source(always(chunked(b"a", trailers=b"retry-after: 9\r\n"))) as source:
        response = await post(http, source)
        await whole(response)
        assert response.header("retry-after") == ""


async def test_an_answer_without_a_body(http: SourceHttp) -> None:
    async with raw_source(always(b"HTTP/1.1 204 No Content\r\n\r\n")) as source:
        for _ in range(2):
            response = await post(http, source)
            assert (response.status, await whole(response)) == (204, b"")
    assert source.connections == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_ends_with_its_connection(http: SourceHttp, version: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(f"HTTP/{version} 200 OK\r\n\r\n".encode(), b"one ", b"two")

    async with raw_source(script) as source:
        assert [await ask(http, source), await ask(http, source)] == [b"one two", b"one two"]
    assert source.connections == 2


async def test_reads_come_as_they_arrive(http: SourceHttp) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")
        await peer.gone()

    async with raw_source(script) as source:
        response = await post(http, source)
        assert await response.read() == b"one"
        go_on.set()
        assert await response.read() == b"two"
        assert [await response.read(), await response.read()] == [b"", b""]
        response.close()
        response.close()


async def test_a_large_answer_comes_whole_to_a_reader_who_takes_its_time(http: SourceHttp) -> None:
    body = random.Random(2).randbytes(4_000_000)
    async with raw_source(always(fixed(body))) as source:
        response = await post(http, source)
        await asyncio.sleep(0.05)  # the server fills what it can
        assert await whole(response) == body
        assert await ask(http, source) == body
    assert source.connections == 1


@pytest.mark.parametrize(
    ("coding", "squeezed"),
    [
        ("gzip", gzip.compress(b"text " * 500_000, mtime=0)),
        ("deflate", zlib.compress(b"text " * 500_000)),
        ("deflate", zlib.compress(b"text " * 500_000, wbits=-15)),
    ],
)
async def test_an_answer_compressed_though_nobody_asked(http: SourceHttp, coding: str, squeezed: bytes) -> None:
    async with raw_source(always(fixed(squeezed, content_encoding=coding))) as source:
        for _ in range(2):
            response = await post(http, source)
            assert await whole(response) == b"text " * 500_000
    assert source.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(("coding", "body"), [("gzip", b"no gzip"), ("deflate", b"\xff\xff no"), ("br", b"x")])
async def test_an_answer_compressed_wrongly(http: SourceHttp, coding: str, body: bytes) -> None:
    async with raw_source(always(fixed(body, content_encoding=coding))) as source:
        with pytest.raises(SourceFailure) as raised:
            await ask(http, source)
    assert raised.value.kind in {FailureKind.PROTOCOL, FailureKind.CUT}


# What is not HTTP, or too much of it


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01 what?\r\n\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"content-length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none(http: SourceHttp, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.gone()

    async with raw_source(script) as source, failing(FailureKind.PROTOCOL):
        await ask(http, source)


@pytest.mark.parametrize("rest", [b"zz\r\nabc\r\n", b"3\r\nabcd\r\n", b"-3\r\nabc\r\n"])
async def test_a_chunk_that_is_none(http: SourceHttp, rest: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(rest)
        await peer.gone()

    async with raw_source(script) as source, failing(FailureKind.CUT, FailureKind.PROTOCOL):
        await ask(http, source)
