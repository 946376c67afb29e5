"""Cases of flights of identical requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tallygate.cache.v1 import cache_pb2, fills_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tests.contract.cache_cases import lookup, stored
from tests.contract.cases import TIMEOUT_S, body, covers, facts, price, refused
from tests.contract.world import World

ENDED = fills_pb2.FillEnded
BEGAN = fills_pb2.FillBegan(source_id="scripted", held_nano_usd=1_000, replay_bps=2_500)
LEASE_MS = 20_000


async def looked_up(world: World, request_body: bytes, token: str) -> cache_pb2.LookupResponse:
    request = lookup(world, request_body)
    request.claim.CopyFrom(cache_pb2.FillClaim(token=token, lease_ms=LEASE_MS))
    return await world.cache.Lookup(request, timeout=TIMEOUT_S)


async def flown(world: World, request_body: bytes) -> tuple[cache_pb2.Miss, cache_pb2.FillLead]:
    """The miss of who leads, and what a second one is told to follow."""
    first = (await looked_up(world, request_body, "first")).miss
    second = (await looked_up(world, request_body, "second")).miss
    assert (first.lead.token, first.lead.lease_ms, first.HasField("underway")) == ("first", LEASE_MS, False)
    assert (second.underway.token, second.underway.name, second.HasField("lead")) == ("first", first.lead.name, False)
    assert second.ticket == first.ticket
    return first, second.underway


def follow(world: World, lead: cache_pb2.FillLead, *, live: bool = True) -> AsyncIterator[fills_pb2.FollowResponse]:
    asked = fills_pb2.FollowRequest(lead=lead, live=live, completion_id="gen_follower")
    return aiter(world.fills.Follow(asked, timeout=TIMEOUT_S))


def attend(lead: cache_pb2.FillLead, wait_ms: int = 0) -> fills_pb2.AttendRequest:
    return fills_pb2.AttendRequest(lead=lead, lease_ms=LEASE_MS, wait_ms=wait_ms)


async def followed(world: World, lead: cache_pb2.FillLead) -> None:
    while not (await world.fills.Attend(attend(lead), timeout=TIMEOUT_S)).followed:  # noqa: ASYNC110 - seen by asking
        await asyncio.sleep(0)


@covers("FillService/Follow")
async def fill_follow(world: World) -> None:
    """Who waits for the end only, and who has had nothing, looks up again; and so does who comes when it is over."""
    request_body = body(user=world.request_id())
    miss, underway = await flown(world, request_body)
    following = asyncio.ensure_future(anext(follow(world, underway, live=False)))
    await world.fills.Publish(fills_pb2.PublishRequest(lead=miss.lead, payloads=[b"{}"]), timeout=TIMEOUT_S)
    await followed(world, miss.lead)
    assert (await stored(world, request_body, miss)).stored
    ended = (await following).ended
    assert (ended.outcome, ended.receipt_id, ended.usage, ended.price) == (
        ENDED.OUTCOME_STORED,
        "rcpt_origin",
        facts().usage,
        price(),
    )
    assert (await looked_up(world, request_body, "second")).HasField("hit")
    late = await anext(follow(world, underway, live=False))
    assert late.ended.outcome in (ENDED.OUTCOME_LOST, ENDED.OUTCOME_STORED)
    unnamed = fills_pb2.FollowRequest(lead=miss.lead, live=True)
    await refused(
        anext(aiter(world.fills.Follow(unnamed, timeout=TIMEOUT_S))), ErrorReason.ERROR_REASON_INVALID_REQUEST
    )


@covers("FillService/Attend")
async def fill_attend(world: World) -> None:
    miss, underway = await flown(world, body(user=world.request_id()))
    alone = await world.fills.Attend(attend(miss.lead, wait_ms=20), timeout=TIMEOUT_S)
    assert (alone.leads, alone.followed, alone.live) == (True, False, False)
    waiting = asyncio.ensure_future(world.fills.Attend(attend(miss.lead, wait_ms=9_000), timeout=TIMEOUT_S))
    following = asyncio.ensure_future(anext(follow(world, underway)))
    joined = await waiting
    assert (joined.leads, joined.followed, joined.live) == (True, True, True)
    await world.fills.Quit(fills_pb2.QuitRequest(lead=miss.lead), timeout=TIMEOUT_S)
    await following
    over = await world.fills.Attend(attend(miss.lead), timeout=TIMEOUT_S)
    assert not over.leads
    none = fills_pb2.AttendRequest(lead=miss.lead)
    await refused(world.fills.Attend(none, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("FillService/Publish")
async def fill_publish(world: World) -> None:
    """Chunks arrive before the end, from the beginning for who comes late, and under the follower's own id."""
    miss, underway = await flown(world, body(user=world.request_id()))
    early = follow(world, underway)
    first = fills_pb2.PublishRequest(lead=miss.lead, began=BEGAN, payloads=[b'{"id":"x","a":1}', b'{"id":"x","a":2}'])
    assert (await world.fills.Publish(first, timeout=TIMEOUT_S)).leads
    assert (await anext(early)).began == BEGAN
    late = follow(world, underway)
    assert (await anext(late)).began == BEGAN
    for events in (early, late):
        payloads = list((await anext(events)).chunks.payloads)
        assert [payload.startswith(b'{"id":"gen_follower","a":') for payload in payloads] == [True, True]
    await world.fills.Quit(fills_pb2.QuitRequest(lead=miss.lead), timeout=TIMEOUT_S)
    for events in (early, late):
        assert (await anext(events)).ended.outcome == ENDED.OUTCOME_FAILED
    assert not (await world.fills.Publish(first, timeout=TIMEOUT_S)).leads
    nothing = fills_pb2.PublishRequest(lead=miss.lead)
    await refused(world.fills.Publish(nothing, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("FillService/Quit")
async def fill_quit(world: World) -> None:
    """Of those who waited exactly one leads next."""
    request_body = body(user=world.request_id())
    miss, underway = await flown(world, request_body)
    following = [asyncio.ensure_future(anext(follow(world, underway))) for _ in range(3)]
    await followed(world, miss.lead)
    quitting = fills_pb2.QuitRequest(
        lead=miss.lead, reason=ErrorReason.ERROR_REASON_UPSTREAM_ERROR, message="the source broke off"
    )
    await world.fills.Quit(quitting, timeout=TIMEOUT_S)
    for event in await asyncio.gather(*following):
        assert event.ended.outcome in (ENDED.OUTCOME_FAILED, ENDED.OUTCOME_LOST)
    again = await asyncio.gather(*(looked_up(world, request_body, f"next{number}") for number in range(3)))
    assert [answer.miss.HasField("lead") for answer in again].count(True) == 1
    await world.fills.Quit(quitting, timeout=TIMEOUT_S)
    assert (await looked_up(world, request_body, "late")).miss.HasField("underway"), "the former leader ends no other"
    nobody = fills_pb2.QuitRequest(lead=cache_pb2.FillLead(name=b"short", token="first"))
    await refused(world.fills.Quit(nobody, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
