"""A fresh call at its limits: a ledger that refuses or is away, deadlines, sizes, and how many calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from router_rig import (
    HAPPY_STREAM,
    FakeLedger,
    ScriptedSource,
    catalog_of,
    chunk,
    completion_body,
    hang,
    json_answer,
    rig_over,
    sse,
    stream_answer,
)

from meshkit.money import Provenance, Usage
from router_svc.domain.answer import Attempt, Outcome
from router_svc.domain.catalog import Source
from router_svc.domain.errors import (
    DeadlineExceeded,
    DuplicateRequest,
    LedgerRefused,
    LedgerUnavailable,
    RouterBusy,
    UpstreamFailed,
)
from router_svc.service.pipe import ChunksEvent, FinalEvent, RouteEvent
from router_svc.service.ports import CacheTicket, Charge, SettleFacts
from router_svc.service.router import Limits

TICKET = CacheTicket(b"a ticket of the cache")
USED = Usage(input_tokens=10, output_tokens=2, calls=1, provenance=Provenance.PROVIDER)


def source_at(served: ScriptedSource, source_id: str = "a", **fields: object) -> Source:
    return Source(source_id, served.base_url, **fields)  # type: ignore[arg-type]


def payloads_of(events: Sequence[object]) -> list[bytes]:
    return [payload for event in events if isinstance(event, ChunksEvent) for payload in event.payloads]


def assert_one_end(ledger: FakeLedger) -> None:
    ends = [name for name, _ in ledger.log if name in {"settle", "release"}]
    assert len(ends) == 1, ledger.log
    assert not ledger.open_holds


async def test_a_refused_hold_calls_nobody(source: ScriptedSource) -> None:
    refusal = LedgerRefused(RuntimeError("INSUFFICIENT_BALANCE"))
    async with rig_over(catalog_of(source_at(source)), ledger=FakeLedger(refusal=refusal)) as rig:
        with pytest.raises(LedgerRefused):
            await rig.complete()
    assert source.calls == 0
    assert rig.ledger.log == []


async def test_a_lost_answer_to_reserve_is_released(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source)), ledger=FakeLedger(away={"reserve": 99})) as rig:
        with pytest.raises(LedgerUnavailable):
            await rig.complete()
    assert rig.ledger.log[-1] == ("release", "req_1")
    assert source.calls == 0


async def test_a_settlement_is_tried_again_until_it_stands(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source)), ledger=FakeLedger(away={"reserve": 1, "settle": 3})) as rig:
        events = await rig.complete()
    assert isinstance(events[-1], FinalEvent)
    assert_one_end(rig.ledger)


async def test_a_settlement_that_is_refused_leaves_no_hold(source: ScriptedSource) -> None:
    class Refusing(FakeLedger):
        async def settle(self, org_id: str, request_id: str, facts: SettleFacts, attempts: Sequence[Attempt]) -> Charge:
            raise LedgerRefused(RuntimeError("no"))

    async with rig_over(catalog_of(source_at(source)), ledger=Refusing()) as rig:
        with pytest.raises(LedgerRefused):
            await rig.complete()
    assert rig.ledger.open_holds == {}


async def test_a_release_is_tried_again_until_it_stands(source: ScriptedSource) -> None:
    source.script = [json_answer(b"{}", 500)]
    async with rig_over(catalog_of(source_at(source)), ledger=FakeLedger(away={"release": 3})) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete()
    assert_one_end(rig.ledger)


async def test_without_a_settlement_there_is_no_last_event(source: ScriptedSource) -> None:
    limits = Limits(settle_patience_s=0.2)
    ledger = FakeLedger(away={"settle": 99})
    async with rig_over(catalog_of(source_at(source)), ledger=ledger, limits=limits) as rig:
        with pytest.raises(LedgerUnavailable):
            await rig.complete()
    assert ledger.open_holds, "the hold is left to end by itself: the answer may have been charged"


async def test_the_whole_call_has_a_deadline(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(source_at(source)), limits=Limits(request_timeout_s=0.3)) as rig:
        with pytest.raises(DeadlineExceeded) as raised:
            await rig.complete()
    assert raised.value.metadata["receipt_id"] == "rcpt_req_1"
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.INTERRUPTED


async def test_an_answer_beyond_the_limit_is_broken_off(source: ScriptedSource) -> None:
    source.script = [stream_answer(*(sse(chunk("x" * 1_000), done=False) for _ in range(20)), HAPPY_STREAM)]
    async with rig_over(catalog_of(source_at(source)), limits=Limits(max_answer_bytes=5_000)) as rig:
        with pytest.raises(UpstreamFailed, match="larger than allowed"):
            await rig.complete()
    assert_one_end(rig.ledger)


async def test_a_plain_answer_beyond_the_limit_is_a_failed_attempt(source: ScriptedSource) -> None:
    source.script = [json_answer(completion_body("x" * 5_000))]
    async with rig_over(catalog_of(source_at(source)), max_answer_bytes=1_000) as rig:
        with pytest.raises(UpstreamFailed, match="larger than allowed"):
            await rig.complete(stream=False)
    assert_one_end(rig.ledger)


async def test_as_many_calls_as_allowed(source: ScriptedSource) -> None:
    gate = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one"), done=False), gate, HAPPY_STREAM)]
    async with rig_over(catalog_of(source_at(source)), limits=Limits(max_inflight=1)) as rig:
        first = await rig.begin()
        events = first.events()
        await anext(events)
        with pytest.raises(RouterBusy):
            await rig.begin(request_id="req_2")
        gate.set()
        assert isinstance([event async for event in events][-1], FinalEvent)


async def test_a_source_with_as_many_calls_as_allowed_is_passed_over(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    gate = asyncio.Event()
    source.script = [stream_answer(sse(chunk("one"), done=False), gate, HAPPY_STREAM)]
    catalog = catalog_of(source_at(source), source_at(second, "b"))
    async with rig_over(catalog, limits=Limits(max_inflight_per_source=1)) as rig:
        first = (await rig.begin()).events()
        await anext(first)
        events = await rig.complete(request_id="req_2")
        gate.set()
        assert isinstance([event async for event in first][-1], FinalEvent)
    assert isinstance(events[0], RouteEvent)
    assert events[0].source_id == "b"


async def test_the_same_request_twice_at_once_is_refused(source: ScriptedSource) -> None:
    source.script = [hang]
    async with rig_over(catalog_of(source_at(source, cancel_stops_billing=True))) as rig:
        first = await rig.begin()
        with pytest.raises(DuplicateRequest):
            await rig.begin()
        first.leave()


async def test_a_connection_is_used_again_after_a_stream(source: ScriptedSource) -> None:
    peers: list[object] = []
    inner = stream_answer(HAPPY_STREAM)

    async def remember(request):  # type: ignore[no-untyped-def]
        peers.append(request.transport.get_extra_info("peername"))
        return await inner(request)

    source.script = [remember]
    async with rig_over(catalog_of(source_at(source))) as rig:
        for number in range(3):
            await rig.complete(request_id=f"req_{number}")
    assert len(peers) == 3
    assert len(set(peers)) == 1
