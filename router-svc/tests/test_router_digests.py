"""What a settlement says of the request and of the answer: salted digests that whoever has them can compare."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from router_rig import (
    HAPPY_STREAM,
    ScriptedSource,
    call_of,
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

from meshkit.answers import statement
from meshkit.digests import is_of
from router_svc.domain.answer import Delivery
from router_svc.domain.catalog import Source, WireFormat
from router_svc.domain.digest import answer_digest
from router_svc.domain.errors import UpstreamFailed
from router_svc.domain.plan import Candidate, plan
from router_svc.domain.request import read_chat_request
from router_svc.service.pipe import ChunksEvent, FinalEvent
from router_svc.service.ports import SettleFacts


def source_at(served: ScriptedSource) -> Source:
    return Source("a", served.base_url)


def plan_for_one() -> tuple[Candidate, ...]:
    snapshot = catalog_of(Source("a", "http://127.0.0.1:1/v1")).value
    request = read_chat_request(call_of().body)
    return plan(request, "m", snapshot, formats=frozenset(WireFormat), has_secret=lambda _: True).candidates


async def settled(source: ScriptedSource, **call: Any) -> tuple[SettleFacts, list[Any]]:
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete(**call)
        return rig.ledger.settled["req_1"][0], events


async def test_a_plain_answer_and_its_request(source: ScriptedSource) -> None:
    source.script = [json_answer(completion_body("Hello!", usage_block(), created=5))]
    facts, events = await settled(source, stream=False)
    assert is_of(facts.request_digest, call_of(stream=False).body)
    final = events[-1]
    assert isinstance(final, FinalEvent)
    assert is_of(facts.answer_digest, statement.of_body(final.body))
    assert not is_of(facts.answer_digest, statement.of_body(final.body.replace(b"Hello!", b"hello!")))
    assert facts.request_digest[:32] != facts.answer_digest[:32], "a salt each"


async def test_a_stream_is_digested_as_the_body_that_it_folds_to(source: ScriptedSource) -> None:
    role = orjson.dumps({"id": "c1", "model": "up", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    source.script = [stream_answer(sse(role, chunk("Hel"), chunk("lo!"), chunk(finish="stop"), usage_chunk()))]
    facts, _ = await settled(source)
    assert is_of(facts.answer_digest, statement.of_body(completion_body("Hello!")))


async def test_the_same_answer_has_another_digest_each_time(source: ScriptedSource) -> None:
    source.script = [stream_answer(HAPPY_STREAM)]
    first, _ = await settled(source)
    second, _ = await settled(source)
    assert (first.request_digest, first.answer_digest) != (second.request_digest, second.answer_digest)


async def test_of_an_answer_that_broke_off_what_was_handed_on_is_digested(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("Hel"), done=False), cut=True)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        handle = await rig.begin()
        received: list[bytes] = []

        async def read() -> None:
            async for event in handle.events():
                if isinstance(event, ChunksEvent):
                    received.extend(event.payloads)

        with pytest.raises(UpstreamFailed):
            await read()
        facts, _ = rig.ledger.settled["req_1"]
    assert is_of(facts.answer_digest, statement.of_stream(received))


def test_what_a_client_that_left_never_got_is_not_digested() -> None:
    (candidate,) = plan_for_one()
    delivery = Delivery(candidate, 1, payloads=[chunk("Hel"), chunk("lo")], delivered=1)
    assert is_of(answer_digest(delivery, bytes(16)), statement.of_stream([chunk("Hel")]))
    delivery.delivered = 0
    assert answer_digest(delivery, bytes(16)) == ""


async def test_an_answer_with_two_readings_is_settled_without_a_digest(source: ScriptedSource) -> None:
    odd = [orjson.dumps({"choices": [{"index": 0, "delta": {"new": piece}}]}) for piece in ("a", "b")]
    source.script = [stream_answer(sse(*odd, chunk("Hi"), chunk(finish="stop"), usage_chunk()))]
    facts, events = await settled(source)
    assert isinstance(events[-1], FinalEvent)
    assert facts.answer_digest == ""
    assert is_of(facts.request_digest, call_of().body)


async def test_a_long_stream_has_its_digest_too(source: ScriptedSource) -> None:
    pieces = [chunk("x" * 5_000) for _ in range(80)]
    source.script = [stream_answer(sse(*pieces, chunk(finish="stop"), usage_chunk()))]
    facts, _ = await settled(source)
    assert is_of(facts.answer_digest, statement.of_stream([*pieces, chunk(finish="stop")]))
