"""The own client of sources in what aiohttp's does not share: bounds, timers, and looking before it asks."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from http_asking import ask, failing, post
from hypothesis import given
from hypothesis import strategies as st
from loose_connection import Rig
from raw_source import Peer, chunked, fixed, raw_source

from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.sources.http.connection import Connection
from router_svc.sources.http.dialling import Dialler, Origin
from router_svc.sources.http.opening import open_http
from router_svc.sources.http.pool import Pool
from router_svc.sources.http.port import SourceHttp

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def http(trusting: ssl.SSLContext) -> Any:
    async with open_http("own", max_connections=2, tls=trusting) as client:
        yield client


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    with rig.near, rig.far:
        rig.connection.ask(b"request")
        yield rig


def reads_of(answer: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % len(answer) for cut in cuts} | {0, len(answer)})
    return [answer[start:end] for start, end in itertools.pairwise(at)]


@given(
    body=st.binary(max_size=200), pieces=st.lists(st.integers(1, 50), max_size=5), cuts=st.lists(st.integers(0, 10_000))
)
def test_reads_cut_anywhere_give_the_same_answer(body: bytes, pieces: list[int], cuts: list[int]) -> None:
    chunks = [body[at : at + size] for at, size in zip(range(0, 200, 50), pieces, strict=False)]
    chunks = [chunk for chunk in chunks if chunk]
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(*chunks, trailers=b"x: y\r\n")

    async def run() -> None:
        rig = Rig()
        with rig.near, rig.far:
            rig.connection.ask(b"request")
            rig.feed(*reads_of(answer, cuts))
            assert (rig.connection.status, await rig.body()) == (200, b"".join(chunks))
            assert rig.connection.is_reusable
            assert rig.transport.done == []

    asyncio.run(run())


async def test_what_a_read_brought_is_one_read(rig: Rig) -> None:
    connection = rig.feed(HEAD + b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n")
    assert await connection.read(200.0) == b"abc"


async def test_what_came_before_the_cut_is_read_before_it_is_told(rig: Rig) -> None:
    rig.feed(HEAD + b"1\r\na\r\n").connection_lost(ConnectionResetError())
    assert await rig.connection.read(200.0) == b"a"
    with pytest.raises(SourceFailure, match="cut"):
        await rig.connection.read(200.0)
    assert rig.lost == [rig.connection]


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_an_answer_without_a_length_ends_with_its_connection_and_not_with_a_break_of_it(
    rig: Rig, error: Exception | None
) -> None:
    rig.feed(b"HTTP/1.1 200 OK\r\n\r\nall of it").connection_lost(error)
    assert await rig.connection.read(200.0) == b"all of it"
    if error is None:
        assert await rig.connection.read(200.0) == b""
    else:
        with pytest.raises(SourceFailure, match="cut"):
            await rig.connection.read(200.0)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"yyyyyy"),
        (HEAD + b"0\r\n", b"x: y\r\n"),
        (HEAD + b"0\r\nx: ", b"yyyyyy"),
        (HEAD + b"1;", b"xxxxxx"),
    ],
)
async def test_what_is_no_body_is_bounded(rig: Rig, first: bytes, more: bytes) -> None:
    rig.feed(first)
    for _ in range(66):
        if not rig.transport.is_closing():
            rig.feed(more * (1_000 // len(more)))
    assert rig.transport.done == ["abort"]
    with pytest.raises(SourceFailure) as raised:
        await rig.connection.head(200.0)
        await rig.connection.read(200.0)
    assert raised.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize("reads", [1, 2, 40])
@pytest.mark.parametrize(("size", "passes"), [(60_000, True), (66_000, False)])
async def test_the_bound_of_a_head_is_the_same_however_it_is_cut(rig: Rig, reads: int, size: int, passes: bool) -> None:
    answer = fixed(b"x" * 100_000, x_long="y" * size)
    step = len(answer) // reads + 1
    rig.feed(*(answer[at : at + step] for at in range(0, len(answer), step)))
    assert (rig.connection.status == 200) is passes
    assert rig.transport.is_closing() is not passes


async def test_a_source_faster_than_its_reader_is_slowed(rig: Rig) -> None:
    rig.feed(HEAD, *[b"4000\r\n" + b"x" * 16_384 + b"\r\n"] * 8)
    assert rig.transport.done == ["pause"]
    assert len(await rig.connection.read(200.0)) == 8 * 16_384
    assert rig.transport.done == ["pause", "resume"]
    rig.feed(b"1\r\na\r\n")
    assert rig.transport.done == ["pause", "resume"]


async def test_one_timer_serves_many_waits(rig: Rig) -> None:
    async def wait() -> bytes:
        return await rig.connection.read(rig.loop.now + 60)

    rig.feed(HEAD)
    for _ in range(20):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        rig.loop.move(5)
        rig.feed(b"1\r\na\r\n")
        assert await waiting == b"a"
    assert rig.loop.set <= 3
    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    for _ in range(12):
        assert not waiting.done()
        rig.loop.move(5)
        await asyncio.sleep(0)
    with pytest.raises(SourceFailure, match="in time"):
        await waiting
    assert rig.transport.done == ["abort"]


async def test_a_connection_left_before_its_end_is_freed_by_the_end(rig: Rig) -> None:
    rig.feed(HEAD + b"1\r\na\r\n").leave()
    rig.feed(b"1\r\nb\r\n")
    assert rig.freed == []
    rig.feed(b"0\r\n\r\n")
    assert rig.freed == [rig.connection]
    rig.loop.move(10)
    assert rig.transport.done == []


@pytest.mark.parametrize("more", ["silence", "too much"])
async def test_a_connection_left_is_closed_where_its_end_does_not_come(rig: Rig, more: str) -> None:
    rig.feed(HEAD + b"1\r\na\r\n").leave()
    if more == "silence":
        rig.loop.move(1.1)
    else:
        rig.feed(*[b"4000\r\n" + b"x" * 16_384 + b"\r\n"] * 5)
    assert (rig.freed, rig.transport.done) == ([], ["abort"])


async def test_a_request_that_is_not_yet_sent_whole_keeps_its_connection_from_the_next(rig: Rig) -> None:
    rig.transport.unsent = 1
    assert rig.feed(fixed(b"early")).is_complete
    assert not rig.connection.is_reusable


@pytest.mark.parametrize("way", ["closed", "said something"])
async def test_a_connection_is_looked_at_before_it_is_asked(rig: Rig, way: str) -> None:
    rig.feed(fixed(b"x")).release()
    assert rig.connection.is_usable
    if way == "closed":
        rig.far.close()
    else:
        rig.far.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not rig.connection.is_usable, "though the loop has not heard of it"


async def test_what_comes_unasked_closes_the_connection(rig: Rig) -> None:
    rig.feed(fixed(b"x")).release()
    rig.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert rig.transport.done == ["abort"]


async def test_garbage_after_an_answer_takes_nothing_from_it(rig: Rig) -> None:
    rig.feed(fixed(b"whole") + b"garbage")
    assert await rig.body() == b"whole"
    assert not rig.connection.is_reusable


@pytest.mark.parametrize("ending", ["closes", "says so first"])
async def test_a_source_that_closes_while_nobody_looks_costs_no_request(http: SourceHttp, ending: str) -> None:
    """The loop of a busy router looks at its sockets every few milliseconds; in between it asks by what it knew."""
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []
    let_go = threading.Event()

    def serve() -> None:
        while True:
            peer, _ = listening.accept()
            with peer:
                asked.append(peer.recv(65_536))
                peer.sendall(fixed(b"{}", keep_alive="timeout=60"))
                let_go.wait()
                if ending == "says so first":
                    peer.sendall(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n")
            let_go.clear()
            if len(asked) == 2:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    assert await ask(http, url) == b"{}"
    let_go.set()
    while let_go.is_set():  # blocks the loop, as work does
        threading.Event().wait(0.001)
    second = asyncio.create_task(ask(http, url))
    try:
        assert await second == b"{}"
    finally:
        let_go.set()
        thread.join()
        listening.close()
    assert len(asked) == 2


async def test_a_connection_is_given_up_before_its_source_does(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(b"{}", keep_alive="max=5, timeout=1"))
        await peer.gone()

    async with raw_source(script) as source:
        assert [await ask(http, source), await ask(http, source)] == [b"{}", b"{}"]
    assert source.connections == 2


async def test_a_source_that_needs_a_place_takes_it_from_one_that_is_idle(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(fixed(b"{}"))

    async with raw_source(script) as first, raw_source(script) as second, raw_source(script) as third:
        for source in (first, second, third, first):
            assert await ask(http, source, connect_s=5.0) == b"{}"
    assert [first.connections, second.connections, third.connections] == [2, 1, 1]


async def test_a_source_in_line_gets_its_turn_from_a_call_of_another(http: SourceHttp) -> None:
    both, go_on = asyncio.Event(), asyncio.Event()

    async def slow(peer: Peer) -> None:
        while await peer.request():
            if len(peer.source.requests) == 2:
                both.set()
            await go_on.wait()
            await peer.send(fixed(b"{}"))

    async with raw_source(slow) as first, raw_source(slow) as second:
        calls = [asyncio.create_task(ask(http, first)) for _ in range(2)]
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(ask(http, second)))
        await both.wait()
        go_on.set()
        assert await asyncio.gather(*calls) == [b"{}"] * 3


async def test_a_body_made_to_burst_comes_in_pieces(http: SourceHttp) -> None:
    squeezed = gzip.compress(bytes(5_000_000))

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(squeezed, content_encoding="gzip"))
        await peer.gone()

    async with raw_source(script) as source:
        response = await post(http, source)
        assert len(await response.read()) <= 2**20
        response.close()


async def test_a_compressed_body_that_lacks_its_end_is_cut(http: SourceHttp) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(gzip.compress(b"text" * 100)[:-20], content_encoding="gzip"))
        await peer.gone()

    async with raw_source(script) as source, failing(FailureKind.CUT):
        await ask(http, source)


class FakeDialler:
    """Opens connections without a network; ``wanted``: how often."""

    def __init__(self) -> None:
        self.rigs: list[Rig] = []

    async def open(self, origin: Origin, make: Any) -> Connection:
        rig = Rig(make)
        self.rigs.append(rig)
        return rig.connection

    async def aclose(self) -> None:
        for rig in self.rigs:
            rig.near.close()
            rig.far.close()


@pytest.mark.parametrize("closed", [False, True])
async def test_a_connection_that_closes_on_its_way_to_who_is_next_is_not_asked(closed: bool) -> None:
    dialler, origin = FakeDialler(), Origin("a", 80, False)
    pool = Pool(cast(Dialler, dialler), asyncio.get_running_loop(), most=1, idle_s=15.0)
    first = await pool.open(origin)
    waiting = asyncio.create_task(pool.open(origin))
    await asyncio.sleep(0)
    first.ask(b"request")
    dialler.rigs[0].feed(fixed(b"{}"))
    pool.give_back(first)
    if closed:
        dialler.rigs[0].far.close()
    assert (await waiting is first) is not closed
    assert len(dialler.rigs) == 1 + closed
    await pool.aclose()


async def test_a_turn_that_its_caller_has_left_goes_to_the_next() -> None:
    dialler, origin = FakeDialler(), Origin("a", 80, False)
    pool = Pool(cast(Dialler, dialler), asyncio.get_running_loop(), most=1, idle_s=15.0)
    first = await pool.open(origin)
    waiting = [asyncio.create_task(pool.open(origin)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.ask(b"request")
    dialler.rigs[0].feed(fixed(b"{}"))
    pool.give_back(first)
    waiting[1].cancel()  # it has its turn, and does not know yet
    assert await waiting[2] is first
    await asyncio.gather(*waiting, return_exceptions=True)
    await pool.aclose()


async def test_nothing_is_written_to_a_connection_that_is_closed(rig: Rig) -> None:
    rig.feed(fixed(b"x")).release()
    rig.connection.close()
    with pytest.raises(SourceFailure, match="no connection"):
        rig.connection.ask(b"request")
    assert rig.transport.written == [b"request"]
