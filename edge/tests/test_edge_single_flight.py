"""Requests that an identical one is answered for: they wait, or get its stream as it comes, and pay for a replay."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from edge_fakes import CHUNKS, PRICE, USAGE, USAGE_CHUNK, refused

from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2, fills_pb2, flights_pb2
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason as R
from tallygate.ledger.v1 import ledger_pb2

ENDED = fills_pb2.FillEnded
LEAD = cache_pb2.FillLead(name=b"n" * 40, token="req_other")
TICKET = cache_pb2.Ticket(key=b"k" * 32, endpoint="chat/completions")
NOT_STORED = cache_pb2.Miss.REASON_NOT_STORED
UNDERWAY = cache_pb2.LookupResponse(miss=cache_pb2.Miss(reason=NOT_STORED, ticket=TICKET, underway=LEAD))
BEGAN = fills_pb2.FollowResponse(began=fills_pb2.FillBegan(source_id="openai", held_nano_usd=10_001, replay_bps=2_500))
COLLAPSED = "Tallygate; fwd=miss; collapsed"

on_each_transport = pytest.mark.parametrize("transport", ["local", "unix"])


def said(*payloads: bytes) -> fills_pb2.FollowResponse:
    return fills_pb2.FollowResponse(chunks=fills_pb2.FillChunks(payloads=payloads))


def ended(outcome: Any = ENDED.OUTCOME_STORED, **fields: Any) -> fills_pb2.FollowResponse:
    facts: dict[str, Any] = {
        "payloads": len(CHUNKS),
        "usage_chunk": USAGE_CHUNK,
        "usage": USAGE,
        "price": PRICE,
        "receipt_id": "rcpt_origin",
        "source_id": "openai",
        "upstream_model": "gpt-4o-mini-2024-07-18",
    }
    return fills_pb2.FollowResponse(ended=ENDED(outcome=outcome, **(facts | fields)))


def streams(world: Any, *steps: Any) -> None:
    """A leader whose stream can be followed live."""
    world.cache.script = [UNDERWAY]
    world.fills.scripts = [[BEGAN, *steps]]


def frames(*payloads: bytes, done: bool = True) -> bytes:
    return b"".join(b"data: " + payload + b"\n\n" for payload in payloads) + (b"data: [DONE]\n\n" if done else b"")


async def test_a_leader_hands_its_lead_to_the_router(world: Any) -> None:
    mine = cache_pb2.FillLead(name=b"n" * 40, token="req_1", lease_ms=5_000)
    world.cache.answer = cache_pb2.LookupResponse(miss=cache_pb2.Miss(reason=NOT_STORED, ticket=TICKET, lead=mine))
    world.router.answers()
    response = await world.chat()
    assert (response.status_code, response.headers["cache-status"]) == (200, "Tallygate; fwd=miss")
    (lookup,), (request,) = world.cache.lookups, world.router.requests
    assert (lookup.claim.token, lookup.claim.lease_ms) == (request.request_id, 5_000)
    assert (request.fill, request.cache_ticket) == (mine, TICKET)


@on_each_transport
async def test_a_follower_waits_for_the_end_and_is_charged_as_a_replay(world: Any) -> None:
    world.cache.script, world.fills.scripts = [UNDERWAY], [[ended()]]
    world.cache.holds(stream=False)
    response = await world.chat()
    assert response.status_code == 200
    assert (response.headers["x-served-mode"], response.headers["x-receipt-id"]) == ("exact", "rcpt_replay")
    assert response.headers["cache-status"] == f'{COLLAPSED}; key="{"d" * 16}"; detail=exact'
    (charge,) = world.ledger.charges
    assert charge.facts.origin_receipt_id == "rcpt_origin"
    assert ([follow.live for follow in world.fills.followed], world.router.requests) == ([False], [])
    assert not world.ledger.holds, "who has had nothing yet is held for by nothing"


@on_each_transport
async def test_a_stream_is_followed_live_and_charged_before_its_last_event(world: Any, served: str) -> None:
    gate = asyncio.Event()
    streams(world, said(CHUNKS[0]), gate, said(CHUNKS[1]), ended())
    options = {"stream": True, "stream_options": {"include_usage": True}}
    request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]} | options
    async with world.new_client(served) as client, client.stream("POST", "/v1/chat/completions", json=request) as got:
        arriving = got.aiter_raw()
        assert await anext(arriving) == frames(CHUNKS[0], done=False), "before the end"
        assert (got.headers["x-served-mode"], got.headers["cache-status"]) == ("exact", f"{COLLAPSED}; detail=exact")
        assert not world.ledger.settlements
        gate.set()
        rest = b"".join([part async for part in arriving])
    assert rest.startswith(frames(CHUNKS[1], done=False))
    usage = orjson.loads(rest.split(b"data: ")[2])
    assert (usage["usage"], usage["tallygate"]["receipt_id"]) == (orjson.loads(USAGE_CHUNK)["usage"], "rcpt_live")
    (hold,), (settlement,) = world.ledger.holds, world.ledger.settlements
    assert hold.amount_nano_usd == 2_501, "a quarter of what the leader holds, rounded up"
    facts = settlement.facts
    assert (hold.request_id, facts.served_mode) == (settlement.request_id, ledger_pb2.SERVED_MODE_EXACT)
    assert (facts.usage, facts.price, facts.origin_receipt_id) == (USAGE, PRICE, "rcpt_origin")
    assert facts.answer_digest
    assert not world.ledger.charges


async def test_the_usage_chunk_is_sent_to_who_asked_for_it(world: Any) -> None:
    streams(world, said(*CHUNKS), ended())
    assert (await world.chat(stream=True)).content == frames(*CHUNKS)


@pytest.mark.parametrize("reason", [R.ERROR_REASON_INSUFFICIENT_BALANCE, R.ERROR_REASON_BUDGET_EXCEEDED])
async def test_who_can_not_be_held_for_gets_no_chunk_and_is_judged_by_the_charge(world: Any, reason: Any) -> None:
    streams(world, said(CHUNKS[0]), said(CHUNKS[1]), ended())
    world.cache.holds(stream=True)
    world.ledger.reserve_error = refused(reason)
    assert (await world.chat(stream=True)).headers["x-receipt-id"] == "rcpt_replay"
    streams(world, said(CHUNKS[0]), said(CHUNKS[1]), ended())
    world.ledger.charge_errors = [refused(reason)]
    response = await world.chat(stream=True)
    assert response.status_code in (402, 429)
    assert (world.ledger.settlements, world.ledger.releases) == ([], [])


async def test_a_key_that_may_not_is_refused_before_the_first_chunk(world: Any) -> None:
    streams(world, said(CHUNKS[0]), ended())
    world.ledger.reserve_error = refused(R.ERROR_REASON_MODEL_NOT_ALLOWED)
    assert (await world.chat(stream=True)).status_code == 403
    assert not world.router.requests


async def test_a_ledger_that_is_away_is_no_yes(world: Any) -> None:
    streams(world, said(CHUNKS[0]), ended())
    world.ledger.reserve_error = refused(R.ERROR_REASON_UNAVAILABLE)
    assert (await world.chat(stream=True)).status_code == 503
    await world.ledger.hold_ended.wait()
    assert [release.request_id for release in world.ledger.releases] == [world.ledger.holds[0].request_id]


@pytest.mark.parametrize("outcome", [ENDED.OUTCOME_FAILED, ENDED.OUTCOME_LOST])
async def test_a_leader_that_fails_is_followed_by_another(world: Any, outcome: Any) -> None:
    """Whose refusal it was is nobody else's."""
    mine = cache_pb2.FillLead(name=b"n" * 40, token="req_1", lease_ms=5_000)
    world.cache.script = [UNDERWAY]
    world.cache.answer = cache_pb2.LookupResponse(miss=cache_pb2.Miss(reason=NOT_STORED, ticket=TICKET, lead=mine))
    world.fills.scripts = [[ended(outcome, reason=R.ERROR_REASON_INSUFFICIENT_BALANCE, message="broke")]]
    for stream in (False, True):
        world.cache.script = [UNDERWAY]
        world.router.streams() if stream else world.router.answers()
        response = await world.chat(stream=stream)
        assert (response.status_code, response.headers["x-served-mode"]) == (200, "fresh")
        assert world.router.requests[-1].fill == mine


async def test_after_some_leaders_failed_a_request_calls_for_itself(world: Any) -> None:
    world.cache.answer, world.fills.scripts = UNDERWAY, [[ended(ENDED.OUTCOME_FAILED)]]
    world.router.answers()
    assert (await world.chat()).status_code == 200
    assert len(world.fills.followed) == 4
    (request,) = world.router.requests
    assert (request.HasField("fill"), request.cache_ticket) == (False, TICKET)


@pytest.mark.parametrize(
    "script", [[ended(ENDED.OUTCOME_NOT_STORED)], [MeshError(R.ERROR_REASON_UNAVAILABLE, "away")]], ids=["own", "away"]
)
async def test_what_can_not_be_shared_is_called_for_alone(world: Any, script: Any) -> None:
    world.cache.answer, world.fills.scripts = UNDERWAY, [script]
    world.router.answers()
    assert (await world.chat()).headers["x-served-mode"] == "fresh"
    assert (len(world.fills.followed), world.router.requests[0].cache_ticket) == (1, TICKET)


@pytest.mark.parametrize(
    "last",
    [
        ended(ENDED.OUTCOME_FAILED, reason=R.ERROR_REASON_DEADLINE_EXCEEDED, message="late"),
        ended(ENDED.OUTCOME_LOST),
        ended(payloads=3),
        MeshError(R.ERROR_REASON_UNAVAILABLE, "away"),
    ],
    ids=["failed", "lost", "gap", "away"],
)
async def test_a_stream_that_breaks_off_ends_with_an_error_and_costs_nothing(world: Any, last: Any) -> None:
    streams(world, said(*CHUNKS), last)
    content = (await world.chat(stream=True)).content
    assert content.startswith(frames(*CHUNKS, done=False) + b"event: error\n")
    assert b"[DONE]" not in content
    await world.ledger.hold_ended.wait()
    assert (len(world.ledger.releases), world.ledger.settlements) == (1, [])


@on_each_transport
async def test_a_client_that_leaves_a_stream_pays_for_it_when_it_is_whole(world: Any, served: str) -> None:
    gate = asyncio.Event()
    streams(world, said(CHUNKS[0]), gate, said(CHUNKS[1]), ended())
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with world.new_client(served) as client, client.stream("POST", "/v1/chat/completions", json=body) as got:
        await anext(got.aiter_raw())
    await world.until(lambda: _is(len(world.fills.followed) == 2))
    gate.set()
    await world.ledger.hold_ended.wait()
    (settlement,) = world.ledger.settlements
    assert settlement.facts.outcome == ledger_pb2.OUTCOME_CLIENT_GONE
    assert (settlement.facts.usage, world.ledger.releases) == (USAGE, [])


async def test_a_client_that_leaves_a_stream_that_breaks_off_pays_nothing(world: Any, served: str) -> None:
    streams(world, said(CHUNKS[0]), asyncio.Event())
    world.fills.scripts.append([BEGAN, said(CHUNKS[0]), ended(ENDED.OUTCOME_FAILED)])
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with world.new_client(served) as client, client.stream("POST", "/v1/chat/completions", json=body) as got:
        await anext(got.aiter_raw())
    await world.ledger.hold_ended.wait()
    assert (len(world.ledger.releases), world.ledger.settlements) == (1, [])


async def _is(condition: bool) -> bool:
    return condition


async def test_a_region_policy_keeps_a_request_from_a_leader_elsewhere(world: Any) -> None:
    """It asks for itself, and does not wait for the next one there."""
    snapshot = catalog_pb2.Snapshot()
    snapshot.CopyFrom(world.catalog.current)
    snapshot.revision = "rev2"
    snapshot.sources.append(catalog_pb2.Source(id="openai", region="us"))
    world.catalog.publish(snapshot)
    world.ledger.policy = ledger_pb2.KeyPolicy(region=ledger_pb2.REGION_POLICY_CN_ONLY)
    streams(world, said(CHUNKS[0]), asyncio.Event())
    world.router.streams()
    response = await world.chat(stream=True)
    assert (response.status_code, response.headers["x-served-mode"]) == (200, "fresh")
    assert not world.ledger.holds


async def test_an_idempotent_request_keeps_its_key_while_it_waits(make_world: Any) -> None:
    """And gets the whole answer at once, which is what is kept for its retries."""
    world = await make_world(flight_lease_s=0.03)
    gate = asyncio.Event()
    world.cache.script, world.fills.scripts = [UNDERWAY], [[BEGAN, said(CHUNKS[0]), gate, ended()]]
    world.cache.holds(stream=True)
    asking = asyncio.create_task(world.chat({"Idempotency-Key": "k"}, stream=True))
    await world.until(lambda: _is(len(world.flights.renewed) >= 2))
    gate.set()
    response = await asking
    assert (response.status_code, response.headers["x-receipt-id"]) == (200, "rcpt_replay")
    assert not world.fills.followed[0].live
    (land,) = world.flights.landed
    assert isinstance(land, flights_pb2.LandRequest)
    assert (land.landing.receipt_id, list(land.landing.chunks)) == ("rcpt_replay", CHUNKS)


async def test_a_client_that_leaves_while_it_waits_is_charged_nothing(world: Any, served: str) -> None:
    world.cache.script, world.fills.scripts = [UNDERWAY], [[asyncio.Event()]]
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    async with world.new_client(served) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await world.until(lambda: _is(len(world.fills.followed) == 1))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert (world.ledger.holds, world.ledger.charges, world.router.requests) == ([], [], [])


async def test_usage_that_nobody_knows_is_replayed_as_such(world: Any) -> None:
    """An odd stream that the cache keeps none of: who was sent it live has had it whole."""
    nothing = money_pb2.Usage(provenance=money_pb2.USAGE_PROVENANCE_NONE)
    odd = b"[1]"
    streams(world, said(odd), ended(ENDED.OUTCOME_NOT_STORED, payloads=1, usage=nothing, usage_chunk=b""))
    assert (await world.chat(stream=True)).content == frames(odd)
    (settlement,) = world.ledger.settlements
    assert (settlement.facts.answer_digest, settlement.facts.usage) == ("", nothing)
