"""`Idempotency-Key` over two edges, two routers and two cache services that share Redis and a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from edge.settings import EdgeSettings
from tests.e2e.replicas import Replicas, edge_of, router_process, running_replicas
from tests.harness.background import BackgroundLoop
from tests.upstream.server import ScriptedUpstream


@pytest.fixture
async def replicas(background: BackgroundLoop, upstream_server: ScriptedUpstream) -> AsyncIterator[Replicas]:
    async with running_replicas(background, upstream_server) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_two_edges_and_routers_make_one_call_one_charge_and_one_answer(replicas: Replicas, stream: bool) -> None:
    asked = [asyncio.create_task(replicas.ask(number % 2, "shared", stream=stream)) for number in range(8)]
    await replicas.upstream.wait_until(bool)
    replicas.upstream.release()
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(replicas.upstream.calls) == 1
    (receipt_id,) = await replicas.receipt_ids()
    for number in (0, 1):
        later = await replicas.ask(number, "shared", stream=stream)
        assert (later.headers["idempotent-replayed"], later.headers["x-receipt-id"]) == ("true", receipt_id)


async def test_another_body_is_a_409_at_the_other_edge_while_the_first_runs(replicas: Replicas) -> None:
    first = asyncio.create_task(replicas.ask(0, "changed"))
    await replicas.upstream.wait_until(bool)
    other = await replicas.ask(1, "changed", max_tokens=3)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    replicas.upstream.release()
    assert (await first).status_code == 200
    assert len(await replicas.receipt_ids()) == 1


async def test_a_record_lost_while_its_request_runs_makes_no_second_charge(replicas: Replicas) -> None:
    """Then two lead and two call. The ledger knows both by the same request id."""
    first = asyncio.create_task(replicas.ask(0, "lost"))
    await replicas.upstream.wait_until(lambda calls: len(calls) == 1)
    await replicas.redis.flushall()
    second = asyncio.create_task(replicas.ask(1, "lost"))
    await replicas.upstream.wait_until(lambda calls: len(calls) == 2)
    replicas.upstream.release()
    answers = [await first, await second]
    (receipt_id,) = await replicas.receipt_ids()
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (served,) = (answer for answer in answers if answer.status_code == 200)
    assert served.headers["x-receipt-id"] == receipt_id
    for number in (0, 1):
        later = await replicas.ask(number, "lost")
        assert (later.content, later.headers["x-receipt-id"]) == (served.content, receipt_id)
    assert len(replicas.upstream.calls) == 2


async def test_a_record_lost_after_its_answer_leaves_the_receipt(replicas: Replicas) -> None:
    replicas.upstream.release()
    first = await replicas.ask(0, "forgotten")
    await replicas.redis.flushall()
    for number in (1, 0):
        later = await replicas.ask(number, "forgotten")
        assert (later.status_code, later.json()["error"]["code"]) == (409, "idempotent_answer_gone")
        assert later.headers["x-receipt-id"] == first.headers["x-receipt-id"]
    assert len(replicas.upstream.calls) == 1
    assert await replicas.receipt_ids() == [first.headers["x-receipt-id"]]


async def test_a_router_that_is_killed_in_its_middle_leaves_one_call_to_pay(replicas: Replicas) -> None:
    """The retry waits for the dead one's lease, and goes on under its hold."""
    address = f"unix://{replicas.sockets}/k"
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(router_process(replicas, address))
        url = await edge_of(stack, replicas.composition, EdgeSettings(**replicas.found, router_addr=address))
        first = asyncio.create_task(replicas.ask_at(url, "killed"))
        await replicas.upstream.wait_until(lambda calls: len(calls) == 1)
        process.kill()
        assert (await first).status_code == 503
        replicas.upstream.release()
        retry = await replicas.ask(1, "killed")
        assert (retry.status_code, "idempotent-replayed" in retry.headers) == (200, False)
        assert len(replicas.upstream.calls) == 2
        assert await replicas.receipt_ids() == [retry.headers["x-receipt-id"]]
