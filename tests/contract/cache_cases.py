"""Cases of the cache."""

from __future__ import annotations

import json

from tallygate.cache.v1 import cache_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tests.contract.cases import (
    MODEL,
    TIMEOUT_S,
    body,
    covers,
    facts,
    price,
    refused,
)
from tests.contract.world import World


def lookup(world: World, request_body: bytes) -> cache_pb2.LookupRequest:
    return cache_pb2.LookupRequest(
        principal=world.principal,
        endpoint="chat/completions",
        model=MODEL,
        policy_epoch="epoch",
        openai_body=request_body,
        controls=cache_pb2.CacheControls(mode=cache_pb2.CacheControls.MODE_DEFAULT),
        completion_id="chatcmpl-case",
    )


async def stored(world: World, request_body: bytes, miss: cache_pb2.Miss | None = None) -> cache_pb2.StoreResponse:
    """Stores an answer to ``request_body``; ``miss``: of its lookup, and ends the flight of it."""
    miss = miss or (await world.cache.Lookup(lookup(world, request_body), timeout=TIMEOUT_S)).miss
    answer = {
        "id": "chatcmpl-origin",
        "object": "chat.completion",
        "created": 1,
        "model": "ok",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
    request = cache_pb2.StoreRequest(
        principal=world.principal,
        ticket=miss.ticket,
        openai_body=request_body,
        answer_body=json.dumps(answer).encode(),
        usage=facts().usage,
        price=price(),
        receipt_id="rcpt_origin",
        source_id="scripted",
        upstream_model="ok",
        lead=miss.lead if miss.HasField("lead") else None,
    )
    return await world.cache.Store(request, timeout=TIMEOUT_S)


@covers("CacheService/Lookup")
async def cache_lookup(world: World) -> None:
    request = lookup(world, body(user=world.request_id()))
    request.controls.MergeFrom(cache_pb2.CacheControls(ttl_s=9, record=True))
    miss = await world.cache.Lookup(request, timeout=TIMEOUT_S)
    assert miss.miss.reason == cache_pb2.Miss.REASON_NOT_STORED
    ticket = miss.miss.ticket
    assert (len(ticket.key), ticket.ttl_s, ticket.share_in_org, ticket.record) == (32, 9, False, True)
    request.controls.share_in_org = True
    shared = (await world.cache.Lookup(request, timeout=TIMEOUT_S)).miss.ticket
    assert shared.share_in_org
    assert shared.key != ticket.key
    broken = lookup(world, b'{"a":1,"a":2}')
    await refused(world.cache.Lookup(broken, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("CacheService/Store")
async def cache_store(world: World) -> None:
    request_body = body(user=world.request_id())
    kept = await stored(world, request_body)
    assert kept.stored, kept.reason
    hit = (await world.cache.Lookup(lookup(world, request_body), timeout=TIMEOUT_S)).hit
    answer = json.loads(hit.openai_body)
    assert (answer["id"], answer["choices"][0]["message"]["content"]) == ("chatcmpl-case", "yes")
    assert (hit.origin_receipt_id, hit.source_id, hit.upstream_model) == ("rcpt_origin", "scripted", "ok")
    assert (hit.usage, hit.price) == (facts().usage, price())


@covers("CacheService/Purge")
async def cache_purge(world: World) -> None:
    request_body = body(user=world.request_id())
    await stored(world, request_body)
    purged = await world.cache.Purge(cache_pb2.PurgeRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    again = await world.cache.Purge(cache_pb2.PurgeRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    assert again.epoch > purged.epoch
    after = await world.cache.Lookup(lookup(world, request_body), timeout=TIMEOUT_S)
    assert after.WhichOneof("outcome") == "miss"
    await stored(world, request_body)
    prefix = (await world.cache.Lookup(lookup(world, request_body), timeout=TIMEOUT_S)).hit.key_digest[:16]
    request = cache_pb2.PurgeRequest(org_id=world.org_id, key_prefix=prefix)
    for forgotten in (1, 0):
        assert (await world.cache.Purge(request, timeout=TIMEOUT_S)).forgotten == forgotten
    request.model = MODEL
    await refused(world.cache.Purge(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("CacheService/GetStats")
async def cache_stats(world: World) -> None:
    before = await world.cache.GetStats(cache_pb2.GetStatsRequest(), timeout=TIMEOUT_S)
    request_body = body(user=world.request_id())
    await stored(world, request_body)
    await world.cache.Lookup(lookup(world, request_body), timeout=TIMEOUT_S)
    after = await world.cache.GetStats(cache_pb2.GetStatsRequest(), timeout=TIMEOUT_S)
    grown = (after.misses - before.misses, after.stores - before.stores, after.hits - before.hits)
    assert grown == (1, 1, 1)
    of_org = await world.cache.GetStats(cache_pb2.GetStatsRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    (group,) = of_org.groups
    assert (group.project_id, group.model) == (world.project_id, MODEL)
    assert (group.hits, group.misses, group.stores) == (of_org.hits, of_org.misses, of_org.stores)
    assert (group.entries > 0, group.bytes > 0, of_org.holdings_known) == (True, True, True)
    other = await world.cache.GetStats(cache_pb2.GetStatsRequest(org_id="org_other"), timeout=TIMEOUT_S)
    assert (list(other.groups), other.hits) == ([], 0)
