"""A replay: charged before it is sent, rendered as asked for; and the cache away."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import orjson
import pytest
import structlog

from meshkit import digests
from meshkit.answers import statement
from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2


async def test_a_hit_is_charged_as_a_replay_of_its_origin(world: Any) -> None:
    world.cache.holds(stream=False)
    response = await world.chat(model="tallygate/fast")
    (charge,) = world.ledger.charges
    facts = charge.facts
    hit = world.cache.answer.hit
    assert (facts.usage, facts.price) == (hit.usage, hit.price)
    assert facts.served_mode == ledger_pb2.SERVED_MODE_EXACT
    assert facts.outcome == ledger_pb2.OUTCOME_COMPLETE
    assert (facts.requested_model, facts.model, facts.source_id) == ("tallygate/fast", "gpt-4o-mini", "openai")
    assert facts.upstream_model == "gpt-4o-mini-2024-07-18"
    assert facts.origin_receipt_id == "rcpt_origin"
    assert facts.trace_id == response.headers["x-trace-id"]
    assert charge.request_id == response.headers["x-request-id"]
    assert charge.principal.key_id == "key_1"
    assert not world.router.requests


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replays_charge_names_the_request_and_what_is_replayed(world: Any, stream: bool) -> None:
    world.cache.holds(stream=stream)
    response = await world.chat(stream=stream)
    (charge,) = world.ledger.charges
    assert digests.is_of(charge.facts.request_digest, world.cache.lookups[0].openai_body)
    if stream:
        events = [event.removeprefix("data: ").encode() for event in response.text.split("\n\n")[:-2]]
        said = statement.of_stream(events)
    else:
        said = statement.of_body(response.content)
    assert digests.is_of(charge.facts.answer_digest, said)


async def test_a_replayed_body_and_its_headers(world: Any) -> None:
    world.cache.holds(stream=False)
    response = await world.chat()
    assert response.status_code == 200
    assert response.content == world.cache.answer.hit.openai_body
    headers = response.headers
    assert headers["x-served-mode"] == "exact"
    assert headers["x-receipt-id"] == "rcpt_replay"
    assert headers["x-cost-usd"] == "0.00000134"
    assert headers["x-usage-input-tokens"] == "9"
    assert headers["x-usage-output-tokens"] == "6"
    assert headers["cache-status"] == 'Tallygate; hit; key="dddddddddddddddd"; detail=exact'
    assert headers["age"] == "61"
    assert headers["x-generation-id"] == world.cache.lookups[0].completion_id


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upper_tier_s_replay_says_so_and_is_charged_as_such(world: Any, stream: bool) -> None:
    world.cache.holds(stream=stream, tier=cache_pb2.REPLAY_TIER_CANONICAL)
    response = await world.chat(stream=stream)
    assert response.headers["x-served-mode"] == "canonical"
    assert response.headers["cache-status"] == 'Tallygate; hit; key="dddddddddddddddd"; detail=canonical'
    (charge,) = world.ledger.charges
    assert charge.facts.served_mode == ledger_pb2.SERVED_MODE_CANONICAL
    assert charge.facts.origin_receipt_id == "rcpt_origin"
    assert not world.router.requests


async def test_a_semantic_replay_says_how_alike_the_questions_are(world: Any) -> None:
    world.cache.holds(stream=False, tier=cache_pb2.REPLAY_TIER_SEMANTIC)
    world.cache.answer.hit.similarity_ppm = 953_120
    response = await world.chat()
    assert response.headers["x-served-mode"] == "semantic"
    status = 'Tallygate; hit; key="dddddddddddddddd"; detail="semantic; similarity=0.953"'
    assert response.headers["cache-status"] == status
    assert world.ledger.charges[0].facts.served_mode == ledger_pb2.SERVED_MODE_SEMANTIC


async def test_a_replayed_stream_has_every_header_from_the_start(world: Any) -> None:
    world.cache.holds(stream=True)
    response = await world.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-receipt-id"] == "rcpt_replay"
    assert response.headers["x-served-mode"] == "exact"
    payloads = response.text.split("\n\n")
    assert payloads[-2:] == ["data: [DONE]", ""]
    assert [payload.removeprefix("data: ").encode() for payload in payloads[:-2]] == list(world.cache.answer.hit.chunks)


async def test_a_replayed_stream_has_usage_if_asked_for(world: Any) -> None:
    world.cache.holds(stream=True, usage_chunk=b'{"choices":[],"usage":{"prompt_tokens":9}}')
    response = await world.chat(stream=True, stream_options={"include_usage": True})
    chunk = orjson.loads(response.text.split("\n\n")[-3].removeprefix("data: "))
    assert chunk["usage"] == {"prompt_tokens": 9}
    assert chunk["tallygate"]["served_mode"] == "exact"
    assert chunk["tallygate"]["cost_usd"] == "0.00000134"


async def test_without_balance_a_replay_is_refused_and_nothing_of_it_sent(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [MeshError(ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE, "The balance is 0.00 USD.")]
    response = await world.chat()
    assert response.status_code == 402
    assert response.json()["error"]["code"] == "insufficient_balance"
    assert b"choices" not in response.content
    assert "x-receipt-id" not in response.headers


async def test_a_charge_of_unknown_fate_is_sent_again_as_the_same_charge(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [
        MeshError(ErrorReason.ERROR_REASON_UNAVAILABLE, "gone", status=grpc.StatusCode.UNAVAILABLE)
    ]
    assert (await world.chat()).status_code == 200
    first, second = world.ledger.charges
    assert first == second


AWAY = MeshError(ErrorReason.ERROR_REASON_UNAVAILABLE, "ipv4:10.0.0.3:7003 is away")
LATE = MeshError(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "the deadline passed before the answer")


async def test_a_charge_is_sent_until_its_fate_is_known(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [AWAY, LATE, AWAY]
    assert (await world.chat()).status_code == 200
    assert len(world.ledger.charges) == 4
    assert all(charge == world.ledger.charges[0] for charge in world.ledger.charges)


@pytest.mark.parametrize("error", [AWAY, LATE], ids=["away", "late"])
async def test_a_charge_whose_fate_stays_unknown_is_no_answer(make_world: Any, error: MeshError) -> None:
    world = await make_world(charge_patience_s=0.2)
    world.cache.holds(stream=False)
    world.ledger.charge_errors = 100 * [error]
    with structlog.testing.capture_logs() as lines:
        response = await world.chat()
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "unavailable"
    assert "10.0.0.3" not in response.text
    assert 1 <= len(world.ledger.charges) < 10
    (line,) = [line for line in lines if line["event"] == "charge_fate_unknown"]
    assert (line["log_level"], line["request_id"]) == ("error", response.headers["x-request-id"])


async def test_a_refused_charge_is_sent_once(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [MeshError(ErrorReason.ERROR_REASON_BUDGET_EXCEEDED, "over the cap")]
    assert (await world.chat()).status_code == 429
    assert len(world.ledger.charges) == 1


async def test_a_client_that_goes_does_not_end_its_charge(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [AWAY]
    world.ledger.charge_gate = asyncio.Event()
    client = asyncio.create_task(world.chat())

    async def sent() -> bool:
        return bool(world.ledger.charges)

    await world.until(sent)
    with structlog.testing.capture_logs() as lines:

        async def known() -> bool:
            return any(line["event"] == "charged_without_client" for line in lines)

        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        world.ledger.charge_gate.set()
        await world.until(known)
    first, second = world.ledger.charges
    assert first == second


async def test_a_client_that_goes_leaves_a_trace_of_a_charge_that_failed(make_world: Any) -> None:
    world = await make_world(charge_patience_s=0.2)
    world.cache.holds(stream=False)
    world.ledger.charge_gate = asyncio.Event()
    client = asyncio.create_task(world.chat())

    async def sent() -> bool:
        return bool(world.ledger.charges)

    await world.until(sent)
    with structlog.testing.capture_logs() as lines:

        async def known() -> bool:
            return any(line["event"] == "charge_failed" for line in lines)

        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        await world.until(known)
    logged = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("charge_")]
    assert logged == [("charge_fate_unknown", "error"), ("charge_failed", "warning")]


async def test_a_charge_that_the_ledger_cannot_read_is_our_fault_and_not_the_clients(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [MeshError(ErrorReason.ERROR_REASON_INVALID_REQUEST, "facts.price: missing")]
    response = await world.chat()
    assert response.status_code == 500
    assert "facts" not in response.text


async def test_a_cache_that_is_away_is_a_miss_without_leave_to_store(world: Any) -> None:
    await world.stop("cache")
    world.router.answers()
    response = await world.chat()
    assert response.status_code == 200
    assert response.headers["cache-status"] == 'Tallygate; fwd=bypass; detail="unavailable"'
    assert not world.router.requests[0].HasField("cache_ticket")


@pytest.mark.parametrize(
    "reason", [ErrorReason.ERROR_REASON_INTERNAL, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED], ids=["bug", "slow"]
)
async def test_a_cache_that_fails_is_a_miss(world: Any, reason: ErrorReason.ValueType) -> None:
    world.cache.error = MeshError(reason, "broken")
    world.router.answers()
    with structlog.testing.capture_logs() as lines:
        assert (await world.chat()).status_code == 200
    logged = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("cache_")]
    bug = reason == ErrorReason.ERROR_REASON_INTERNAL
    assert logged == [("cache_failed", "error") if bug else ("cache_away", "warning")]


async def test_what_the_cache_calls_invalid_is_refused(world: Any) -> None:
    world.cache.error = MeshError(ErrorReason.ERROR_REASON_INVALID_REQUEST, "The body has a duplicate key: 'model'.")
    response = await world.chat()
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The body has a duplicate key: 'model'."
    assert not world.router.requests


@pytest.mark.parametrize(
    ("reason", "detail", "status"),
    [
        ("REASON_NOT_STORED", "", "Tallygate; fwd=miss"),
        ("REASON_STALE", "", "Tallygate; fwd=stale"),
        ("REASON_BYPASSED", "", "Tallygate; fwd=request"),
        ("REASON_NOT_ELIGIBLE", 'sampled: "temperature"', 'Tallygate; fwd=bypass; detail="sampled: \\"temperature\\""'),
        ("REASON_UNAVAILABLE", "", 'Tallygate; fwd=bypass; detail="unavailable"'),
    ],
)
async def test_a_fresh_answer_says_why_it_is_no_replay(world: Any, reason: str, detail: str, status: str) -> None:
    miss = cache_pb2.Miss(reason=cache_pb2.Miss.Reason.Value(reason), detail=detail)
    world.cache.answer = cache_pb2.LookupResponse(miss=miss)
    world.router.answers()
    response = await world.chat()
    assert response.headers["cache-status"] == status
    assert not world.router.requests[0].HasField("cache_ticket")
