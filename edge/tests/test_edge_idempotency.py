"""`Idempotency-Key`: who leads, what is handed over, what is replayed, and what a client is told."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from edge_fakes import ANSWER, CHUNKS, USAGE, USAGE_CHUNK

from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2, flights_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason

KEY = {"Idempotency-Key": "retry-1"}
ABANDON = flights_pb2.AbandonRequest
R = ErrorReason


def landed(**fields: Any) -> flights_pb2.BoardResponse:
    facts: dict[str, Any] = {
        "request_id": "req_first",
        "receipt_id": "rcpt_first",
        "usage": USAGE,
        "charged_nano_usd": 5_355,
        "trace_id": "f" * 32,
    }
    return flights_pb2.BoardResponse(landed=flights_pb2.Landing(**(facts | fields)))


async def test_without_the_header_nothing_is_boarded(world: Any) -> None:
    world.router.answers()
    response = await world.chat()
    assert response.status_code == 200
    assert not world.flights.boarded
    assert not world.router.requests[0].HasField("flight")
    assert "idempotent-replayed" not in response.headers


async def test_a_first_request_boards_and_hands_its_lead_to_the_router(world: Any) -> None:
    world.router.answers()
    response = await world.chat(KEY)
    (asked,) = world.flights.boarded
    assert (asked.kind, asked.key) == (flights_pb2.FLIGHT_KIND_IDEMPOTENT_REQUEST, "retry-1")
    assert (asked.principal.org_id, asked.principal.key_id) == ("org_1", "key_1")
    (request,) = world.router.requests
    assert request.flight == world.flights.lead().lead
    assert response.headers["x-request-id"] == request.request_id
    assert response.headers["x-generation-id"] == "gen_" + request.request_id.removeprefix("req_")
    assert "idempotent-replayed" not in response.headers
    assert (world.flights.landed, world.flights.abandoned) == ([], []), "the router ends it"


async def test_the_request_id_is_made_of_key_and_run_and_of_nothing_else(world: Any) -> None:
    world.router.answers()
    world.flights.script = [world.flights.lead(run) for run in (0, 0, 1, 0)]
    for key, content in (("a", "one"), ("a", "two"), ("a", "one"), ("b", "one")):
        await world.chat({"Idempotency-Key": key}, messages=[{"role": "user", "content": content}])
    first, same, next_run, other_key = (request.request_id for request in world.router.requests)
    assert first == same, "also for another body: the ledger bars what the record has forgotten"
    assert len({first, next_run, other_key}) == 3
    fingerprints = [asked.fingerprint for asked in world.flights.boarded]
    assert fingerprints[0] == fingerprints[2] == fingerprints[3] != fingerprints[1]
    assert len({asked.token for asked in world.flights.boarded}) == 4


async def test_another_organisation_or_api_key_has_other_request_ids(world: Any) -> None:
    world.router.answers()
    await world.chat(KEY)
    holder = next(iter(world.ledger.principals.values()))
    world.ledger.valid_for_ms = 0
    for field, value in (("key_id", "key_2"), ("org_id", "org_2")):
        setattr(holder, field, value)
        world.ledger.tell("key_1")
        await world.until(lambda: _asked_again(world))
        await world.chat(KEY)
    assert len({request.request_id for request in world.router.requests}) == 3


async def _asked_again(world: Any) -> bool:
    """The edge has dropped what it knew of the key."""
    before = world.ledger.authenticated
    await world.client.get("/v1/models")
    return bool(world.ledger.authenticated > before)


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "tab\there", "caf\u00e9"], ids=["empty", "long", "control", "not ascii"]
)
async def test_a_key_that_is_none_is_refused(world: Any, key: str) -> None:
    response = await world.chat({"Idempotency-Key": key.encode("latin-1")})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "invalid_request"
    assert "1 to 255 printable" in error["message"]
    assert not world.flights.boarded


async def test_two_keys_are_refused(world: Any) -> None:
    body = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]})
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    response = await world.client.post("/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_the_longest_key_is_taken(world: Any) -> None:
    world.router.answers()
    assert (await world.chat({"Idempotency-Key": " ~" * 127 + "x"})).status_code == 200


async def test_what_has_landed_is_sent_again_with_the_first_ones_headers(world: Any) -> None:
    world.flights.script = [landed(openai_body=ANSWER)]
    response = await world.chat(KEY)
    assert response.content == ANSWER
    headers = response.headers
    assert headers["idempotent-replayed"] == "true"
    assert (headers["x-receipt-id"], headers["x-cost-usd"]) == ("rcpt_first", "0.000005355")
    assert (headers["x-request-id"], headers["x-generation-id"]) == ("req_first", "gen_first")
    assert headers["x-served-mode"] == "fresh"
    assert not world.router.requests
    assert not world.cache.lookups
    assert not world.ledger.charges


async def test_a_stream_that_has_landed_is_sent_again_to_the_byte(world: Any) -> None:
    world.router.streams()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    first = await world.chat(KEY, **options)
    world.flights.script = [
        landed(
            request_id=world.router.requests[0].request_id,
            receipt_id="rcpt_fresh",
            chunks=CHUNKS,
            usage_chunk=USAGE_CHUNK,
            trace_id=first.headers["x-trace-id"],
        )
    ]
    again = await world.chat(KEY, **options)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-generation-id"] == first.headers["x-generation-id"]
    assert again.headers["content-type"].startswith("text/event-stream")


async def test_a_stream_that_broke_off_is_sent_again_with_its_error(world: Any) -> None:
    error = MeshError(R.ERROR_REASON_UPSTREAM_ERROR, "openai broke off: cut", metadata={"receipt_id": "rcpt_first"})
    world.router.script = [world.router.route(), world.router.chunk(CHUNKS[0]), error]
    first = await world.chat(KEY, stream=True)
    broken_off = flights_pb2.BreakOff(reason=error.reason, message=error.message)
    world.flights.script = [landed(chunks=CHUNKS[:1], broken_off=broken_off)]
    again = await world.chat(KEY, stream=True)
    assert again.content == first.content
    assert b"event: error" in again.content
    assert again.headers["x-receipt-id"] == "rcpt_first"


async def test_another_body_is_a_conflict(world: Any) -> None:
    world.flights.script = [MeshError(R.ERROR_REASON_IDEMPOTENCY_CONFLICT, "This key was used with another body.")]
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert "another body" in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"


async def test_without_the_cache_a_request_with_a_key_is_refused_and_one_without_is_served(world: Any) -> None:
    world.router.answers()
    await world.stop("cache")
    refused = await world.chat(KEY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert not world.router.requests
    assert (await world.chat()).status_code == 200


async def test_one_under_way_is_waited_for(world: Any) -> None:
    world.flights.script = [flights_pb2.BoardResponse(underway=flights_pb2.Underway()) for _ in range(3)]
    world.flights.script.append(landed(openai_body=ANSWER))
    assert (await world.chat(KEY)).content == ANSWER
    assert {asked.token for asked in world.flights.boarded} == {world.flights.boarded[0].token}
    assert all(asked.wait_ms == 10_000 for asked in world.flights.boarded)


async def test_one_that_does_not_end_is_a_409_to_be_tried_again(world: Any) -> None:
    class Forever(list[Any]):
        def pop(self, index: Any = 0) -> flights_pb2.BoardResponse:
            world.clock.advance(200_000)
            return flights_pb2.BoardResponse(underway=flights_pb2.Underway())

    world.flights.script = Forever([1])
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert response.headers["retry-after"] == "1"
    assert "x-should-retry" not in response.headers


@pytest.mark.parametrize(
    ("refuse", "status"),
    [("lookup", 400), ("only", 404), ("charge", 402)],
)
async def test_a_refusal_before_the_router_abandons_at_once(world: Any, refuse: str, status: int) -> None:
    headers = dict(KEY)
    if refuse == "lookup":
        world.cache.error = MeshError(R.ERROR_REASON_INVALID_REQUEST, "duplicate key")
    elif refuse == "only":
        headers["X-Tallygate-Cache"] = "only"
    else:
        world.cache.holds(stream=False)
        world.ledger.charge_errors = [MeshError(R.ERROR_REASON_INSUFFICIENT_BALANCE, "too little")]
    assert (await world.chat(headers)).status_code == status
    await world.flights.ended.wait()
    (abandoned,) = world.flights.abandoned
    assert abandoned.ending == ABANDON.ENDING_NOTHING_HELD
    assert abandoned.ticket == world.flights.lead().lead


async def test_a_replay_is_charged_under_the_keys_request_id_and_lands(world: Any) -> None:
    world.cache.holds(stream=True, usage_chunk=b'{"choices":[],"usage":{}}')
    first = await world.chat(KEY, stream=True, stream_options={"include_usage": True})
    (charge,), (land,) = world.ledger.charges, world.flights.landed
    landing = land.landing
    assert charge.request_id == landing.request_id == first.headers["x-request-id"]
    assert (landing.receipt_id, landing.charged_nano_usd) == ("rcpt_replay", 1_340)
    assert landing.tier == cache_pb2.REPLAY_TIER_EXACT
    assert not world.flights.abandoned
    world.flights.script = [flights_pb2.BoardResponse(landed=landing)]
    again = await world.chat(KEY, stream=True, stream_options={"include_usage": True})
    assert again.content == first.content
    same = ("x-receipt-id", "x-cost-usd", "x-generation-id", "x-request-id", "x-served-mode")
    assert [again.headers[name] for name in same] == [first.headers[name] for name in same]
    assert len(world.ledger.charges) == 1


async def test_a_charge_whose_fate_is_unknown_keeps_its_run(make_world: Any) -> None:
    world = await make_world(charge_patience_s=0.01)
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [MeshError(R.ERROR_REASON_UNAVAILABLE, "restarting") for _ in range(9)]
    assert (await world.chat(KEY)).status_code == 503
    (abandoned,) = world.flights.abandoned
    assert abandoned.ending == ABANDON.ENDING_UNKNOWN


async def test_a_replay_that_can_not_land_is_delivered(world: Any) -> None:
    world.cache.holds(stream=False)
    world.flights.land_error = MeshError(R.ERROR_REASON_UNAVAILABLE, "away")
    response = await world.chat(KEY)
    assert (response.status_code, response.headers["x-receipt-id"]) == (200, "rcpt_replay")
    assert not world.flights.abandoned


async def test_whoever_leads_no_longer_charges_nothing(world: Any) -> None:
    world.cache.holds(stream=False)
    world.flights.leads = False
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert not world.ledger.charges


@pytest.mark.parametrize("reason", [R.ERROR_REASON_IDEMPOTENCY_CONFLICT, R.ERROR_REASON_HOLD_CLOSED])
async def test_where_a_replays_request_id_is_taken_the_router_asks_what_became_of_it(
    world: Any, reason: ErrorReason.ValueType
) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_errors = [MeshError(reason, "taken")]
    closed = {"state": "settled", "receipt_id": "rcpt_before"}
    world.router.script = [MeshError(R.ERROR_REASON_HOLD_CLOSED, "closed", metadata=closed)]
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotent_answer_gone")
    assert world.router.requests[0].HasField("flight")


async def test_where_only_the_ledger_remembers_the_receipt_is_named_and_nothing_charged(world: Any) -> None:
    closed = {"state": "settled", "receipt_id": "rcpt_before"}
    world.router.script = [MeshError(R.ERROR_REASON_HOLD_CLOSED, "closed", metadata=closed)]
    for stream in (False, True):
        response = await world.chat(KEY, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (409, "idempotent_answer_gone")
        assert "rcpt_before" in error["message"]
        assert response.headers["x-receipt-id"] == "rcpt_before"
        assert response.headers["x-should-retry"] == "false"
    assert not world.ledger.charges


async def test_a_landing_without_its_answer_names_the_receipt(world: Any) -> None:
    world.flights.script = [landed(answer_gone=True)]
    response = await world.chat(KEY)
    assert (response.status_code, response.headers["x-receipt-id"]) == (409, "rcpt_first")
    assert not world.router.requests


@pytest.mark.parametrize("state", ["released", "expired"])
async def test_a_run_that_ended_uncharged_is_followed_by_the_next(world: Any, state: str) -> None:
    closed = MeshError(R.ERROR_REASON_HOLD_CLOSED, "closed", metadata={"state": state})
    world.flights.script = [world.flights.lead(0), landed(openai_body=ANSWER)]
    world.router.script = [closed]
    response = await world.chat(KEY)
    assert (response.status_code, response.content) == (200, ANSWER)
    assert len(world.flights.boarded) == 2
    assert not world.flights.abandoned, "the router has told what became of it"


async def test_runs_are_not_tried_for_ever(world: Any) -> None:
    world.router.script = [MeshError(R.ERROR_REASON_HOLD_CLOSED, "closed", metadata={"state": "released"})]
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert len(world.router.requests) == 16


async def test_a_content_that_the_ledger_does_not_know_is_a_conflict_in_words_of_the_edge(world: Any) -> None:
    world.router.script = [MeshError(R.ERROR_REASON_IDEMPOTENCY_CONFLICT, "request req_1 came with another content")]
    response = await world.chat(KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert "req_1" not in response.json()["error"]["message"]


async def test_an_upstream_failure_is_the_routers_to_end(world: Any) -> None:
    world.router.script = [MeshError(R.ERROR_REASON_UPSTREAM_ERROR, "no source answered")]
    assert (await world.chat(KEY)).status_code == 502
    await asyncio.sleep(0)
    assert not world.flights.abandoned


async def test_a_replay_whose_client_left_is_charged_and_lands(world: Any) -> None:
    world.cache.holds(stream=False)
    world.ledger.charge_gate = asyncio.Event()
    asked = asyncio.create_task(world.chat(KEY))

    async def charging() -> bool:
        return bool(world.ledger.charges)

    await world.until(charging)
    asked.cancel()
    world.ledger.charge_gate.set()
    await world.flights.ended.wait()
    assert len(world.flights.landed) == 1
    assert not world.flights.abandoned


async def test_a_client_that_leaves_before_the_router_has_the_call_leaves_no_lead_behind(world: Any) -> None:
    world.cache.gate = asyncio.Event()
    asked = asyncio.create_task(world.chat(KEY))

    async def looking_up() -> bool:
        return bool(world.cache.lookups)

    await world.until(looking_up)
    asked.cancel()
    await world.flights.ended.wait()
    (abandoned,) = world.flights.abandoned
    assert abandoned.ending == ABANDON.ENDING_NOTHING_HELD
    assert not world.router.requests
