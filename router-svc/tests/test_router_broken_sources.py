"""Sources that say what they should not: interim usage, keys in errors, chunks of the wrong shape."""

from __future__ import annotations

import re
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
    json_answer,
    rig_over,
    sse,
    stream_answer,
    usage_block,
)

from meshkit.money import Provenance, Usage
from router_svc.domain.catalog import Source
from router_svc.domain.errors import (
    UpstreamFailed,
    UpstreamRejected,
)
from router_svc.service.pipe import ChunksEvent
from router_svc.service.ports import CacheTicket

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


async def test_usage_that_a_source_tells_before_its_end_does_not_cap_the_charge(source: ScriptedSource) -> None:
    interim = chunk("one", usage=usage_block(prompt=10, completion=1))
    source.script = [stream_answer(sse(interim, done=False), sse(chunk(" two three four"), done=False), cut=True)]
    async with rig_over(catalog_of(source_at(source))) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete()
    usage = rig.ledger.settled["req_1"][0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.provenance) == (10, 4, Provenance.ESTIMATED)


async def test_one_client_can_not_turn_usage_off_for_others(source: ScriptedSource) -> None:
    refused = b'{"error":{"message":"Unrecognized request argument supplied: stream_options_x"}}'
    also = b'{"error":{"message":"stream_options: bad; stream_options_x: bad"}}'
    source.script = [
        json_answer(refused, 400),
        json_answer(also, 400),
        json_answer(also, 400),
        stream_answer(HAPPY_STREAM),
    ]
    async with rig_over(catalog_of(source_at(source))) as rig:
        for number in (1, 2):
            with pytest.raises(UpstreamRejected):
                await rig.complete(request_id=f"req_{number}")
        await rig.complete(request_id="req_3")
    assert "stream_options" in orjson.loads(source.bodies[-1])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_sources_error_does_not_name_the_operators_key(source: ScriptedSource, stream: bool) -> None:
    error = (
        b'{"error":{"message":"Incorrect API key provided: %s, or sk-abc123***, in org-12345678"}}' % SECRET.encode()
    )
    source.script = [stream_answer(sse(error)) if stream else json_answer(error)]
    async with rig_over(catalog_of(source_at(source, api_key_env="A_KEY"))) as rig:
        with pytest.raises(UpstreamFailed) as raised:
            await rig.complete(stream=stream)
    assert "[key]" in str(raised.value)
    assert not {SECRET, "sk-abc123", "org-12345678"} & set(re.split(r"[\s,]+", str(raised.value)))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("broken", [b'{"choices":5,"usage":{}}', b'{"choices":[],"error":{"code":{},"message":1}}'])
async def test_a_chunk_of_the_wrong_shape_breaks_the_stream_off_and_what_came_is_settled(
    source: ScriptedSource, broken: bytes
) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), sse(broken))]
    async with rig_over(catalog_of(source_at(source))) as rig:
        with pytest.raises(UpstreamFailed):
            await rig.complete()
    assert rig.ledger.settled["req_1"][0].usage.output_tokens == 2


async def test_a_plain_answer_that_ended_in_an_error_is_tried_elsewhere(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    source.script = [json_answer(completion_body().replace(b'"stop"', b'"error"'))]
    second.script = [json_answer(completion_body())]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        await rig.complete(stream=False)
    assert [a.won for a in rig.ledger.settled["req_1"][1]] == [False, True]


async def test_a_model_that_a_source_no_longer_knows_is_asked_for_elsewhere(
    source: ScriptedSource, second: ScriptedSource
) -> None:
    source.script = [json_answer(b'{"error":{"message":"no such model"}}', 404)]
    async with rig_over(catalog_of(source_at(source), source_at(second, "b"))) as rig:
        await rig.complete()
    assert rig.ledger.settled["req_1"][0].source_id == "b"
