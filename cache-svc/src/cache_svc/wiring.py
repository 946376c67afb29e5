"""The cache, put together."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from cache_svc.service import (
    CacheService,
    EntryStore,
    FillLimits,
    FillService,
    FillStore,
    FlightLimits,
    FlightService,
    FlightStore,
    Limits,
    NewEpoch,
)
from cache_svc.servicer import CacheServicer, FlightServicer
from cache_svc.servicer.fills import FillServicer
from cache_svc.settings import CacheSettings
from cache_svc.store.guarded import GuardedStore
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_fills import MemoryFills
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_fills import RedisFills, subscriber
from cache_svc.store.redis_flights import RedisFlights
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.cache.v1 import cache_pb2_grpc, fills_pb2_grpc, flights_pb2_grpc


@asynccontextmanager
async def build(settings: CacheSettings, dial: Dial, telemetry: Telemetry) -> AsyncIterator[Register]:
    """The servicers, ready to be added to a server; the backend is closed when the context ends."""
    del dial, telemetry  # the cache calls no other service, and its spans are those of its calls
    clock = SystemClock()
    async with open_stores(settings, clock) as stores:
        limits = Limits(max_entry_bytes=settings.max_entry_bytes, ttl_s=settings.ttl_s)
        filling = FillService(stores.fills, fill_limits(settings))
        servicer = CacheServicer(CacheService(stores.entries, clock, limits, stores.fills), filling)
        fills = FillServicer(filling, clock)
        flights = FlightServicer(FlightService(stores.flights, clock, flight_limits(settings)))

        def register(server: grpc.aio.Server) -> None:
            cache_pb2_grpc.add_CacheServiceServicer_to_server(servicer, server)
            flights_pb2_grpc.add_FlightServiceServicer_to_server(flights, server)
            fills_pb2_grpc.add_FillServiceServicer_to_server(fills, server)

        yield register


@dataclass(frozen=True, slots=True)
class Stores:
    """Over one backend."""

    entries: EntryStore
    flights: FlightStore
    fills: FillStore


@asynccontextmanager
async def open_stores(settings: CacheSettings, clock: Clock) -> AsyncIterator[Stores]:
    """The stores that ``settings.url`` names."""
    if settings.url == "memory://":
        yield Stores(
            MemoryStore(max_bytes=settings.max_bytes, clock=clock, new_epoch=epochs_of(clock)),
            MemoryFlights(max_bytes=settings.flight_max_bytes, clock=clock),
            MemoryFills(clock),
        )
        return
    client = connect(settings.url, timeout_s=settings.redis_timeout_s, max_connections=settings.redis_max_connections)
    redis_store = RedisStore(client, new_epoch=epochs_of(clock))
    guarded = GuardedStore(redis_store, clock, retry_after_s=settings.redis_retry_after_s)
    fills = RedisFills(client, subscriber(settings.url, timeout_s=settings.redis_timeout_s))
    try:
        yield Stores(guarded, RedisFlights(client), fills)
    finally:
        await fills.aclose()
        await redis_store.aclose()


def flight_limits(settings: CacheSettings) -> FlightLimits:
    """The bounds of flights."""
    return FlightLimits(
        max_landing_bytes=settings.flight_max_answer_bytes,
        ttl_s=settings.flight_ttl_s,
        max_wait_s=settings.flight_max_wait_s,
        max_lease_s=settings.flight_max_lease_s,
    )


def fill_limits(settings: CacheSettings) -> FillLimits:
    """The bounds of flights of identical requests."""
    return FillLimits(
        max_lease_s=settings.flight_max_lease_s, max_wait_s=settings.flight_max_wait_s, alone_s=settings.fill_alone_s
    )


def epochs_of(clock: Clock) -> NewEpoch:
    """Unix milliseconds and 20 random bits: unlike any epoch that was begun and forgotten before."""
    return lambda: clock.now_ms() << 20 | secrets.randbits(20)
