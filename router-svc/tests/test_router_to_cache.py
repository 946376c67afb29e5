"""What a fresh answer leaves in the cache, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from router_rig import (
    FakeLedger,
    ScriptedSource,
    catalog_of,
    chunk,
    rig_over,
    sse,
    stream_answer,
    usage_chunk,
)

from meshkit.money import Provenance, Usage
from router_svc.domain.catalog import Source
from router_svc.domain.errors import (
    CacheUnavailable,
    UpstreamFailed,
)
from router_svc.service.pipe import ChunksEvent, FinalEvent, RouteEvent
from router_svc.service.ports import CacheTicket
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


async def test_a_complete_answer_is_offered_to_the_cache(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source))) as rig:
        await rig.complete(cache_ticket=TICKET)
        await rig.service.aclose(5.0)
        ((ticket, _, answer),) = rig.cache.stored
    assert ticket == TICKET
    assert answer.chunks == (chunk("Hel"), chunk("lo!"), chunk(finish="stop"), usage_chunk())
    assert (answer.body, answer.receipt_id, answer.source_id) == (b"", "rcpt_req_1", "a")


async def test_an_answer_is_stored_before_its_last_event(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source)), limits=Limits(store_wait_s=30)) as rig:
        rig.cache.storing = asyncio.Event()
        handle = await rig.begin(cache_ticket=TICKET)
        events = handle.events()
        seen = [await anext(events), await anext(events)]
        last = asyncio.ensure_future(anext(events))
        done, _ = await asyncio.wait([last], timeout=0.1)
        assert not done, "whoever asks again on the last event must find the answer"
        rig.cache.storing.set()
        assert isinstance(await last, FinalEvent)
    assert isinstance(seen[0], RouteEvent)


async def test_a_slow_cache_delays_no_answer_for_long_and_still_gets_it(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source)), limits=Limits(store_wait_s=0.01)) as rig:
        rig.cache.storing = asyncio.Event()
        events = await rig.complete(cache_ticket=TICKET)
        assert isinstance(events[-1], FinalEvent)
        assert rig.cache.stored == []
        rig.cache.storing.set()
        await rig.service.aclose(5.0)
    assert len(rig.cache.stored) == 1


async def test_a_cache_that_is_away_hurts_nobody(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source))) as rig:
        rig.cache.failure = CacheUnavailable("away")
        events = await rig.complete(cache_ticket=TICKET)
    assert isinstance(events[-1], FinalEvent)


async def test_an_interrupted_answer_is_never_offered_to_the_cache(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one"), usage_chunk(), done=False), cut=True)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete(cache_ticket=TICKET)
        await rig.service.aclose(5.0)
    assert rig.cache.stored == []
    assert rig.ledger.settled["req_1"][0].usage == USED, "the source's own number is kept, though it broke off"
