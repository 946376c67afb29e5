"""Fresh calls over a scripted source: what the client gets, and what the ledger and the cache are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest
from router_rig import (
    HAPPY_STREAM,
    SECRET,
    FakeLedger,
    ScriptedSource,
    catalog_of,
    chunk,
    completion_body,
    hang,
    json_answer,
    price,
    rig_over,
    sse,
    stream_answer,
    usage_block,
    usage_chunk,
)

from meshkit.money import Provenance, Usage
from router_svc.domain.answer import Outcome
from router_svc.domain.catalog import Source
from router_svc.domain.errors import (
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRejected,
)
from router_svc.service.pipe import ChunksEvent, FinalEvent, RouteEvent
from router_svc.service.ports import CacheTicket
from router_svc.sources.openai import OpenAITimeouts

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


async def test_a_stream_is_relayed_settled_and_priced(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete()

    route, *chunks, final = events
    assert route == RouteEvent("a", "a/m", "up-a", 0, route.held_nano_usd)  # type: ignore[union-attr]
    assert payloads_of(chunks) == [chunk("Hel"), chunk("lo!"), chunk(finish="stop")]
    assert final == FinalEvent(b"", usage_chunk(), USED, 42, "rcpt_req_1")
    facts, attempts = rig.ledger.settled["req_1"]
    assert (facts.usage, facts.outcome, facts.source_id, facts.upstream_model) == (USED, Outcome.COMPLETE, "a", "up-a")
    assert facts.price == price("a/m")
    assert [(a.offer_id, a.won, a.failure, a.http_status) for a in attempts] == [("a/m", True, "", 200)]
    assert_one_end(rig.ledger)


async def test_a_plain_answer_is_given_verbatim(source: ScriptedSource) -> None:
    choices = b'{"index":0,"message":{"content":"\\u0041"}}'
    body = b' { "choices" : [' + choices + b'], "usage" : {"prompt_tokens":10,"completion_tokens":2}, "x":1.0 }'
    source.script = [json_answer(body)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete(stream=False)

    assert [type(event) for event in events] == [RouteEvent, FinalEvent]
    assert events[-1] == FinalEvent(body, b"", USED, 42, "rcpt_req_1")
    assert orjson.loads(source.bodies[0]) == {"model": "up-a", "messages": [{"role": "user", "content": "Hi there"}]}
    assert_one_end(rig.ledger)


async def test_the_source_is_asked_for_usage_with_its_key_and_its_name_of_the_model(source: ScriptedSource) -> None:
    async with rig_over(catalog_of(source_at(source, api_key_env="A_KEY"))) as rig:
        await rig.complete({"stream_options": {"include_obfuscation": False}, "seed": 7})

    sent = orjson.loads(source.bodies[0])
    assert (sent["model"], sent["stream"], sent["seed"]) == ("up-a", True, 7)
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert source.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert source.headers[0]["traceparent"].startswith("00-")


async def test_the_charge_is_durable_before_the_last_event(source: ScriptedSource) -> None:
    ledger = FakeLedger(settling=asyncio.Event())
    assert ledger.settling is not None
    async with rig_over(catalog_of(source_at(source)), ledger=ledger) as rig:
        handle = await rig.begin()
        events = handle.events()
        seen = [await anext(events), await anext(events)]
        last = asyncio.ensure_future(anext(events))
        done, _ = await asyncio.wait([last], timeout=0.1)
        assert not done, "an event came before the charge was durable"
        ledger.settling.set()
        assert isinstance(await last, FinalEvent)
    assert isinstance(seen[0], RouteEvent)


@pytest.mark.parametrize("failing", [json_answer(b"{}", 500), json_answer(b"", 503), json_answer(b"{}", 429)])
async def test_another_source_answers_when_the_first_fails(
    source: ScriptedSource, second: ScriptedSource, failing: object
) -> None:
    source.script = [failing]  # type: ignore[list-item]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        events = await rig.complete()

    assert isinstance(events[0], RouteEvent)
    assert (events[0].source_id, events[0].failed_attempts) == ("b", 1)
    facts, attempts = rig.ledger.settled["req_1"]
    assert facts.price == price("b/m", input_usd=2, output_usd=3)
    assert [(a.offer_id, a.won) for a in attempts] == [("a/m", False), ("b/m", True)]
    assert attempts[0].failure
    assert attempts[0].http_status in {500, 503, 429}
    assert_one_end(rig.ledger)


async def test_a_source_that_can_not_be_reached_is_passed_over(second: ScriptedSource) -> None:
    nowhere = Source("a", "http://127.0.0.1:1/v1")
    async with rig_over(catalog_of(nowhere, source_at(second, "b"))) as rig:
        await rig.complete()

    _, attempts = rig.ledger.settled["req_1"]
    assert [(a.failure, a.http_status) for a in attempts] == [("connect", 0), ("", 200)]


async def test_a_source_that_is_silent_is_passed_over(source: ScriptedSource, second: ScriptedSource) -> None:
    source.script = [hang]
    catalog = catalog_of(source_at(source), source_at(second, "b"))
    async with rig_over(catalog, timeouts=OpenAITimeouts(first_byte_s=0.1)) as rig:
        await rig.complete()

    _, attempts = rig.ledger.settled["req_1"]
    assert [a.failure for a in attempts] == ["timeout", ""]


async def test_an_error_event_before_anything_else_is_a_failed_attempt(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    source.script = [stream_answer(b": OPENROUTER PROCESSING\n\n", sse(b'{"error":{"code":502,"message":"no"}}'))]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        await rig.complete()

    _, attempts = rig.ledger.settled["req_1"]
    assert [(a.won, a.failure) for a in attempts] == [(False, "error_event"), (True, "")]


async def test_no_third_source_is_tried(source: ScriptedSource, second: ScriptedSource) -> None:
    source.script = second.script = [json_answer(b"{}", 500)]
    third = Source("c", source.base_url)
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"), third)) as rig:
        with pytest.raises(UpstreamFailed, match="HTTP 500") as raised:
            await rig.complete()

    assert raised.value.metadata == {"a": "status", "b": "status"}
    _, attempts = rig.ledger.released["req_1"]
    assert [(a.offer_id, a.won, a.failure) for a in attempts] == [("a/m", False, "status"), ("b/m", False, "status")]
    assert_one_end(rig.ledger)


async def test_sources_that_are_all_rate_limited_say_so(source: ScriptedSource, second: ScriptedSource) -> None:
    source.script = second.script = [json_answer(b'{"error":{"message":"slow down"}}', 429)]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        with pytest.raises(UpstreamRateLimited):
            await rig.complete()
    assert_one_end(rig.ledger)


@pytest.mark.parametrize(
    ("first", "other", "told"), [("7", "3", "3"), ("7", "", None), ("Wed, 21 Oct 2026 07:28:00 GMT", "3", None)]
)
async def test_when_to_ask_again_is_what_the_readiest_source_says(
    source: ScriptedSource, second: ScriptedSource, first: str, other: str, told: str | None
) -> None:
    source.script = [json_answer(b"{}", 429, retry_after=first)]
    second.script = [json_answer(b"{}", 429, retry_after=other)]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        with pytest.raises(UpstreamRateLimited) as raised:
            await rig.complete()
    assert raised.value.metadata.get("retry_after_s") == told


@pytest.mark.parametrize("garbage", [b"{not json", b"[1]"])
async def test_a_stream_that_begins_with_garbage_is_a_failed_attempt(
    source: ScriptedSource, second: ScriptedSource, garbage: bytes
) -> None:
    source.script = [stream_answer(sse(garbage, usage_chunk()))]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        await rig.complete()
    assert [(a.won, a.failure) for a in rig.ledger.settled["req_1"][1]] == [(False, "protocol"), (True, "")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_rejection_is_passed_on_and_not_tried_elsewhere(
    source: ScriptedSource, second: ScriptedSource, stream: bool
) -> None:
    said = b'{"error":{"message":"temperature is too high for sk-source-secret","param":"temperature","code":"bad"}}'
    source.script = [json_answer(said, 400)]
    catalog = catalog_of(source_at(source, api_key_env="A_KEY"), source_at(second, "b"))
    async with rig_over(catalog) as rig:
        with pytest.raises(UpstreamRejected) as raised:
            await rig.complete(stream=stream)

    assert str(raised.value) == "temperature is too high for [key]"
    assert raised.value.metadata == {"source_id": "a", "param": "temperature", "code": "bad"}
    assert second.calls == 0
    assert_one_end(rig.ledger)


async def test_a_refused_key_is_the_operators_problem_and_never_shown(source: ScriptedSource) -> None:
    source.script = [json_answer(b'{"error":{"message":"Incorrect API key provided: sk-source-secret"}}', 401)]
    async with rig_over(catalog_of(source_at(source, api_key_env="A_KEY"))) as rig:
        with pytest.raises(UpstreamFailed, match="a: the operator's key was refused") as raised:
            await rig.complete()
    assert SECRET not in str(raised.value)
    assert_one_end(rig.ledger)


async def test_a_stream_cut_in_its_middle_is_settled_for_what_was_delivered(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    source.script = [stream_answer(sse(chunk("one two"), chunk(" three"), done=False), cut=True)]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        handle = await rig.begin()
        seen: list[object] = []
        with pytest.raises(UpstreamFailed) as raised:
            async for event in handle.events():
                seen.append(event)

    assert payloads_of(seen) == [chunk("one two"), chunk(" three")]
    assert raised.value.metadata["receipt_id"] == "rcpt_req_1"
    facts, _ = rig.ledger.settled["req_1"]
    assert facts.outcome is Outcome.INTERRUPTED
    assert (facts.usage.output_tokens, facts.usage.provenance) == (3, Provenance.ESTIMATED)
    assert second.calls == 0, "no other source after the first byte"
    assert_one_end(rig.ledger)


async def test_a_stream_that_ends_early_but_cleanly_is_interrupted_too(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one"), done=False))]
    async with rig_over(catalog_of(source_at(source))) as rig:
        with pytest.raises(UpstreamFailed, match="ended in its middle"):
            await rig.complete()
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("cut", [True, False])
async def test_an_answer_that_has_finished_is_complete_without_its_done(source: ScriptedSource, cut: bool) -> None:
    source.script = [stream_answer(sse(chunk("one"), chunk(finish="stop"), usage_chunk(), done=False), cut=cut)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete()
    assert isinstance(events[-1], FinalEvent)
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.COMPLETE


async def test_a_source_that_falls_silent_after_the_finish_is_not_waited_for(
    source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_svc.service.completion._FINISH_GRACE_S", 0.1)
    source.script = [stream_answer(sse(chunk("one"), chunk(finish="stop"), done=False), asyncio.Event())]
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete()
    assert isinstance(events[-1], FinalEvent)
    assert events[-1].usage.provenance is Provenance.ESTIMATED


async def test_an_error_event_in_the_middle_delivers_what_came_before_it_in_the_same_read(
    source: ScriptedSource,
) -> None:
    source.script = [stream_answer(sse(chunk("one"), b'{"error":{"message":"overloaded"}}', done=False))]
    async with rig_over(catalog_of(source_at(source))) as rig:
        handle = await rig.begin()
        seen: list[object] = []
        with pytest.raises(UpstreamFailed, match="overloaded"):
            async for event in handle.events():
                seen.append(event)
    assert payloads_of(seen) == [chunk("one")]
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.INTERRUPTED


async def test_an_interrupted_stream_without_a_word_costs_nothing(source: ScriptedSource) -> None:
    role = orjson.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    source.script = [stream_answer(sse(role, done=False), cut=True)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        with pytest.raises(UpstreamFailed) as raised:
            await rig.complete()
    assert "receipt_id" not in raised.value.metadata
    assert rig.ledger.released["req_1"][1][0].won is False
    assert_one_end(rig.ledger)


async def test_a_plain_answer_cut_in_its_middle_is_tried_elsewhere(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    source.script = [stream_answer(b'{"choices":[', cut=True)]
    second.script = [json_answer(completion_body(usage=usage_block()))]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        events = await rig.complete(stream=False)
    assert [type(event) for event in events] == [RouteEvent, FinalEvent], "one route, of the source that answered"
    assert [a.failure for a in rig.ledger.settled["req_1"][1]] == ["cut", ""]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_silent_source_is_estimated_and_labelled(source: ScriptedSource, stream: bool) -> None:
    source.script = [
        stream_answer(sse(chunk("one two"), chunk(" three", finish="stop")))
        if stream
        else json_answer(completion_body("one two three"))
    ]
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete(stream=stream, cache_ticket=TICKET)

    assert isinstance(events[-1], FinalEvent)
    assert events[-1].usage == Usage(input_tokens=2 + 5 + 5, output_tokens=3, calls=1, provenance=Provenance.ESTIMATED)
    assert events[-1].usage_chunk == b""
    assert rig.cache.stored == [], "an answer without usage is never stored"
    assert rig.ledger.settled["req_1"][0].outcome is Outcome.COMPLETE


async def test_usage_on_the_last_choice_is_taken_off_and_given_at_the_end(source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("Hi"), chunk(finish="stop", usage=usage_block())))]
    async with rig_over(catalog_of(source_at(source))) as rig:
        events = await rig.complete()

    assert payloads_of(list(events)) == [chunk("Hi"), chunk(finish="stop")]
    final = events[-1]
    assert isinstance(final, FinalEvent)
    told = orjson.loads(final.usage_chunk)
    assert (told["choices"], told["usage"]) == ([], usage_block())
    assert final.usage == USED


async def test_mistral_is_asked_again_without_stream_options_and_never_with_them_after(source: ScriptedSource) -> None:
    refused = (
        b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options",'
        b'"include_usage"],"msg":"Extra inputs are not permitted","input":true}]},"param":null,"code":null}'
    )
    source.script = [json_answer(refused, 422), stream_answer(HAPPY_STREAM)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        await rig.complete()
        await rig.complete(request_id="req_2")
    asked = ["stream_options" in orjson.loads(body) for body in source.bodies]
    assert asked == [True, False, False]
    assert len(rig.ledger.settled["req_1"][1]) == 1, "it is one attempt"
