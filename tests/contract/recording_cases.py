"""Cases of the records that the cache keeps."""

from __future__ import annotations

import json

from tallygate.cache.v1 import cache_pb2, recordings_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tests.contract.cache_cases import lookup
from tests.contract.cases import FRESH_NANO_USD, REPLAY_NANO_USD, TIMEOUT_S, body, covers, facts, price, refused
from tests.contract.world import World
from tests.harness.waiting import next_millisecond


async def record(world: World) -> bytes:
    """Has a fresh answer recorded and not stored; gives the request's body."""
    next_millisecond()  # what is asked in the one in which all was forgotten is forgotten as well
    request_body = body(temperature=1, marker=world.request_id())
    asked = lookup(world, request_body)
    asked.controls.record = True
    miss = (await world.cache.Lookup(asked, timeout=TIMEOUT_S)).miss
    assert miss.reason == cache_pb2.Miss.REASON_NOT_ELIGIBLE
    request = cache_pb2.StoreRequest(
        principal=world.principal,
        ticket=miss.ticket,
        openai_body=request_body,
        answer_body=b'{"choices":[]}',
        usage=facts().usage,
        price=price(),
        receipt_id="rcpt_recorded",
        source_id="scripted",
    )
    assert not (await world.cache.Store(request, timeout=TIMEOUT_S)).stored
    return request_body


@covers("RecordingService/ListRecordings")
async def list_recordings(world: World) -> None:
    asked = [await record(world) for _ in range(3)]
    request = recordings_pb2.ListRecordingsRequest(org_id=world.org_id, page_size=1)
    found: list[recordings_pb2.Recording] = []
    while True:
        page = await world.recordings.ListRecordings(request, timeout=TIMEOUT_S)
        found += page.recordings
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    recorded = [json.loads(one.openai_body)["marker"] for one in found]
    assert recorded[-3:] == [json.loads(one)["marker"] for one in asked]
    last = found[-1]
    assert (last.fresh_nano_usd, last.replay_nano_usd) == (FRESH_NANO_USD, REPLAY_NANO_USD)
    assert (last.receipt_id, last.usage, last.answer) == ("rcpt_recorded", facts().usage, b'{"choices":[]}')
    assert last.why_not_stored.startswith("sampled")
    elsewhere = recordings_pb2.ListRecordingsRequest(org_id="org_other", page_size=1)
    assert not (await world.recordings.ListRecordings(elsewhere, timeout=TIMEOUT_S)).recordings
    request.page_token = "no page's"
    await refused(world.recordings.ListRecordings(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("RecordingService/DescribeRecordings")
async def describe_recordings(world: World) -> None:
    request = recordings_pb2.DescribeRecordingsRequest(org_id=world.org_id)
    before = await world.recordings.DescribeRecordings(request, timeout=TIMEOUT_S)
    await record(world)
    after = await world.recordings.DescribeRecordings(request, timeout=TIMEOUT_S)
    assert (after.records - before.records, after.bytes > before.bytes) == (1, True)
    assert 0 < after.oldest_at_ms <= after.newest_at_ms
    assert (after.max_records, after.max_bytes, after.ttl_s) == (10_000, 64 * 2**20, 7 * 86_400)
    nobody = recordings_pb2.DescribeRecordingsRequest()
    await refused(
        world.recordings.DescribeRecordings(nobody, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST
    )


@covers("RecordingService/ForgetRecordings")
async def forget_recordings(world: World) -> None:
    await record(world)
    request = recordings_pb2.ForgetRecordingsRequest(org_id=world.org_id)
    assert (await world.recordings.ForgetRecordings(request, timeout=TIMEOUT_S)).forgotten > 0
    assert (await world.recordings.ForgetRecordings(request, timeout=TIMEOUT_S)).forgotten == 0
    request.grace_ms = 60_001
    await refused(
        world.recordings.ForgetRecordings(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST
    )
    listing = recordings_pb2.ListRecordingsRequest(org_id=world.org_id, page_size=1)
    assert not (await world.recordings.ListRecordings(listing, timeout=TIMEOUT_S)).recordings
