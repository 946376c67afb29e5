"""Rate limits over HTTP: who counts, what is told, what a refusal looks like."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from edge_fakes import USAGE

from edge.limits.rates import go_duration, seconds, site_of
from meshkit.errors import MeshError
from tallygate.cache.v1 import flights_pb2
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

OTHER = "tg-" + "b" * 43
Told = tuple[str, str, str]


def told(response: httpx.Response) -> Told:
    limit, remaining, reset = (response.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset"))
    return limit, remaining, reset


def limited(world: Any, requests: int = 0, tokens: int = 0) -> None:
    world.ledger.policy = ledger_pb2.KeyPolicy(requests_per_minute=requests, tokens_per_minute=tokens)
    world.router.answers()


async def test_every_answer_tells_how_the_limit_stands_and_the_refusal_when_to_come_again(world: Any) -> None:
    limited(world, requests=3)
    assert told(await world.chat()) == ("3", "2", "60")
    world.clock.advance(10_500)
    assert told(await world.chat(stream=True)) == ("3", "1", "60")
    assert told(await world.chat()) == ("3", "0", "60")
    world.clock.advance(1_000)
    refused = await world.chat()
    assert (refused.status_code, told(refused)) == (429, ("3", "0", "59"))
    assert refused.headers["retry-after"] == "49", "48.5 s, rounded up"
    assert "x-should-retry" not in refused.headers
    assert refused.json()["error"] == {
        "message": "The limit of this API key is 3 requests per minute, and it is used up. Try again in 49 seconds.",
        "type": "rate_limit_error",
        "code": "rate_limit_exceeded",
        "param": None,
    }
    assert len(world.router.requests) == 3
    world.clock.advance(49_000)
    assert (await world.chat()).status_code == 200


async def test_what_is_refused_later_counts_too_and_is_told(world: Any) -> None:
    limited(world, requests=10)
    not_json = await world.post(b"{")
    assert (not_json.status_code, told(not_json)[1]) == (400, "9")
    no_model = await world.chat(model="nothing/like-it")
    assert (no_model.status_code, told(no_model)[1]) == (404, "8")
    too_large = await world.post(b"x", {"content-length": "999999999999"})
    assert (too_large.status_code, told(too_large)[1]) == (413, "7")
    world.router.script = [MeshError(ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE, "told so")]
    poor = await world.chat()
    assert (poor.status_code, told(poor)[1]) == (402, "6")
    world.router.script = [MeshError(ErrorReason.ERROR_REASON_INTERNAL, "told so")]
    broken = await world.chat()
    assert (broken.status_code, told(broken)[1]) == (500, "5")


async def test_a_request_over_the_limit_is_refused_before_its_body_is_read(world: Any) -> None:
    limited(world, requests=1)
    await world.chat()
    assert (await world.post(b"not json")).status_code == 429


async def test_a_repeat_under_an_idempotency_key_counts(world: Any) -> None:
    limited(world, requests=2)
    answers = [await world.chat({"idempotency-key": "k"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_a_key_without_limit_is_told_of_none(world: Any) -> None:
    limited(world)
    for _ in range(3):
        assert not [name for name in (await world.chat()).headers if name.startswith("x-ratelimit")]


async def test_without_a_valid_key_nothing_is_told(world: Any) -> None:
    refused = await world.chat({"authorization": f"Bearer {OTHER}"})
    assert refused.status_code == 401
    assert "x-ratelimit-limit" not in refused.headers


async def test_routes_that_read_and_manage_have_a_limit_of_their_own(make_world: Any) -> None:
    world = await make_world(account_requests_per_minute=2)
    limited(world, requests=1)
    assert (await world.chat()).status_code == 200
    assert told(await world.client.get("/v1/models")) == ("2", "1", "60")
    forbidden = await world.client.get("/v1/projects")
    assert (forbidden.status_code, told(forbidden)[1]) == (403, "0")
    refused = await world.client.get("/v1/models")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    assert "read or manage" in refused.json()["error"]["message"]


async def test_keys_can_not_be_guessed_from_one_address(make_world: Any) -> None:
    world = await make_world(failed_authentications_per_minute=3)

    async def status(secret: str) -> int:
        return int((await world.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})).status_code)

    guesses = [await status(f"tg-{number:043}") for number in range(5)]
    assert guesses == [401, 401, 401, 429, 429]
    assert world.ledger.authenticated == 3
    refused = await world.client.get("/v1/models", headers={"authorization": "Bearer tg-x"})
    assert refused.headers["retry-after"] == "60"
    assert "3 API keys in a minute that were not valid" in refused.json()["error"]["message"]
    world.clock.advance(60_000)
    assert await status(OTHER) == 401


async def test_a_key_that_is_known_is_served_also_from_an_address_that_guesses(make_world: Any) -> None:
    world = await make_world(failed_authentications_per_minute=1)
    assert (await world.client.get("/v1/models")).status_code == 200
    guesses = [await world.client.get("/v1/models", headers={"authorization": f"Bearer {OTHER}"}) for _ in range(2)]
    assert [guess.status_code for guess in guesses] == [401, 429]
    for _ in range(3):
        world.clock.advance(6_000)  # the ledger is asked anew
        assert (await world.client.get("/v1/models")).status_code == 200
    world.ledger.revoked.add("key_1")
    world.clock.advance(6_000)
    answers = [(await world.client.get("/v1/models")).status_code for _ in range(2)]
    assert answers == [401, 429], "once it is not valid any more, it is one like any other"


async def test_good_keys_and_a_ledger_that_is_away_use_up_no_attempts(make_world: Any) -> None:
    world = await make_world(failed_authentications_per_minute=1)
    world.ledger.valid_for_ms = 0
    world.ledger.authenticate_error = MeshError(ErrorReason.ERROR_REASON_UNAVAILABLE, "standby")
    assert [(await world.client.get("/v1/models")).status_code for _ in range(3)] == [503] * 3
    world.ledger.authenticate_error = None
    assert [(await world.client.get("/v1/models")).status_code for _ in range(3)] == [200] * 3


def tokens_told(response: httpx.Response) -> Told:
    names = ("limit", "remaining", "reset")
    limit, remaining, reset = (response.headers[f"x-ratelimit-{name}-tokens"] for name in names)
    return limit, remaining, reset


BODY = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 900})
ESTIMATE = -(-len(BODY) // 4) + 900


async def remaining(world: Any) -> int:
    """What a request that takes next to nothing is told. The loop comes first to what nobody waits for."""
    await asyncio.sleep(0)
    world.router.script = [MeshError(ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE, "told so")]
    response = await world.chat()
    world.router.answers()
    return int(tokens_told(response)[1]) + -(-len(response.request.content) // 4)


async def test_tokens_are_estimated_first_and_then_those_that_were_settled_count(world: Any) -> None:
    limited(world, tokens=1_000)
    first = await world.post(BODY)
    assert tokens_told(first) == ("1000", str(1_000 - ESTIMATE), "1m0s")
    assert await remaining(world) == 1_000 - 15, "9 prompt tokens and 6 of the answer were settled"
    assert (await world.post(BODY)).status_code == 200
    assert await remaining(world) == 1_000 - 30


async def test_tokens_that_are_not_there_are_refused_until_they_are(world: Any) -> None:
    limited(world, tokens=1_000)
    usage = money_pb2.Usage(input_tokens=700, output_tokens=100, provenance=money_pb2.USAGE_PROVENANCE_PROVIDER)
    world.router.streams(usage=usage)
    assert (await world.chat(stream=True)).status_code == 200
    await asyncio.sleep(0)
    world.clock.advance(20_300)
    world.router.answers()
    refused = await world.post(BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["message"] == (
        "The limit of this API key is 1000 tokens per minute; 200 of it are left, "
        f"and this request may take {ESTIMATE}. Try again in 40 seconds."
    )
    assert refused.headers["retry-after"] == "40"
    assert tokens_told(refused) == ("1000", "200", "39.7s")
    world.clock.advance(40_000)
    assert (await world.post(BODY)).status_code == 200


async def test_whoever_must_wait_for_both_limits_is_told_the_longer_time(world: Any) -> None:
    """A long answer counts when it is there; by then its call has left, and others have come."""
    limited(world, requests=2, tokens=1_000)
    usage = money_pb2.Usage(input_tokens=900, provenance=money_pb2.USAGE_PROVENANCE_PROVIDER)
    over = asyncio.Event()
    world.router.streams(usage=usage)
    world.router.script.insert(1, over)
    long = asyncio.create_task(world.chat(stream=True))
    await world.router.begun.wait()
    world.clock.advance(50_000)
    over.set()
    assert (await long).status_code == 200
    await asyncio.sleep(0)
    world.clock.advance(20_000)
    world.router.answers()
    assert (await world.chat()).status_code == 200
    refused = await world.post(BODY)
    assert tokens_told(refused)[2] == "1m0s"
    assert (refused.headers["x-ratelimit-remaining"], refused.headers["retry-after"]) == ("0", "60")
    world.clock.advance(40_000)
    assert (await world.post(BODY)).status_code == 429, "the tokens are there again, and the calls are not"
    world.clock.advance(20_000)
    assert (await world.post(BODY)).status_code == 200


async def test_a_request_above_the_whole_limit_is_told_that_waiting_is_in_vain(world: Any) -> None:
    limited(world, tokens=500)
    refused = await world.post(BODY)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in refused.headers
    assert f"500 tokens per minute, and this request may take {ESTIMATE}" in refused.json()["error"]["message"]
    assert await remaining(world) == 500


async def test_a_replay_and_a_repeat_use_no_tokens(world: Any) -> None:
    limited(world, tokens=10_000)
    landing = flights_pb2.Landing(request_id="req_1", openai_body=b"{}", receipt_id="rcpt_1", usage=USAGE)
    world.flights.script = [flights_pb2.BoardResponse(landed=landing)]
    repeat = await world.chat({"idempotency-key": "k"})
    assert repeat.headers["idempotent-replayed"] == "true"
    assert await remaining(world) == 10_000
    world.cache.holds(stream=False)
    assert (await world.chat()).headers["x-served-mode"] == "exact"
    assert int(tokens_told(await world.chat(max_tokens=1))[1]) > 9_900


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (ErrorReason.ERROR_REASON_UPSTREAM_ERROR, 0),
        (ErrorReason.ERROR_REASON_BUDGET_EXCEEDED, 0),
        (ErrorReason.ERROR_REASON_UNAVAILABLE, ESTIMATE),
        (ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, ESTIMATE),
    ],
)
async def test_the_estimate_stays_where_it_is_not_known_what_was_used(world: Any, error: Any, used: int) -> None:
    limited(world, tokens=10_000)
    world.router.script = [MeshError(error, "told so")]
    await world.post(BODY)
    assert await remaining(world) == 10_000 - used


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, 0),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": None, "n": None}, 0),
    ],
)
async def test_the_estimate_is_a_quarter_of_the_bytes_and_the_answer_allowed(
    world: Any, fields: dict[str, Any], answer: int
) -> None:
    limited(world, tokens=1_000)
    response = await world.chat(**fields)
    assert tokens_told(response)[1] == str(1_000 - -(-len(response.request.content) // 4) - answer)


def test_durations_are_rounded_up() -> None:
    assert [seconds(us) for us in (0, 1, 1_000_000, 1_000_001)] == [0, 1, 1, 2]
    shown = [go_duration(us) for us in (0, 1, 12_000, 999_001, 8_640_000, 59_999_500, 60_500_000)]
    assert shown == ["0s", "1ms", "12ms", "1s", "8.64s", "1m0s", "1m0.5s"]


def test_a_client_has_its_ipv6_network_for_itself() -> None:
    assert site_of("2001:db8:1:2:aaaa::1") == site_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert site_of("2001:db8:1:3::1") != site_of("2001:db8:1:2::1")
    assert site_of("::ffff:203.0.113.7") == site_of("203.0.113.7") == "203.0.113.7"
    assert site_of("") == ""
