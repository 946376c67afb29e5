"""Identical requests over two edges, two routers and two cache services that share Redis and a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest

from edge.settings import EdgeSettings
from meshkit.answers.fold import fold
from tallygate.ledger.v1 import ledger_pb2
from tests.e2e.replicas import Replicas, edge_of, router_process, running_replicas
from tests.harness.background import BackgroundLoop
from tests.upstream.server import ScriptedUpstream

FRESH, EXACT = ledger_pb2.SERVED_MODE_FRESH, ledger_pb2.SERVED_MODE_EXACT
PATH = "/v1/chat/completions"


@pytest.fixture
async def replicas(background: BackgroundLoop, upstream_server: ScriptedUpstream) -> AsyncIterator[Replicas]:
    async with running_replicas(background, upstream_server) as running:
        yield running


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "one of two, or more"}]
    return {"model": "test/gated", "messages": messages, "temperature": 0} | fields


async def ask(replicas: Replicas, url: str, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=50, headers=replicas.headers) as client:
        return await client.post(url + PATH, json=body(**fields))


class Streamed:
    """A stream that is read as it comes."""

    def __init__(self, replicas: Replicas, url: str, stack: AsyncExitStack) -> None:
        self._replicas, self._url, self._stack = replicas, url, stack
        self.payloads: list[dict[str, Any]] = []
        self.done = False

    async def begin(self) -> Streamed:
        client = await self._stack.enter_async_context(httpx.AsyncClient(timeout=50, headers=self._replicas.headers))
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = client.stream("POST", self._url + PATH, json=body(**options))
        self.response = await self._stack.enter_async_context(stream)
        self._lines = self.response.aiter_lines()
        await self.next()
        return self

    async def next(self) -> None:
        while not (line := await anext(self._lines)).startswith("data: "):
            pass
        self.done = line == "data: [DONE]"
        if not self.done:
            self.payloads.append(orjson.loads(line[6:]))

    async def end(self) -> None:
        while not self.done:
            await self.next()

    @property
    def folded(self) -> dict[str, Any]:
        """The answer, but for what is its own."""
        answer = fold([{name: value for name, value in one.items() if name != "tallygate"} for one in self.payloads])
        return {name: value for name, value in answer.items() if name not in ("id", "created")}


async def modes(replicas: Replicas) -> list[int]:
    receipts = await asyncio.to_thread(replicas.tenants.receipts, replicas.tenant.org_id)
    assert len(await replicas.receipt_ids()) == len(receipts), "and nothing is held any more"
    (origin,) = (receipt for receipt in receipts if receipt.facts.served_mode == FRESH)
    for receipt in receipts:
        if receipt.facts.served_mode == EXACT:
            assert receipt.facts.origin_receipt_id == origin.receipt_id
            assert receipt.charged_nano_usd == -(-origin.charged_nano_usd // 4)
    return sorted(receipt.facts.served_mode for receipt in receipts)


async def test_a_stream_is_followed_live_at_the_other_edge(replicas: Replicas) -> None:
    """Another asks for a whole answer meanwhile; all three say the same, and one was called for."""
    async with AsyncExitStack() as stack:
        leader = await Streamed(replicas, replicas.urls[0], stack).begin()
        await replicas.upstream.wait_until(bool)
        follower = await Streamed(replicas, replicas.urls[1], stack).begin()
        assert follower.response.headers["x-served-mode"] == "exact", "before the leader has its end"
        plain = asyncio.create_task(ask(replicas, replicas.urls[1]))
        replicas.upstream.release()
        await leader.end()
        await follower.end()
        whole = (await plain).json()
    assert leader.folded == follower.folded
    assert {name: value for name, value in whole.items() if name not in ("id", "created")} == follower.folded
    ids = {chunk["id"] for chunk in follower.payloads}
    assert ids == {follower.response.headers["x-generation-id"]}
    assert len(replicas.upstream.calls) == 1
    assert await modes(replicas) == [FRESH, EXACT, EXACT]


async def test_a_leader_whose_client_leaves_hurts_no_follower(replicas: Replicas) -> None:
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as leaving:
            leader = await Streamed(replicas, replicas.urls[0], leaving).begin()
            follower = await Streamed(replicas, replicas.urls[1], stack).begin()
        assert not leader.done
        replicas.upstream.release()
        await follower.end()
    assert follower.folded["choices"][0]["finish_reason"] == "stop"
    assert len(replicas.upstream.calls) == 1
    assert await modes(replicas) == [FRESH, EXACT]


async def test_a_router_that_is_killed_leaves_its_lead_to_one_of_those_who_wait(replicas: Replicas) -> None:
    address = f"unix://{replicas.sockets}/k"
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(router_process(replicas, address))
        settings = EdgeSettings(**replicas.found, router_addr=address, flight_lease_s=1)
        url = await edge_of(stack, replicas.composition, settings)
        first = asyncio.create_task(ask(replicas, url))
        await replicas.upstream.wait_until(lambda calls: len(calls) == 1)
        waiting = [asyncio.create_task(ask(replicas, replicas.urls[number % 2])) for number in range(6)]
        process.kill()
        assert (await first).status_code == 503
        await replicas.upstream.wait_until(lambda calls: len(calls) == 2)
        replicas.upstream.release()
        answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len(replicas.upstream.calls) == 2
    assert sorted(answer.headers["x-served-mode"] for answer in answers) == ["exact"] * 5 + ["fresh"]
