"""A client that leaves, at each stage of a call: one end in the ledger, and the source's billing in mind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from router_rig import (
    HAPPY_STREAM,
    MODEL,
    FakeLedger,
    Rig,
    ScriptedSource,
    catalog_of,
    chunk,
    completion_body,
    hang,
    json_answer,
    rig_over,
    sse,
    stream_answer,
    usage_block,
    usage_chunk,
)

from meshkit.money import Provenance, Usage
from router_svc.domain.answer import Outcome
from router_svc.domain.catalog import Capabilities, Source
from router_svc.domain.errors import ClientStalled, UpstreamFailed
from router_svc.service.pipe import ChunksEvent
from router_svc.service.ports import CacheTicket
from router_svc.service.router import Limits
from router_svc.sources.openai import OpenAITimeouts

TICKET = CacheTicket(b"a ticket of the cache")
USED = Usage(input_tokens=10, output_tokens=2, calls=1, provenance=Provenance.PROVIDER)


def cancels(served: ScriptedSource) -> Source:
    return Source("a", served.base_url, cancel_stops_billing=True)


def bills_on(served: ScriptedSource) -> Source:
    return Source("a", served.base_url, cancel_stops_billing=False)


async def ended(rig: Rig) -> None:
    """The call is over, and the ledger was told exactly once."""
    async with asyncio.timeout(10):
        await rig.ledger.done.wait()
    await rig.service.aclose(5.0)
    ends = [name for name, _ in rig.ledger.log if name in {"settle", "release"}]
    assert len(ends) == 1, rig.ledger.log
    assert not rig.ledger.open_holds


async def leave_after_first_chunks(rig: Rig, **fields: object) -> None:
    handle = await rig.begin(**fields)  # type: ignore[arg-type]
    async for event in handle.events():
        if isinstance(event, ChunksEvent):
            handle.leave()


async def test_leaving_while_the_hold_is_made_releases_it_and_calls_nobody(source: ScriptedSource) -> None:
    ledger = FakeLedger(reserving=asyncio.Event())
    assert ledger.reserving is not None
    async with rig_over(catalog_of(cancels(source)), ledger=ledger) as rig:
        handle = await rig.begin()
        await asyncio.sleep(0)
        handle.leave()
        ledger.reserving.set()
        await ended(rig)
    assert list(ledger.released) == ["req_1"]
    assert source.calls == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_source_answers_cancels_and_releases(source: ScriptedSource, stream: bool) -> None:
    reached = asyncio.Event()

    async def reach(request: web.Request) -> web.StreamResponse:
        reached.set()
        return await hang(request)

    source.script = [reach]
    async with rig_over(catalog_of(cancels(source))) as rig:
        handle = await rig.begin(stream=stream)
        await reached.wait()
        handle.leave()
        await ended(rig)
    assert list(rig.ledger.released) == ["req_1"]
    assert rig.ledger.released["req_1"][1][0].failure == "client_gone"


async def test_leaving_in_the_middle_closes_the_source_and_settles_what_was_delivered(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(cancels(source))) as rig:
        await leave_after_first_chunks(rig, cache_ticket=TICKET)
        await ended(rig)
    facts, attempts = rig.ledger.settled["req_1"]
    assert facts.outcome is Outcome.CLIENT_GONE
    assert (facts.usage.output_tokens, facts.usage.provenance) == (2, Provenance.ESTIMATED)
    assert [(a.won, a.failure) for a in attempts] == [(True, "")]
    assert rig.cache.stored == []


async def test_a_model_that_thinks_unseen_is_read_to_its_usage_though_its_client_has_gone(
    source: ScriptedSource,
) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one two"), done=False), rest, sse(chunk(finish="stop"), usage_chunk()))]
    thinker = replace(MODEL, capabilities=Capabilities(reasoning=True))
    async with rig_over(catalog_of(cancels(source), model=thinker)) as rig:
        await leave_after_first_chunks(rig)
        rest.set()
        await ended(rig)
    assert rig.ledger.settled["req_1"][0].usage == USED


async def test_a_plain_answer_is_waited_for_longer_than_a_stream_is_drained(source: ScriptedSource) -> None:
    reached, answer = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        reached.set()
        await answer.wait()
        return web.Response(body=completion_body(usage=usage_block()), content_type="application/json")

    source.script = [late]
    async with rig_over(catalog_of(bills_on(source)), limits=Limits(drain_max_s=0.01)) as rig:
        handle = await rig.begin(stream=False)
        await reached.wait()
        handle.leave()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rig.ledger.done.wait(), 0.1)
        answer.set()
        await ended(rig)
    assert rig.ledger.settled["req_1"][0].usage == USED


async def test_leaving_a_source_that_has_begun_without_a_word_is_charged_for_the_prompt(source: ScriptedSource) -> None:
    role = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'
    source.script = [stream_answer(sse(role, done=False), asyncio.Event())]
    async with rig_over(catalog_of(cancels(source))) as rig:
        await leave_after_first_chunks(rig)
        await ended(rig)
    usage = rig.ledger.settled["req_1"][0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.provenance) == (12, 0, Provenance.ESTIMATED)


async def test_leaving_in_the_middle_drains_where_cancelling_would_not_help(source: ScriptedSource) -> None:
    gate = asyncio.Event()
    rest = sse(chunk(" three", finish="stop"), usage_chunk())
    source.script = [stream_answer(sse(chunk("one two"), done=False), gate, rest)]
    async with rig_over(catalog_of(bills_on(source))) as rig:
        await leave_after_first_chunks(rig, cache_ticket=TICKET)
        gate.set()
        await ended(rig)
    facts, _ = rig.ledger.settled["req_1"]
    assert (facts.outcome, facts.usage) == (Outcome.CLIENT_GONE, USED)
    ((_, _, answer),) = rig.cache.stored
    assert answer.chunks == (chunk("one two"), chunk(" three", finish="stop"), usage_chunk())


async def test_draining_takes_no_longer_than_allowed(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(bills_on(source)), limits=Limits(drain_max_s=0.1)) as rig:
        await leave_after_first_chunks(rig)
        await ended(rig)
    facts, _ = rig.ledger.settled["req_1"]
    assert (facts.outcome, facts.usage.output_tokens) == (Outcome.CLIENT_GONE, 2)


async def test_draining_takes_no_more_than_allowed_and_charges_only_what_was_delivered(
    source: ScriptedSource,
) -> None:
    gate = asyncio.Event()
    flood = [sse(chunk("word " * 100), done=False) for _ in range(50)]
    source.script = [stream_answer(sse(chunk("one two"), done=False), gate, *flood, asyncio.Event())]
    async with rig_over(catalog_of(bills_on(source)), limits=Limits(drain_max_bytes=5_000)) as rig:
        await leave_after_first_chunks(rig)
        gate.set()
        await ended(rig)
    assert rig.ledger.settled["req_1"][0].usage.output_tokens == 2


async def test_a_plain_answer_is_drained_and_charged_by_its_usage(source: ScriptedSource) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        reached.set()
        await gate.wait()
        return await json_answer(completion_body(usage=usage_block()))(request)

    source.script = [slow]
    async with rig_over(catalog_of(bills_on(source))) as rig:
        handle = await rig.begin(stream=False)
        await reached.wait()
        handle.leave()
        gate.set()
        await ended(rig)
    facts, _ = rig.ledger.settled["req_1"]
    assert (facts.outcome, facts.usage) == (Outcome.CLIENT_GONE, USED)


async def test_leaving_during_settlement_changes_nothing(source: ScriptedSource) -> None:
    ledger = FakeLedger(settling=asyncio.Event())
    assert ledger.settling is not None
    async with rig_over(catalog_of(cancels(source)), ledger=ledger) as rig:
        handle = await rig.begin()
        events = handle.events()
        await anext(events)
        await anext(events)
        handle.leave()
        ledger.settling.set()
        await ended(rig)
    assert list(ledger.settled) == ["req_1"]


async def test_a_client_that_leaves_gets_no_second_source(source: ScriptedSource, second: ScriptedSource) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def fail_late(request: web.Request) -> web.StreamResponse:
        reached.set()
        await gate.wait()
        return web.Response(status=500)

    source.script = [fail_late]
    async with rig_over(catalog_of(bills_on(source), Source("b", second.base_url))) as rig:
        handle = await rig.begin()
        await reached.wait()
        handle.leave()
        gate.set()
        await ended(rig)
    assert second.calls == 0
    assert list(rig.ledger.released) == ["req_1"]


async def test_a_client_that_stops_reading_slows_the_source_then_counts_as_gone(source: ScriptedSource) -> None:
    flood = [sse(chunk("x" * 10_000), done=False) for _ in range(2_000)]
    source.script = [stream_answer(*flood, HAPPY_STREAM)]
    limits = Limits(client_stall_s=0.2, client_queue_bytes=50_000)
    async with rig_over(catalog_of(cancels(source)), limits=limits) as rig:
        handle = await rig.begin()
        await ended(rig)
        with pytest.raises(ClientStalled):
            async for _ in handle.events():
                pass
    facts, _ = rig.ledger.settled["req_1"]
    assert facts.outcome is Outcome.CLIENT_GONE
    assert 0 < facts.usage.output_tokens < 100, "what was delivered fits the queue"


async def test_a_slow_reader_gets_everything(source: ScriptedSource) -> None:
    texts = [chunk(f"{number} " + "x" * 2_000) for number in range(200)]
    source.script = [stream_answer(*(sse(text, done=False) for text in texts), HAPPY_STREAM)]
    async with rig_over(catalog_of(cancels(source)), limits=Limits(client_queue_bytes=10_000)) as rig:
        got: list[bytes] = []
        async for event in (await rig.begin()).events():
            await asyncio.sleep(0.001)
            if isinstance(event, ChunksEvent):
                got.extend(event.payloads)
    assert got[:200] == texts


async def test_shutdown_waits_for_calls_under_way(source: ScriptedSource) -> None:
    gate = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one"), done=False), gate, HAPPY_STREAM)]
    async with rig_over(catalog_of(cancels(source))) as rig:
        events = (await rig.begin()).events()
        await anext(events)
        closing = asyncio.create_task(rig.service.aclose(5.0))
        await asyncio.sleep(0)
        gate.set()
        await closing
        assert list(rig.ledger.settled) == ["req_1"]
        assert rig.ledger.settled["req_1"][0].outcome is Outcome.COMPLETE


async def test_shutdown_breaks_off_what_takes_too_long_and_settles_it(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(bills_on(source))) as rig:
        events = (await rig.begin()).events()
        await anext(events)
        await anext(events)
        await rig.service.aclose(0.05)
        facts, _ = rig.ledger.settled["req_1"]
        assert (facts.outcome, facts.usage.output_tokens) == (Outcome.INTERRUPTED, 2)
        with pytest.raises(UpstreamFailed, match="the router is stopping"):
            await anext(events)


async def test_shutdown_while_draining_settles(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(bills_on(source))) as rig:
        await leave_after_first_chunks(rig)
        await rig.service.aclose(0.05)
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.CLIENT_GONE


async def test_shutdown_while_the_hold_is_made_calls_nobody(source: ScriptedSource) -> None:
    ledger = FakeLedger(reserving=asyncio.Event())
    assert ledger.reserving is not None
    async with rig_over(catalog_of(bills_on(source)), ledger=ledger) as rig:
        handle = await rig.begin()
        closing = asyncio.create_task(rig.service.aclose(0.05))
        await asyncio.sleep(0.1)
        ledger.reserving.set()
        await closing
        with pytest.raises(UpstreamFailed, match="stopped"):
            await anext(handle.events())
    assert list(ledger.released) == ["req_1"]
    assert source.calls == 0


async def test_no_second_source_is_tried_during_shutdown(source: ScriptedSource, second: ScriptedSource) -> None:
    source.script = [hang]
    async with rig_over(catalog_of(bills_on(source), Source("b", second.base_url))) as rig:
        await rig.begin()
        await source.called.wait()
        await rig.service.aclose(0.05)
    assert second.calls == 0
    assert list(rig.ledger.released) == ["req_1"]


async def test_shutdown_before_the_source_answers_releases(source: ScriptedSource) -> None:
    source.script = [hang]
    async with rig_over(catalog_of(bills_on(source)), timeouts=OpenAITimeouts(first_byte_s=30)) as rig:
        handle = await rig.begin()
        await rig.service.aclose(0.05)
        with pytest.raises(UpstreamFailed):
            await anext(handle.events())
    assert list(rig.ledger.released) == ["req_1"]
