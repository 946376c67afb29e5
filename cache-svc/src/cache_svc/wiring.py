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
    FlightLimits,
    FlightService,
    FlightStore,
    Limits,
    NewEpoch,
    QueueLimits,
    RecordBounds,
    Recorder,
    Recordings,
    RecordStore,
)
from cache_svc.servicer import CacheServicer, FlightServicer
from cache_svc.servicer.recordings import RecordingServicer
from cache_svc.settings import CacheSettings
from cache_svc.store.guarded import GuardedStore
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.memory_records import MemoryRecords
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_flights import RedisFlights
from cache_svc.store.redis_records import RedisRecords
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.cache.v1 import cache_pb2_grpc, flights_pb2_grpc, recordings_pb2_grpc


@asynccontextmanager
async def build(
    settings: CacheSettings, dial: Dial, telemetry: Telemetry, *, clock: Clock | None = None
) -> AsyncIterator[Register]:
    """The servicers, ready to be added to a server; the backend is closed when the context ends. ``clock``: in place of
    the machine's, for whoever lives through another time.
    """
    del dial, telemetry  # the cache calls no other service, and its spans are those of its calls
    clock = clock or SystemClock()
    waiting = queue_limits(settings)
    async with open_stores(settings, clock) as stores, Recorder(stores.records, clock, waiting).running() as recorder:
        limits = Limits(max_entry_bytes=settings.max_entry_bytes, ttl_s=settings.ttl_s)
        recordings = Recordings(stores.records, recorder, record_bounds(settings), waiting)
        servicer = CacheServicer(CacheService(stores.entries, clock, limits), recorder, recordings)
        flights = FlightServicer(FlightService(stores.flights, clock, flight_limits(settings)))

        def register(server: grpc.aio.Server) -> None:
            cache_pb2_grpc.add_CacheServiceServicer_to_server(servicer, server)
            flights_pb2_grpc.add_FlightServiceServicer_to_server(flights, server)
            recordings_pb2_grpc.add_RecordingServiceServicer_to_server(RecordingServicer(recordings), server)

        yield register


@dataclass(frozen=True, slots=True)
class Stores:
    """Over one backend."""

    entries: EntryStore
    flights: FlightStore
    records: RecordStore


@asynccontextmanager
async def open_stores(settings: CacheSettings, clock: Clock) -> AsyncIterator[Stores]:
    """The stores that ``settings.url`` names."""
    if settings.url == "memory://":
        yield Stores(
            MemoryStore(max_bytes=settings.max_bytes, clock=clock, new_epoch=epochs_of(clock)),
            MemoryFlights(max_bytes=settings.flight_max_bytes, clock=clock),
            MemoryRecords(record_bounds(settings), max_bytes=settings.recording_total_max_bytes, clock=clock),
        )
        return
    client = connect(settings.url, timeout_s=settings.redis_timeout_s, max_connections=settings.redis_max_connections)
    redis_store = RedisStore(client, new_epoch=epochs_of(clock))
    try:
        yield Stores(
            GuardedStore(redis_store, clock, retry_after_s=settings.redis_retry_after_s),
            RedisFlights(client),
            RedisRecords(client, record_bounds(settings), clock=clock),
        )
    finally:
        await redis_store.aclose()


def flight_limits(settings: CacheSettings) -> FlightLimits:
    """The bounds of flights."""
    return FlightLimits(
        max_landing_bytes=settings.flight_max_answer_bytes,
        ttl_s=settings.flight_ttl_s,
        max_wait_s=settings.flight_max_wait_s,
        max_lease_s=settings.flight_max_lease_s,
    )


def record_bounds(settings: CacheSettings) -> RecordBounds:
    """The bounds of the records of one organisation."""
    return RecordBounds(
        max_records=settings.recording_max_records,
        max_bytes=settings.recording_max_bytes,
        ttl_s=settings.recording_ttl_s,
    )


def queue_limits(settings: CacheSettings) -> QueueLimits:
    """What is recorded at all, and waits to be written."""
    return QueueLimits(
        max_record_bytes=settings.recording_max_record_bytes,
        max_waiting_bytes=settings.recording_max_waiting_bytes,
    )


def epochs_of(clock: Clock) -> NewEpoch:
    """Unix milliseconds and 20 random bits: unlike any epoch that was begun and forgotten before."""
    return lambda: clock.now_ms() << 20 | secrets.randbits(20)
