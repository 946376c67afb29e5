"""The cache, put together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from cache_svc.service import (
    CacheService,
    CanonicalTier,
    Counters,
    EntryStore,
    FillLimits,
    FillService,
    FillStore,
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
    SemanticCounters,
    UpperTier,
)
from cache_svc.servicer import CacheServicer
from cache_svc.servicer.fills import FillServicer
from cache_svc.servicer.flights import FlightServicer
from cache_svc.servicer.recordings import RecordingServicer
from cache_svc.settings import CacheSettings
from cache_svc.store.guarded import Breaker, GuardedStore
from cache_svc.store.guarded_fills import GuardedFills
from cache_svc.store.memory import MemoryStore, sweeping
from cache_svc.store.memory_fills import MemoryFills
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.memory_records import MemoryRecords
from cache_svc.store.packed import PackedStore
from cache_svc.store.shared import SharedStore
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.cache.v1 import cache_pb2_grpc, fills_pb2_grpc, flights_pb2_grpc, recordings_pb2_grpc

if TYPE_CHECKING:
    from redis.asyncio import Redis


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
        counters = Counters()
        tiers: list[UpperTier] = [CanonicalTier(stores.entries)]
        if settings.semantic:
            tiers.append(semantic_tier(settings, clock, stores.client, counters.semantic))
        answers = CacheService(stores.entries, clock, limits, tiers, counters, stores.fills)
        recordings = Recordings(stores.records, recorder, record_bounds(settings), waiting)
        filling = FillService(stores.fills, fill_limits(settings))
        servicer = CacheServicer(answers, filling, recorder, recordings)
        fills = FillServicer(filling, clock)
        flights = FlightServicer(FlightService(stores.flights, clock, flight_limits(settings)))

        def register(server: grpc.aio.Server) -> None:
            cache_pb2_grpc.add_CacheServiceServicer_to_server(servicer, server)
            flights_pb2_grpc.add_FlightServiceServicer_to_server(flights, server)
            recordings_pb2_grpc.add_RecordingServiceServicer_to_server(RecordingServicer(recordings), server)
            fills_pb2_grpc.add_FillServiceServicer_to_server(fills, server)

        yield register


SEMANTIC_PACKAGES = ("numpy", "wordllama")
"""What the extra `semantic` installs."""


class SemanticMissing(Exception):
    """The semantic tier is switched on and its packages are not installed."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Over one backend. ``client``: of Redis, where that is the backend."""

    entries: EntryStore
    flights: FlightStore
    fills: FillStore
    records: RecordStore
    client: Redis | None = None


@asynccontextmanager
async def open_stores(settings: CacheSettings, clock: Clock) -> AsyncIterator[Stores]:
    """The stores that ``settings.url`` names."""
    if settings.url == "memory://":
        memory = MemoryStore(max_bytes=settings.max_bytes, clock=clock, new_epoch=epochs_of(clock))
        flights = MemoryFlights(max_bytes=settings.flight_max_bytes, clock=clock)
        sweeper = asyncio.create_task(sweeping(memory, flights, every_s=settings.sweep_every_s))
        try:
            yield Stores(
                _packed(memory, settings),
                flights,
                MemoryFills(clock),
                MemoryRecords(record_bounds(settings), max_bytes=settings.recording_total_max_bytes, clock=clock),
            )
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        return
    async with _on_redis(settings, clock) as stores:
        yield stores


@asynccontextmanager
async def _on_redis(settings: CacheSettings, clock: Clock) -> AsyncIterator[Stores]:
    # Not above: the client takes 20 MB, which one process alone has no use for.
    from cache_svc.store.redis import RedisStore, connect  # noqa: PLC0415
    from cache_svc.store.redis_commands import RedisCommands  # noqa: PLC0415
    from cache_svc.store.redis_fills import RedisFills, subscriber  # noqa: PLC0415
    from cache_svc.store.redis_flights import RedisFlights  # noqa: PLC0415
    from cache_svc.store.redis_records import RedisRecords  # noqa: PLC0415

    client = connect(
        settings.url,
        timeout_s=settings.redis_timeout_s,
        max_connections=settings.redis_max_connections,
        queue_s=settings.redis_queue_s,
    )
    commands = RedisCommands(client)
    breaker = Breaker(clock, retry_after_s=settings.redis_retry_after_s)
    guarded = GuardedStore(RedisStore(commands, new_epoch=epochs_of(clock)), breaker)
    fills = RedisFills(commands, subscriber(settings.url, timeout_s=settings.redis_timeout_s))
    try:
        yield Stores(
            SharedStore(_packed(guarded, settings)),
            RedisFlights(commands),
            GuardedFills(fills, breaker),
            RedisRecords(client, record_bounds(settings), clock=clock),
            client,
        )
    finally:
        await fills.aclose()
        await commands.aclose()


def _packed(store: EntryStore, settings: CacheSettings) -> EntryStore:
    return PackedStore(store, from_bytes=settings.compress_from_bytes, max_bytes=settings.max_entry_bytes)


def semantic_tier(settings: CacheSettings, clock: Clock, client: Redis | None, counters: SemanticCounters) -> UpperTier:
    """The tier with its model loaded.

    Raises:
        SemanticMissing: its packages are not installed.
    """
    # Not above: these packages are an extra, and cost 80 MB of memory.
    try:
        from cache_svc.service.semantic import SemanticTier  # noqa: PLC0415
        from cache_svc.sources.embeddings import WordEmbedder  # noqa: PLC0415
        from cache_svc.store.memory_vectors import MemoryComparisons, MemoryVectors  # noqa: PLC0415
        from cache_svc.store.redis_vectors import DetectedVectors, RedisComparisons  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in SEMANTIC_PACKAGES:
            raise
        raise SemanticMissing(
            f"TALLYGATE_CACHE_SEMANTIC is on, and {error.name} is not installed: "
            "install tallygate-cache[semantic], or switch it off"
        ) from error
    vectors = MemoryVectors(max_bytes=settings.semantic_max_bytes, clock=clock)
    random = secrets.SystemRandom().random
    if client is None:
        return SemanticTier(WordEmbedder(), vectors, MemoryComparisons(clock=clock), random, counters)
    return SemanticTier(WordEmbedder(), DetectedVectors(client, vectors), RedisComparisons(client), random, counters)


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


def fill_limits(settings: CacheSettings) -> FillLimits:
    """The bounds of flights of identical requests."""
    return FillLimits(
        max_lease_s=settings.flight_max_lease_s, max_wait_s=settings.flight_max_wait_s, alone_s=settings.fill_alone_s
    )


def epochs_of(clock: Clock) -> NewEpoch:
    """Unix milliseconds and 20 random bits: unlike any epoch that was begun and forgotten before."""
    return lambda: clock.now_ms() << 20 | secrets.randbits(20)
