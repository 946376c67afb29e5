"""The cache, put together."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from redis.asyncio import Redis

from cache_svc.service import (
    CacheService,
    CanonicalTier,
    Counters,
    EntryStore,
    FlightLimits,
    FlightService,
    FlightStore,
    Limits,
    NewEpoch,
    SemanticCounters,
    UpperTier,
)
from cache_svc.servicer import CacheServicer, FlightServicer
from cache_svc.settings import CacheSettings
from cache_svc.store.guarded import GuardedStore
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_flights import MemoryFlights
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_flights import RedisFlights
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.cache.v1 import cache_pb2_grpc, flights_pb2_grpc


@asynccontextmanager
async def build(settings: CacheSettings, dial: Dial, telemetry: Telemetry) -> AsyncIterator[Register]:
    """The servicers, ready to be added to a server; the backend is closed when the context ends."""
    del dial, telemetry  # the cache calls no other service, and its spans are those of its calls
    clock = SystemClock()
    async with open_stores(settings, clock) as stores:
        limits = Limits(max_entry_bytes=settings.max_entry_bytes, ttl_s=settings.ttl_s)
        counters = Counters()
        tiers: list[UpperTier] = [CanonicalTier(stores.entries)]
        if settings.semantic:
            tiers.append(semantic_tier(settings, clock, stores.client, counters.semantic))
        servicer = CacheServicer(CacheService(stores.entries, clock, limits, tiers, counters))
        flights = FlightServicer(FlightService(stores.flights, clock, flight_limits(settings)))

        def register(server: grpc.aio.Server) -> None:
            cache_pb2_grpc.add_CacheServiceServicer_to_server(servicer, server)
            flights_pb2_grpc.add_FlightServiceServicer_to_server(flights, server)

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
    client: Redis | None = None


@asynccontextmanager
async def open_stores(settings: CacheSettings, clock: Clock) -> AsyncIterator[Stores]:
    """The stores that ``settings.url`` names."""
    if settings.url == "memory://":
        yield Stores(
            MemoryStore(max_bytes=settings.max_bytes, clock=clock, new_epoch=epochs_of(clock)),
            MemoryFlights(max_bytes=settings.flight_max_bytes, clock=clock),
        )
        return
    client = connect(settings.url, timeout_s=settings.redis_timeout_s, max_connections=settings.redis_max_connections)
    redis_store = RedisStore(client, new_epoch=epochs_of(clock))
    try:
        guarded = GuardedStore(redis_store, clock, retry_after_s=settings.redis_retry_after_s)
        yield Stores(guarded, RedisFlights(client), client)
    finally:
        await redis_store.aclose()


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


def epochs_of(clock: Clock) -> NewEpoch:
    """Unix milliseconds and 20 random bits: unlike any epoch that was begun and forgotten before."""
    return lambda: clock.now_ms() << 20 | secrets.randbits(20)
