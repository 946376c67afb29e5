"""Which outcome an answer is settled with. INTERRUPTED without output costs nothing: see ledger_svc.domain.charges."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from router_rig import (
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
from router_svc.service.pipe import FinalEvent
from router_svc.service.ports import CacheTicket

TICKET = CacheTicket(b"a ticket of the cache")
THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 5}}


def ends_with(finish: Any, text: str = "") -> bytes:
    body = orjson.loads(completion_body(text))
    body["choices"][0]["finish_reason"] = finish
    return orjson.dumps(body)


def used(body: bytes, completion: int = 0, **extra: Any) -> bytes:
    return orjson.dumps({**orjson.loads(body), "usage": usage_block(10, completion, **extra)})


PLAIN: dict[str, tuple[bytes, Outcome]] = {
    "blank, null": (used(ends_with(None)), Outcome.INTERRUPTED),
    "blank, empty": (used(ends_with("")), Outcome.INTERRUPTED),
    "no choice at all": (used(orjson.dumps({"object": "chat.completion", "choices": []})), Outcome.INTERRUPTED),
    "the source had no room (DeepSeek)": (used(ends_with("insufficient_system_resource")), Outcome.INTERRUPTED),
    "blank, and the source silent about usage": (ends_with(None), Outcome.INTERRUPTED),
    "filtered: an answer that the source bills": (used(ends_with("content_filter")), Outcome.COMPLETE),
    "empty on purpose": (used(ends_with("stop")), Outcome.COMPLETE),
    "cut at the limit while thinking": (used(ends_with("length"), 5, **THOUGHT), Outcome.COMPLETE),
    "blank, with thoughts that were made": (used(ends_with(None), 5, **THOUGHT), Outcome.COMPLETE),
    "blank, with words": (used(ends_with(None, "Hi"), 1), Outcome.COMPLETE),
    "blank, with words that the source does not count": (used(ends_with(None, "Hi")), Outcome.COMPLETE),
}


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_answer(source: ScriptedSource, name: str) -> None:
    body, outcome = PLAIN[name]
    source.script = [json_answer(body)]
    async with rig_over(catalog_of(Source("a", source.base_url))) as rig:
        events = await rig.complete(stream=False, cache_ticket=TICKET)
        facts, attempts = rig.ledger.settled["req_1"]
        assert facts.outcome is outcome
        assert [attempt.won for attempt in attempts] == [True]
        assert isinstance(events[-1], FinalEvent)
        assert events[-1].body == body, "the client gets it as it came"
        assert not (rig.cache.stored and outcome is Outcome.INTERRUPTED)


STREAMS: dict[str, tuple[bytes, Outcome]] = {
    "nothing but the end": (sse(chunk(""), usage_chunk(10, 0)), Outcome.INTERRUPTED),
    "nothing, and silent": (sse(chunk("")), Outcome.INTERRUPTED),
    "the source had no room (DeepSeek)": (
        sse(chunk(""), chunk(finish="insufficient_system_resource"), usage_chunk(10, 0)),
        Outcome.INTERRUPTED,
    ),
    "filtered": (sse(chunk(""), chunk(finish="content_filter"), usage_chunk(10, 0)), Outcome.COMPLETE),
    "empty on purpose": (sse(chunk(""), chunk(finish="stop"), usage_chunk(10, 0)), Outcome.COMPLETE),
    "words without a reason for the end": (sse(chunk("Hi"), usage_chunk(10, 1)), Outcome.COMPLETE),
    "thoughts only, told by usage": (sse(chunk(""), usage_chunk(10, 5, **THOUGHT)), Outcome.COMPLETE),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream(source: ScriptedSource, name: str) -> None:
    stream, outcome = STREAMS[name]
    source.script = [stream_answer(stream)]
    async with rig_over(catalog_of(Source("a", source.base_url))) as rig:
        await rig.complete(cache_ticket=TICKET)
        facts, _ = rig.ledger.settled["req_1"]
        assert facts.outcome is outcome
        assert not (rig.cache.stored and outcome is Outcome.INTERRUPTED)


async def test_of_two_choices_one_with_an_end_is_an_answer(source: ScriptedSource) -> None:
    choices = [{"index": n, "message": {"content": ""}, "finish_reason": "stop" if n else None} for n in range(2)]
    source.script = [json_answer(used(orjson.dumps({"object": "chat.completion", "choices": choices})))]
    async with rig_over(catalog_of(Source("a", source.base_url))) as rig:
        await rig.complete({"n": 2}, stream=False)
        assert rig.ledger.settled["req_1"][0].outcome is Outcome.COMPLETE
