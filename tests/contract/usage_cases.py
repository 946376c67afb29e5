"""Cases of the ledger's usage service."""

from __future__ import annotations

from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1 import usage_pb2 as pb
from tests.contract.cases import TIMEOUT_S, covers, refused
from tests.contract.world import World

_AT_MS = 1_750_000_000_000
_HOUR_MS = 3_600_000


def _failure(world: World, request_id: str) -> pb.FailedRequest:
    return pb.FailedRequest(
        request_id=request_id,
        org_id=world.org_id,
        project_id=world.project_id,
        key_id=world.principal.key_id,
        requested_model="alias",
        model="m",
        http_status=429,
        error_code="rate_limit_exceeded",
        latency_ms=7,
        tags={"team": "search"},
        at_ms=_AT_MS,
    )


@covers("UsageService/RecordFailures")
async def record_failures(world: World) -> None:
    request = pb.RecordFailuresRequest(failures=[_failure(world, world.request_id())] * 2)
    assert (await world.usage.RecordFailures(request, timeout=TIMEOUT_S)).recorded == 1
    assert (await world.usage.RecordFailures(request, timeout=TIMEOUT_S)).recorded == 0
    request.failures[0].request_id = ""
    await refused(world.usage.RecordFailures(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("UsageService/QueryUsage")
async def query_usage(world: World) -> None:
    failures = pb.RecordFailuresRequest(failures=[_failure(world, world.request_id())])
    await world.usage.RecordFailures(failures, timeout=TIMEOUT_S)
    request = pb.QueryUsageRequest(
        org_id=world.org_id,
        from_ms=_AT_MS,
        to_ms=_AT_MS + 1,
        group_by=[pb.USAGE_DIMENSION_TAG, pb.USAGE_DIMENSION_HOUR],
        tag_key="team",
    )
    found = await world.usage.QueryUsage(request, timeout=TIMEOUT_S)
    start_ms = _AT_MS // _HOUR_MS * _HOUR_MS
    assert (found.from_ms, found.to_ms) == (start_ms, start_ms + _HOUR_MS)
    assert [list(group.values) for group in found.groups] == [["search", str(start_ms)]]
    assert found.total.errors == found.groups[0].sums.errors >= 1
    assert (found.total.requests, found.total.HasField("latency")) == (0, False)
    request.group_by.append(pb.USAGE_DIMENSION_KEY)
    await refused(world.usage.QueryUsage(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("UsageService/ListRequests")
async def list_requests(world: World) -> None:
    names = [world.request_id() for _ in range(3)]
    failures = pb.RecordFailuresRequest(failures=[_failure(world, name) for name in names])
    await world.usage.RecordFailures(failures, timeout=TIMEOUT_S)
    request = pb.ListRequestsRequest(
        org_id=world.org_id, page_size=1, to_ms=_AT_MS + 1, tag_key="team", tag_value="search"
    )
    found: list[str] = []
    while True:
        page = await world.usage.ListRequests(request, timeout=TIMEOUT_S)
        found += [entry.request_id for entry in page.requests]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert set(names) <= set(found)
    assert found == sorted(set(found), reverse=True)
    request.page_token = "x"
    await refused(world.usage.ListRequests(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("UsageService/GetRequest")
async def get_request(world: World) -> None:
    name = world.request_id()
    failures = pb.RecordFailuresRequest(failures=[_failure(world, name)])
    await world.usage.RecordFailures(failures, timeout=TIMEOUT_S)
    request = pb.GetRequestRequest(org_id=world.org_id, request_id=name)
    found = (await world.usage.GetRequest(request, timeout=TIMEOUT_S)).request
    assert (found.status, found.http_status, found.error_code) == (
        pb.REQUEST_STATUS_ERROR,
        429,
        "rate_limit_exceeded",
    )
    assert (found.requested_model, found.model, found.latency_ms, dict(found.tags)) == (
        *("alias", "m", 7),
        {"team": "search"},
    )
    assert not found.HasField("receipt")
    request.org_id = "org_other"
    await refused(world.usage.GetRequest(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("UsageService/ListMovements")
async def list_movements(world: World) -> None:
    request = pb.ListMovementsRequest(org_id=world.org_id, page_size=1)
    page = await world.usage.ListMovements(request, timeout=TIMEOUT_S)
    first, closing, total = page.movements[0], page.closing_nano_usd, 0
    assert (first.kind, first.credit_kind) == (pb.MOVEMENT_KIND_CREDIT, ledger_pb2.CREDIT_KIND_PAID)
    assert page.opening_nano_usd == 0
    while True:
        total += sum(movement.amount_nano_usd for movement in page.movements)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        page = await world.usage.ListMovements(request, timeout=TIMEOUT_S)
    assert total == closing
    request.page_token = "x"
    await refused(world.usage.ListMovements(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
    request = pb.ListMovementsRequest(org_id="org_other")
    await refused(world.usage.ListMovements(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("UsageService/RebuildUsage")
async def rebuild_usage(world: World) -> None:
    asked = pb.QueryUsageRequest(
        org_id=world.org_id, from_ms=_AT_MS, to_ms=_AT_MS + 1, group_by=[pb.USAGE_DIMENSION_KEY]
    )
    before = await world.usage.QueryUsage(asked, timeout=TIMEOUT_S)
    answer = await world.usage.RebuildUsage(pb.RebuildUsageRequest(), timeout=TIMEOUT_S)
    assert answer.receipts >= 0
    assert await world.usage.QueryUsage(asked, timeout=TIMEOUT_S) == before
