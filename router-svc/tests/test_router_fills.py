"""A call that leads identical requests: those who follow it get its stream as it comes, and its end whatever it is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from router_rig import (
    HAPPY_STREAM,
    FakeLedger,
    Rig,
    ScriptedSource,
    catalog_of,
    chunk,
    completion_body,
    json_answer,
    price,
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
    DeadlineExceeded,
    LedgerRefused,
    ModelNotFound,
    RouterError,
    UpstreamFailed,
    UpstreamRejected,
)
from router_svc.service import fill as fill_module
from router_svc.service.pipe import ChunksEvent
from router_svc.service.ports import Attended, CacheTicket, FillBegan, FillLead
from router_svc.service.router import CompletionHandle, Limits

TICKET = CacheTicket(b"a ticket of the cache")
LEAD = FillLead(b"n" * 40, "req_1", 5.0)
LED: dict[str, Any] = {"cache_ticket": TICKET, "fill": LEAD}
FOLLOWED, LIVE = Attended(True, followed=True), Attended(True, followed=True, live=True)


@pytest.fixture(autouse=True)
def _looked_at_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill_module, "LIVE_AFTER_S", 0.0)


def at(source: ScriptedSource) -> Source:
    """One that stops billing when it is cancelled, so that an ordinary call would be."""
    return Source("a", source.base_url, cancel_stops_billing=True)


async def ended(rig: Rig) -> None:
    """The call is over and its flight has one end: with its answer, or without one."""
    await rig.service.aclose(5.0)
    assert len(rig.fills.quits) + len([fill for fill in rig.cache.fills if fill]) == 1
    assert not rig.ledger.open_holds


async def first_chunks(handle: CompletionHandle) -> None:
    async for event in handle.events():
        if isinstance(event, ChunksEvent):
            return


async def test_an_answer_that_is_soon_there_costs_no_call_but_its_store(
    source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_module, "LIVE_AFTER_S", 60.0)
    async with rig_over(catalog_of(at(source))) as rig:
        await rig.complete(**LED)
        await ended(rig)
        ((_, _, answer),) = rig.cache.stored
        assert (rig.cache.fills, rig.fills.asked, rig.fills.published) == ([LEAD], 0, [])
        assert (answer.payloads, len(answer.chunks)) == (3, 4)


async def test_who_joins_a_stream_gets_all_of_it_before_its_end(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    whole = (chunk("Hel"), chunk("lo!"), chunk(finish="stop"))
    source.script = [stream_answer(sse(*whole[:2], done=False), rest, sse(whole[2], usage_chunk()))]
    async with rig_over(catalog_of(at(source))) as rig:
        handle = await rig.begin(**LED)
        await first_chunks(handle)
        await rig.fills.waiting.wait()
        rig.fills.attended = LIVE
        rig.fills.joined.set()
        await rig.fills.heard.wait()
        assert rig.fills.published == [*whole[:2]], "before the end"
        held = sum(rig.ledger.open_holds.values())
        assert rig.fills.began == [FillBegan("a", held, price().replay_bps)]
        rest.set()
        async for _ in handle.events():
            pass
        await ended(rig)
        assert (rig.fills.published, len(rig.fills.began)) == ([*whole], 1)


async def test_what_is_said_while_it_is_published_goes_together(source: ScriptedSource) -> None:
    """And a message has a bound."""
    many, rest = [chunk("x" * 1_000) for _ in range(2_500)], asyncio.Event()
    source.script = [stream_answer(sse(chunk("y"), done=False), rest, sse(*many, chunk(finish="stop"), usage_chunk()))]
    async with rig_over(catalog_of(at(source)), max_answer_bytes=2**24) as rig:
        rig.fills.attended = LIVE
        rig.fills.joined.set()
        asking = asyncio.create_task(rig.complete(**LED))
        await rig.fills.heard.wait()
        rest.set()
        await asking
        await ended(rig)
        assert rig.fills.published == [chunk("y"), *many, chunk(finish="stop")]
        assert rig.fills.messages < 200


async def test_the_leaders_client_may_leave_when_somebody_follows(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one two"), done=False), rest, sse(chunk(finish="stop"), usage_chunk()))]
    async with rig_over(catalog_of(at(source))) as rig:
        rig.fills.attended = FOLLOWED
        handle = await rig.begin(**LED)
        await first_chunks(handle)
        handle.leave()
        await asyncio.sleep(0.05)
        rest.set()
        await ended(rig)
        assert rig.cache.fills == [LEAD]
        assert rig.ledger.settled["req_1"][0].outcome is Outcome.COMPLETE


async def test_where_nobody_follows_the_source_is_cancelled_as_ever(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(at(source))) as rig:
        handle = await rig.begin(**LED)
        await first_chunks(handle)
        handle.leave()
        await rig.ledger.done.wait()
        await ended(rig)
        assert (len(rig.fills.quits), rig.cache.stored) == (1, [])
        assert rig.ledger.settled["req_1"][0].outcome is Outcome.CLIENT_GONE


@pytest.mark.parametrize("followed", [True, False])
async def test_a_plain_answer_is_waited_for_where_somebody_follows(source: ScriptedSource, followed: bool) -> None:
    reached, answer = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        reached.set()
        await answer.wait()
        return web.Response(body=completion_body(usage=usage_block()), content_type="application/json")

    source.script = [late]
    async with rig_over(catalog_of(at(source))) as rig:
        rig.fills.attended = Attended(True, followed=followed)
        handle = await rig.begin(stream=False, **LED)
        await reached.wait()
        handle.leave()
        if not followed:
            await rig.ledger.done.wait()
        answer.set()
        await ended(rig)
        assert (len(rig.cache.stored), len(rig.fills.quits)) == ((1, 0) if followed else (0, 1))


async def test_a_client_that_stalls_hurts_no_follower(source: ScriptedSource) -> None:
    more, rest = asyncio.Event(), asyncio.Event()
    many = [chunk("x" * 2_000) for _ in range(10)]
    some, others = sse(*many, done=False), sse(*many, done=False)
    source.script = [stream_answer(some, more, others, rest, sse(chunk(finish="stop"), usage_chunk()))]
    async with rig_over(
        catalog_of(at(source)), limits=Limits(client_queue_bytes=1_000, client_stall_s=0.02, settle_patience_s=5.0)
    ) as rig:
        rig.fills.attended = LIVE
        rig.fills.joined.set()
        handle = await rig.begin(**LED)
        asyncio.get_running_loop().call_later(0.05, more.set)  # read by itself, when the first has filled the queue
        with pytest.raises(ClientStalled):
            while True:
                await asyncio.sleep(0.15)
                await first_chunks(handle)
        rest.set()
        await ended(rig)
        assert (rig.cache.fills, len(rig.fills.published)) == ([LEAD], 21)


@pytest.mark.parametrize("status", [500, 400])
async def test_a_source_that_fails_ends_the_lead_without_an_answer(source: ScriptedSource, status: int) -> None:
    """A refusal is the leader's own: what a source said of its request is told nobody else."""
    source.script = [json_answer(b'{"error": {"message": "secret prompt"}}', status=status)]
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(UpstreamFailed if status == 500 else UpstreamRejected):
            await rig.complete(**LED)
        await ended(rig)
        (told,) = rig.fills.quits
        assert isinstance(told, UpstreamFailed)
        assert "secret" not in str(told)


async def test_a_stream_that_breaks_off_does_so_for_all(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), cut=True)]
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(UpstreamFailed) as caught:
            await rig.complete(**LED)
        await ended(rig)
        assert (rig.fills.quits, rig.cache.stored) == ([caught.value], [])


async def test_a_deadline_is_told_as_one(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(at(source)), limits=Limits(request_timeout_s=0.1, settle_patience_s=5.0)) as rig:
        with pytest.raises(DeadlineExceeded):
            await rig.complete(**LED)
        await ended(rig)
        assert isinstance(rig.fills.quits[0], DeadlineExceeded)


async def test_a_refusal_of_the_ledger_is_nobody_elses(source: ScriptedSource) -> None:
    ledger = FakeLedger(refusal=LedgerRefused(RuntimeError("insufficient balance")))
    async with rig_over(catalog_of(at(source)), ledger=ledger) as rig:
        with pytest.raises(LedgerRefused):
            await rig.complete(**LED)
        await ended(rig)
        assert "balance" not in str(rig.fills.quits[0])


async def test_a_call_that_can_not_begin_ends_its_lead(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        with pytest.raises(ModelNotFound):
            await rig.complete(model="unknown", **LED)
        await ended(rig)


async def test_an_answer_whose_usage_is_estimated_is_told_to_who_waits(source: ScriptedSource) -> None:
    """The cache keeps none, and says so to them."""
    source.script = [json_answer(completion_body())]
    async with rig_over(catalog_of(at(source))) as rig:
        await rig.complete(stream=False, **LED)
        await ended(rig)
        assert rig.cache.fills == [LEAD]


async def test_a_cache_that_is_away_delays_nobody(source: ScriptedSource) -> None:
    source.script = [stream_answer(HAPPY_STREAM)]
    async with rig_over(catalog_of(at(source))) as rig:
        rig.cache.failure = CacheUnavailable("away")
        rig.fills.away = True
        events = await rig.complete(**LED)
        assert len(events) > 2
        await rig.service.aclose(5.0)
        rig.fills.away = False
        assert rig.fills.quits == [], "the lease lapses"


async def test_a_store_that_fails_is_told_to_who_waits(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(at(source))) as rig:
        rig.cache.failure = CacheUnavailable("away")
        await rig.complete(**LED)
        await ended(rig)
        assert len(rig.fills.quits) == 1


async def test_a_lease_is_renewed_as_long_as_the_call_runs(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(rest, HAPPY_STREAM)]
    short = FillLead(LEAD.name, LEAD.token, 0.01)
    async with rig_over(catalog_of(at(source)), limits=Limits(flight_lease_s=0.03, settle_patience_s=5.0)) as rig:
        asking = asyncio.create_task(rig.complete(cache_ticket=TICKET, fill=short))
        while rig.fills.asked < 3:  # noqa: ASYNC110 - seen by asking
            await asyncio.sleep(0.005)
        rest.set()
        rig.fills.joined.set()
        await asking
        await ended(rig)


async def test_a_source_that_thinks_for_long_is_followed_live_at_once(source: ScriptedSource) -> None:
    """Though the lease was renewed before its first word, and is not due for long."""
    first, rest = asyncio.Event(), asyncio.Event()
    source.script = [stream_answer(first, sse(chunk("one"), done=False), rest, HAPPY_STREAM)]
    thinking = FillLead(LEAD.name, LEAD.token, 0.01)
    async with rig_over(catalog_of(at(source)), limits=Limits(flight_lease_s=600, settle_patience_s=5.0)) as rig:
        asking = asyncio.create_task(rig.complete(cache_ticket=TICKET, fill=thinking))
        while not rig.fills.asked:  # noqa: ASYNC110 - seen by asking
            await asyncio.sleep(0.005)
        rig.fills.attended = LIVE
        rig.fills.joined.set()
        first.set()
        async with asyncio.timeout(5):
            await rig.fills.heard.wait()
        rest.set()
        await asking
        await ended(rig)


async def test_who_leads_no_longer_publishes_no_more(source: ScriptedSource) -> None:
    rest = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one"), done=False), rest, sse(chunk(finish="stop"), usage_chunk()))]
    async with rig_over(catalog_of(at(source))) as rig:
        rig.fills.attended = Attended(leads=False)
        rig.fills.joined.set()
        handle = await rig.begin(**LED)
        await first_chunks(handle)
        await rig.fills.waiting.wait()
        rest.set()
        with suppress(RouterError):
            async for _ in handle.events():
                pass
        await ended(rig)
        assert rig.fills.published == []
