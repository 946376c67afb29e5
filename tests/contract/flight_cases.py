"""Cases of flights."""

from __future__ import annotations

import asyncio
import hashlib

from tallygate.cache.v1 import flights_pb2
from tallygate.common.v1 import principal_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tests.contract.cases import TIMEOUT_S, covers, facts, refused
from tests.contract.world import World

ABANDON = flights_pb2.AbandonRequest


def board(
    world: World, key: str, token: str, *, content: bytes = b"body", wait_ms: int = 0
) -> flights_pb2.BoardRequest:
    return flights_pb2.BoardRequest(
        principal=world.principal,
        kind=flights_pb2.FLIGHT_KIND_IDEMPOTENT_REQUEST,
        key=key,
        fingerprint=hashlib.sha256(content).digest(),
        token=token,
        lease_ms=20_000,
        wait_ms=wait_ms,
    )


async def led(world: World, key: str, token: str = "first") -> flights_pb2.FlightPass:
    answer = await world.flights.Board(board(world, key, token), timeout=TIMEOUT_S)
    assert answer.WhichOneof("outcome") == "lead"
    return answer.lead


def landing(request_id: str = "req_1") -> flights_pb2.Landing:
    return flights_pb2.Landing(
        request_id=request_id,
        chunks=[b'{"a": 1}', b'{"b":2}'],
        usage_chunk=b'{"usage":{}}',
        usage=facts().usage,
        charged_nano_usd=200_000,
        receipt_id="rcpt_1",
        trace_id="0" * 32,
    )


@covers("FlightService/Board")
async def flight_board(world: World) -> None:
    key = world.request_id()
    first = await led(world, key)
    assert (len(first.name), first.token, first.run) == (32, "first", 0)
    assert await led(world, key) == first, "the same token again is the same lead"
    second = await world.flights.Board(board(world, key, "second", wait_ms=20), timeout=TIMEOUT_S)
    assert second.WhichOneof("outcome") == "underway"
    other_body = board(world, key, "third", content=b"another")
    await refused(world.flights.Board(other_body, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT)
    await _is_walled_off(world, key)
    await _refuses_what_has_no_scope(world, key)


async def _is_walled_off(world: World, key: str) -> None:
    """Another organisation, or another API key, leads a flight of its own under the same key."""
    payer = world.principal
    for other in (
        principal_pb2.Principal(org_id="org_other", project_id=payer.project_id, key_id=payer.key_id),
        principal_pb2.Principal(org_id=payer.org_id, project_id=payer.project_id, key_id="key_other"),
    ):
        request = board(world, key, "other", content=b"another")
        request.principal.CopyFrom(other)
        assert (await world.flights.Board(request, timeout=TIMEOUT_S)).HasField("lead")


async def _refuses_what_has_no_scope(world: World, key: str) -> None:
    without_org, without_key_id = board(world, key, "spoiled"), board(world, key, "spoiled")
    without_org.principal.org_id = without_key_id.principal.key_id = ""
    incomplete = [without_org, without_key_id]
    for name in ("kind", "key", "token", "fingerprint", "lease_ms"):
        request = board(world, key, "spoiled")
        request.ClearField(name)
        incomplete.append(request)
    for request in incomplete:
        await refused(world.flights.Board(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("FlightService/Renew")
async def flight_renew(world: World) -> None:
    ticket = await led(world, world.request_id())
    request = flights_pb2.RenewRequest(ticket=ticket, lease_ms=20_000)
    assert (await world.flights.Renew(request, timeout=TIMEOUT_S)).leads
    request.ticket.token = "another"
    assert not (await world.flights.Renew(request, timeout=TIMEOUT_S)).leads
    request.ticket.name = b"short"
    await refused(world.flights.Renew(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("FlightService/Land")
async def flight_land(world: World) -> None:
    key = world.request_id()
    ticket = await led(world, key)
    waiting = asyncio.create_task(_boarded(world, key, "second"))
    request = flights_pb2.LandRequest(ticket=ticket, landing=landing())
    kept = await world.flights.Land(request, timeout=TIMEOUT_S)
    assert kept.kept == flights_pb2.LandResponse.KEPT_WHOLE
    assert (await waiting).landed == landing()
    assert (await _boarded(world, key, "third")).landed == landing()
    again = await world.flights.Land(
        flights_pb2.LandRequest(ticket=ticket, landing=landing("req_2")), timeout=TIMEOUT_S
    )
    assert again.kept == flights_pb2.LandResponse.KEPT_NOTHING
    request.landing.ClearField("receipt_id")
    await refused(world.flights.Land(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


async def _boarded(world: World, key: str, token: str) -> flights_pb2.BoardResponse:
    return await world.flights.Board(board(world, key, token, wait_ms=5_000), timeout=TIMEOUT_S)


@covers("FlightService/Abandon")
async def flight_abandon(world: World) -> None:
    key = world.request_id()
    ticket = await led(world, key)
    request = ABANDON(ticket=ticket, ending=ABANDON.ENDING_RELEASED)
    assert (await world.flights.Abandon(request, timeout=TIMEOUT_S)).abandoned
    assert not (await world.flights.Abandon(request, timeout=TIMEOUT_S)).abandoned
    assert (await led(world, key, "second")).run == 1
    request.ClearField("ending")
    await refused(world.flights.Abandon(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
