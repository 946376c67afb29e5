"""Connections of a client of sources, and what becomes of a request on them: of the own client and aiohttp's.

A source may have worked on a request that it has read, and bills it. None is sent twice.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from http_asking import Open, ask, failing, post, whole
from raw_source import Peer, RawSource, always, chunked, fixed, make_certificates, raw_source

from router_svc.domain.failure import FailureKind
from router_svc.sources.http.opening import verifying
from router_svc.sources.http.port import SourceHttp

# Connections


async def test_a_source_that_nobody_is_at(http: SourceHttp) -> None:
    async with raw_source(always(b"")) as source:
        pass
    async with failing(FailureKind.CONNECT):
        await ask(http, source)
    async with failing(FailureKind.CONNECT, FailureKind.PROTOCOL):
        await ask(http, "http://no..name/v1")


async def test_over_ipv6(http: SourceHttp) -> None:
    try:
        async with raw_source(always(fixed(b"six")), host="::1") as source:
            assert await ask(http, source) == b"six"
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert source.requests[0].headers["host"] == f"[::1]:{source.port}"


async def test_a_name_is_found(http: SourceHttp) -> None:
    async with raw_source(always(fixed(b"{}"))) as source:
        url = source.url.replace("127.0.0.1", "localhost")
        assert [await ask(http, url), await ask(http, url)] == [b"{}", b"{}"]
    assert source.requests[0].headers["host"] == f"localhost:{source.port}"


async def test_over_tls_the_name_is_told_and_the_certificate_verified(opened: Open, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    told: list[str | None] = []
    certificates.server.sni_callback = lambda _, name, __: told.append(name)
    body = random.Random(3).randbytes(300_000)
    async with opened(tls=verifying(str(certificates.trusted))) as http:
        async with raw_source(always(chunked(body)), name="localhost", tls=certificates.server) as source:
            assert [await ask(http, source, body), await ask(http, source, body)] == [body, body]
            async with failing(FailureKind.CONNECT):  # it is certified to be localhost, and nothing else
                await ask(http, source.url.replace("localhost", "127.0.0.1"))
        assert len(source.requests) == 2
        assert told == ["localhost", None]
    strange = raw_source(always(fixed(b"")), name="localhost", tls=certificates.server)
    async with opened() as http, strange as source, failing(FailureKind.CONNECT):
        await ask(http, source)
    assert source.requests == []


@pytest.mark.parametrize("answer", [fixed(b"x" * 10)[:-3], chunked(b"abc")[:-5]])
async def test_an_answer_cut_short_over_tls(opened: Open, tmp_path: Path, answer: bytes) -> None:
    certificates = make_certificates(tmp_path)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        peer.writer.transport.abort()

    cutting = raw_source(script, name="localhost", tls=certificates.server)
    async with opened(tls=verifying(str(certificates.trusted))) as http, cutting as source, failing(FailureKind.CUT):
        await ask(http, source)


async def test_a_source_whose_certificate_takes_for_ever(http: SourceHttp) -> None:
    async with raw_source(Peer.gone) as source, failing(FailureKind.TIMEOUT):
        await ask(http, source.url.replace("http:", "https:"), connect_s=0.05)


# A request is sent once


async def test_a_request_that_may_have_been_worked_on_is_not_sent_again(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(b"first"))
        await peer.request()  # read, perhaps worked on, and then nothing

    async with raw_source(script) as source:
        assert await ask(http, source) == b"first"
        async with failing(FailureKind.CUT):
            await ask(http, source)
    assert (len(source.requests), source.connections) == (2, 1)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", fixed(b"x" * 10)[:-3], chunked(b"abc")[:-5]])
@pytest.mark.parametrize("way", ["closes", "resets", "half closes"])
async def test_an_answer_cut_off(http: SourceHttp, answer: bytes, way: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        if way == "resets":
            peer.reset()
        elif way == "half closes":
            peer.half_close()
            await peer.gone()

    async with raw_source(script) as source, failing(FailureKind.CUT):
        await ask(http, source)
    assert len(source.requests) == 1


@pytest.mark.parametrize("last", ["connection: close", "content-length: 5\r\nconnection: keep-alive"])
async def test_a_connection_that_its_source_has_closed_is_not_used(http: SourceHttp, last: str) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(f"HTTP/1.1 200 OK\r\n{last}\r\n\r\nfirst".encode())
        peer.writer.close()
        await peer.writer.wait_closed()
        closed.set()

    async with raw_source(script, always(fixed(b"second"))) as source:
        assert await ask(http, source) == b"first"
        await closed.wait()
        await asyncio.sleep(0.01)  # the loop hears of it; where it has not yet, see test_router_http_own
        assert await ask(http, source) == b"second"
    assert [len(source.requests), source.connections] == [2, 2]


async def test_a_connection_whose_source_has_half_closed_is_not_used(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(b"first"))
        peer.half_close()
        await peer.gone()

    async with raw_source(script, always(fixed(b"second"))) as source:
        assert await ask(http, source) == b"first"
        await asyncio.sleep(0.01)
        assert await ask(http, source) == b"second"


async def test_what_comes_after_an_answer_is_no_answer_to_the_next_request(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(b"first") + fixed(b"of another"))
        await peer.request()

    async with raw_source(script, always(fixed(b"second"))) as source:
        assert await ask(http, source) == b"first"
        assert await ask(http, source) == b"second"
    assert source.connections == 2


async def test_an_answer_before_the_request_was_read(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(fixed(b"too large", "413 Content Too Large"))
        await peer.gone()

    async with raw_source(script, always(fixed(b"{}"))) as source:
        response = await post(http, source, b"x" * 20_000_000)
        assert (response.status, await whole(response)) == (413, b"too large")
        assert await ask(http, source) == b"{}"
    assert source.connections == 2


# Patience, and those who leave


async def test_a_source_that_says_nothing(http: SourceHttp) -> None:
    async with raw_source(Peer.gone) as source, failing(FailureKind.TIMEOUT):
        await ask(http, source, head_s=0.05, read_s=0.05)


async def test_a_head_that_does_not_end(http: SourceHttp) -> None:
    async def drip(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.reader.at_eof():
            await peer.send(b"x-more: y\r\n")
            await asyncio.sleep(0.01)

    async with raw_source(drip) as source, failing(FailureKind.TIMEOUT):
        await ask(http, source, head_s=0.1)


@pytest.mark.parametrize("bound", ["patience", "until"])
async def test_a_body_that_stops(http: SourceHttp, bound: str) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        await peer.gone()
        left.set()

    async with raw_source(script) as source:
        response = await post(http, source, read_s=0.05 if bound == "patience" else 5.0)
        assert await response.read() == b"first"
        async with failing(FailureKind.TIMEOUT):
            await response.read(None if bound == "patience" else asyncio.get_running_loop().time() + 0.05)
        await left.wait()


@pytest.mark.parametrize("begun", [False, True])
async def test_whoever_is_cancelled_ends_the_call(http: SourceHttp, begun: bool) -> None:
    waiting, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if begun:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        waiting.set()
        await peer.gone()
        left.set()

    async def call(source: RawSource) -> None:
        response = await post(http, source)
        try:
            while await response.read():
                pass
        finally:
            response.close()

    async with raw_source(script, always(fixed(b"{}"))) as source:
        task = asyncio.create_task(call(source))
        await waiting.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left.wait()
        assert await ask(http, source) == b"{}"


async def test_leaving_an_answer_in_its_middle_closes_the_connection(http: SourceHttp) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await peer.gone()
        left.set()

    async with raw_source(script) as source:
        response = await post(http, source)
        await response.read()
        response.close()
        await left.wait()


async def test_the_end_of_an_answer_that_nobody_waits_for_frees_the_connection(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            await asyncio.sleep(0)
            await peer.send(b"0\r\n\r\n")

    async with raw_source(script) as source:
        for _ in range(3):
            response = await post(http, source)
            assert await response.read() == b"one"
            await response.finish()
            response.close()
            await asyncio.sleep(0.01)
    assert source.connections == 1
