"""A call that leads a flight: answered whoever goes, landed with what was charged, abandoned with what is known."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from router_rig import (
    FakeLedger,
    Rig,
    ScriptedSource,
    catalog_of,
    chunk,
    completion_body,
    json_answer,
    rig_over,
    sse,
    stream_answer,
    usage_block,
    usage_chunk,
)

from router_svc.domain.answer import Outcome
from router_svc.domain.catalog import Source
from router_svc.domain.errors import (
    CacheUnavailable,
    ClientStalled,
    DuplicateRequest,
    FlightLost,
    HoldClosed,
    LedgerRefused,
    ModelNotFound,
    UpstreamFailed,
)
from router_svc.service.pipe import ChunksEvent, FinalEvent
from router_svc.service.ports import Ending, FlightPass, Landing
from router_svc.service.router import CompletionHandle, Limits

FLIGHT = FlightPass(b"n" * 32, "flt_1", 0, b"b" * 32)
WHOLE = (chunk("Hel"), chunk("lo!"), chunk(finish="stop"))


def at(source: ScriptedSource) -> Source:
    """One that stops billing when it is cancelled, so that an ordinary call would be."""
    return Source("a", source.base_url, cancel_stops_billing=True)


async def ended(rig: Rig) -> None:
    """The call is over and its flight has one end."""
    await rig.service.aclose(5.0)
    assert len(rig.flights.landings) + len(rig.flights.endings) == 1, (rig.flights.landings, rig.flights.endings)
    assert not rig.ledger.open_holds


async def test_a_stream_lands_as_it_was_handed_on(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        await rig.complete(flight=FLIGHT, trace_id="t" * 32)
        await ended(rig)
    (landing,) = rig.flights.landings
    assert tuple(landing.chunks) == WHOLE
    assert (landing.usage_chunk, landing.body, landing.broken_off) == (usage_chunk(), b"", None)
    assert (landing.request_id, landing.receipt_id, landing.charged_nano_usd) == ("req_1", "rcpt_req_1", 42)
    assert landing.trace_id == "t" * 32
    assert landing.usage == rig.ledger.settled["req_1"][0].usage


async def test_a_plain_answer_lands_as_its_bytes(source: ScriptedSource) -> None:
    body = completion_body(usage=usage_block())
    source.script = [json_answer(body)]
    async with rig_over(catalog_of(at(source))) as rig:
        await rig.complete(flight=FLIGHT, stream=False)
        await ended(rig)
    (landing,) = rig.flights.landings
    assert (landing.body, tuple(landing.chunks)) == (body, ())


async def test_it_has_landed_before_the_last_event(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source)), limits=Limits(store_wait_s=30)) as rig:
        handle = await rig.begin(flight=FLIGHT)
        async for event in handle.events():
            if isinstance(event, FinalEvent):
                assert rig.flights.landings


async def test_whoever_leaves_finds_the_whole_answer_later(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(WHOLE[0], done=False), rest, sse(*WHOLE[1:], usage_chunk()))]
    async with rig_over(catalog_of(at(source))) as rig:
        handle = await rig.begin(flight=FLIGHT)
        async for event in handle.events():
            if isinstance(event, ChunksEvent):
                handle.leave()
        rest.set()
        await ended(rig)
    facts, _ = rig.ledger.settled["req_1"]
    assert facts.outcome is Outcome.COMPLETE, "it is ready to be delivered"
    assert tuple(rig.flights.landings[0].chunks) == WHOLE


async def test_leaving_before_the_answer_calls_the_source_all_the_same(source: ScriptedSource) -> None:
    ledger = FakeLedger(reserving=asyncio.Event())
    assert ledger.reserving is not None
    async with rig_over(catalog_of(at(source)), ledger=ledger) as rig:
        (await rig.begin(flight=FLIGHT)).leave()
        ledger.reserving.set()
        await ended(rig)
    assert tuple(rig.flights.landings[0].chunks) == WHOLE


async def test_what_nobody_reads_is_taken_for_later(source: ScriptedSource) -> None:
    words = [chunk("word " * 40_000) for _ in range(5)]  # so much that it takes several reads
    source.script = [stream_answer(sse(*words, chunk(finish="stop")))]
    limits = Limits(client_stall_s=0.01, client_queue_bytes=1)
    async with rig_over(catalog_of(at(source)), limits=limits, max_answer_bytes=2**24) as rig:
        handle = await rig.begin(flight=FLIGHT)
        await asyncio.wait(rig.service._tasks)
        with pytest.raises(ClientStalled):
            _ = [event async for event in handle.events()]
        await ended(rig)
    assert len(rig.flights.landings[0].chunks) == 6
    assert rig.ledger.settled["req_1"][0].usage.output_tokens == 1_000  # an estimate is never above what was held


async def test_a_part_that_was_charged_lands_with_its_error(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one"), usage_chunk(), done=False), cut=True)]
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(UpstreamFailed) as failed:
            await rig.complete(flight=FLIGHT)
        await ended(rig)
    (landing,) = rig.flights.landings
    assert landing.broken_off is failed.value
    assert landing.receipt_id == failed.value.metadata["receipt_id"] == "rcpt_req_1"
    assert tuple(landing.chunks) == (chunk("one"),)


async def test_a_failure_that_cost_nothing_ends_the_run(source: ScriptedSource) -> None:
    source.script = [json_answer(b"{}", status=500)]
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete(flight=FLIGHT)
        await ended(rig)
    assert rig.flights.endings == [Ending.RELEASED]


async def test_a_failure_whose_hold_may_stand_keeps_the_run(source: ScriptedSource) -> None:
    source.script = [json_answer(b"{}", status=500)]
    ledger = FakeLedger(away={"release": 100})
    async with rig_over(catalog_of(at(source)), ledger=ledger, limits=Limits(settle_patience_s=0.01)) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete(flight=FLIGHT)
        await rig.service.aclose(5.0)
    assert rig.flights.endings == [Ending.UNKNOWN]


async def test_a_settlement_of_which_nobody_heard_keeps_the_run(source: ScriptedSource) -> None:
    ledger = FakeLedger(away={"settle": 100})
    async with rig_over(catalog_of(at(source)), ledger=ledger, limits=Limits(settle_patience_s=0.01)) as rig:
        with pytest.raises(Exception, match="away"):
            await rig.complete(flight=FLIGHT)
        await rig.service.aclose(5.0)
    assert rig.flights.endings == [Ending.UNKNOWN], "it may have been charged"


async def test_a_refusal_of_the_ledger_held_nothing(source: ScriptedSource) -> None:
    ledger = FakeLedger(refusal=LedgerRefused(RuntimeError("insufficient balance")))
    async with rig_over(catalog_of(at(source)), ledger=ledger) as rig:
        with pytest.raises(LedgerRefused):
            await rig.complete(flight=FLIGHT)
        await ended(rig)
    assert rig.flights.endings == [Ending.NOTHING_HELD]
    assert source.calls == 0


def closed(state: str) -> FakeLedger:
    """A ledger that has had the hold of this request."""
    return FakeLedger(refusal=HoldClosed(RuntimeError("closed"), state=state, receipt_id="rcpt_before"))


async def test_a_run_that_was_charged_before_lands_with_its_receipt_and_calls_nobody(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source)), ledger=closed("settled")) as rig:
        with pytest.raises(HoldClosed):
            await rig.complete(flight=FLIGHT)
        await ended(rig)
    assert rig.flights.landings == [Landing("req_1", "rcpt_before", answer_gone=True)]
    assert source.calls == 0


async def test_a_run_that_was_released_before_is_over(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source)), ledger=closed("released")) as rig:
        with pytest.raises(HoldClosed):
            await rig.complete(flight=FLIGHT)
        await ended(rig)
    assert rig.flights.endings == [Ending.RELEASED]
    assert source.calls == 0


@pytest.mark.parametrize(("settled_late", "ending"), [(False, Ending.RELEASED), (True, Ending.UNKNOWN)])
async def test_an_expired_run_is_over_once_it_can_be_settled_no_more(
    source: ScriptedSource, settled_late: bool, ending: Ending
) -> None:
    ledger = closed("expired")
    if not settled_late:
        ledger.open_holds["req_1"] = 1  # as far as Release is concerned
    async with rig_over(catalog_of(at(source)), ledger=ledger) as rig:
        with pytest.raises(HoldClosed):
            await rig.complete(flight=FLIGHT)
        await rig.service.aclose(5.0)
    assert rig.flights.endings == [ending]
    assert ("release", "req_1") in ledger.log
    assert source.calls == 0


async def test_whoever_leads_no_longer_begins_nothing(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        rig.flights.leads = False
        with pytest.raises(FlightLost):
            await rig.begin(flight=FLIGHT)
        rig.flights.away["renew"] = 1
        with pytest.raises(CacheUnavailable):
            await rig.begin(flight=FLIGHT)
    assert (rig.ledger.log, rig.flights.endings, source.calls) == ([], [], 0)


async def test_a_request_that_is_refused_outright_abandons_at_once(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(ModelNotFound):
            await rig.begin(flight=FLIGHT, model="unknown")
        await ended(rig)
    assert rig.flights.endings == [Ending.NOTHING_HELD]


async def test_a_request_that_runs_here_already_does_not_run_twice(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(WHOLE[0], done=False), rest, sse(*WHOLE[1:], usage_chunk()))]
    async with rig_over(catalog_of(at(source))) as rig:
        first = await rig.begin(flight=FLIGHT)
        with pytest.raises(DuplicateRequest):
            await rig.begin(flight=replace(FLIGHT, token="flt_2"))
        rest.set()
        assert isinstance([event async for event in first.events()][-1], FinalEvent)
    assert rig.flights.endings == [Ending.UNKNOWN]
    assert (source.calls, len(rig.flights.landings)) == (1, 1)


async def test_whoever_is_told_that_nothing_was_held_may_begin_the_same_request_at_once(
    source: ScriptedSource,
) -> None:
    ledger = FakeLedger(refusal=LedgerRefused(RuntimeError("insufficient balance")))
    async with rig_over(catalog_of(at(source)), ledger=ledger) as rig:
        begun: list[CompletionHandle] = []

        async def begin_again(ticket: FlightPass, ending: Ending) -> None:
            if not begun:
                ledger.refusal = None
                begun.append(await rig.begin(flight=replace(FLIGHT, token="flt_2")))

        rig.flights.abandon = begin_again  # type: ignore[method-assign]
        with pytest.raises(LedgerRefused):
            await rig.complete(flight=FLIGHT)
        await asyncio.wait(rig.service._tasks)
        assert isinstance([event async for event in begun[0].events()][-1], FinalEvent)


async def test_the_lease_is_renewed_while_the_call_runs_and_not_after(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(WHOLE[0], done=False), rest, sse(*WHOLE[1:], usage_chunk()))]
    async with rig_over(catalog_of(at(source)), limits=Limits(flight_lease_s=0.03)) as rig:
        handle = await rig.begin(flight=FLIGHT)
        async with asyncio.timeout(10):
            while rig.flights.renewed < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        rig.flights.away["renew"] = 1  # one that fails is not the last
        rest.set()
        _ = [event async for event in handle.events()]
        await ended(rig)
        keepers = [task for task in asyncio.all_tasks() if task.get_name() == "keep a flight's lease"]
        await asyncio.gather(*keepers, return_exceptions=True)


async def test_a_landing_is_tried_again_while_the_cache_is_away(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        rig.flights.away["land"] = 2
        events = await rig.complete(flight=FLIGHT)
        await ended(rig)
    assert isinstance(events[-1], FinalEvent)
    assert len(rig.flights.landings) == 1


async def test_a_landing_that_can_not_be_told_is_given_up_and_the_answer_delivered(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source)), limits=Limits(flight_patience_s=0.1)) as rig:
        rig.flights.away["land"] = 1_000
        events = await rig.complete(flight=FLIGHT)
        await rig.service.aclose(5.0)
    assert isinstance(events[-1], FinalEvent)
    assert (rig.flights.landings, rig.flights.endings) == ([], []), "its lease lapses; it was charged"


async def test_an_ordinary_call_has_no_flight(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        await rig.complete()
    assert (rig.flights.renewed, rig.flights.landings, rig.flights.endings) == (0, [], [])
