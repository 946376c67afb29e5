"""Connections of a client of sources over many calls: bounded, ended, and answers never crossed on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from http_asking import Open, ask, failing, post, whole
from raw_source import Peer, RawSource, Script, chunked, fixed, raw_source

from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.sources.http.port import SourceHttp


async def test_connections_are_bounded_and_whoever_finds_none_waits_in_line(opened: Open) -> None:
    both, go_on = asyncio.Event(), asyncio.Event()

    async def slow(peer: Peer) -> None:
        while await peer.request():
            if len(peer.source.requests) == 2:
                both.set()
            await go_on.wait()
            await peer.send(fixed(b"{}"))

    async with opened(max_connections=2) as http, raw_source(slow) as source:
        tasks = [asyncio.create_task(ask(http, source, b"%d" % number)) for number in range(6)]
        await both.wait()
        async with failing(FailureKind.TIMEOUT):
            await ask(http, source, connect_s=0.02)
        tasks[3].cancel()
        assert source.connections == 2
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[3].cancelled()
        assert [request.body for request in source.requests] == [b"0", b"1", b"2", b"4", b"5"]
    assert source.connections == 2


async def test_places_are_not_lost_with_calls_that_fail(opened: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if len(peer.source.requests) % 3:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        else:
            await peer.send(fixed(b"{}"))

    async with opened(max_connections=2) as http, raw_source(script) as source:
        results = await asyncio.gather(*(ask(http, source) for _ in range(30)), return_exceptions=True)
    assert results.count(b"{}") == 10
    assert sum(isinstance(result, SourceFailure) for result in results) == 20


async def test_idle_connections_end(opened: Open) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(fixed(b"{}"))
        await peer.gone()
        left.set()

    async with opened(idle_s=0.05) as http, raw_source(script) as source:
        await ask(http, source)
        await asyncio.wait_for(left.wait(), 10)


async def test_all_connections_end_with_the_client(opened: Open) -> None:
    left: list[asyncio.Event] = []

    async def script(peer: Peer) -> None:
        left.append(asyncio.Event())
        await peer.request()
        await peer.send(fixed(b"{}"))
        await peer.gone()
        left.pop().set()

    async with raw_source(script) as source:
        async with opened() as http:
            await asyncio.gather(*(ask(http, source) for _ in range(5)))
            ends = list(left)
            assert len(ends) == 5
        await asyncio.gather(*(end.wait() for end in ends))


_AS: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]] = (fixed, chunked)


async def test_answers_are_never_crossed(opened: Open) -> None:
    """Sources that cut, stall, say too much and close as they please; callers that leave as they please."""
    chance = random.Random(7)

    async def whims(peer: Peer) -> None:
        while request := await peer.request():
            answer = _AS[chance.randrange(2)](request.body * chance.randrange(1, 2_000))
            whim = chance.randrange(8)
            if whim == 0:
                await peer.send(answer[: chance.randrange(len(answer))])
                return
            if whim == 1:
                await peer.send(answer + fixed(b"of nobody"))
                continue
            if whim == 2:
                await peer.send(answer, fixed(b"of nobody, later"))
                continue
            cut = chance.randrange(len(answer))
            await peer.send(answer[:cut])
            await asyncio.sleep(0)
            await peer.send(answer[cut:])

    async def caller(http: SourceHttp, source: RawSource, number: int) -> int:
        right = 0
        for turn in range(25):
            mine = b"<%d of %d>" % (turn, number)
            try:
                response = await post(http, source, mine)
                if chance.randrange(10) == 0:
                    await response.finish()
                    continue
                got = await whole(response)
            except SourceFailure:
                continue
            assert got == mine * (len(got) // len(mine))
            right += 1
        return right

    async with opened(max_connections=4) as http, raw_source(_tolerant(whims)) as source:
        right = await asyncio.gather(*(caller(http, source, number) for number in range(12)))
    assert sum(right) > 100


def _tolerant(script: Script) -> Script:
    """The client may go while it is written to."""

    async def run(peer: Peer) -> None:
        try:
            await script(peer)
        except ConnectionError:
            return

    return run
