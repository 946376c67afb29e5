"""The cache's use cases, and the Protocols of what they need."""

from cache_svc.service.answers import CacheService, Counters, EntryStore, Found, Limits, NewEpoch, StoreUsage
from cache_svc.service.flights import FlightLimits, FlightService, FlightStore, Kept
from cache_svc.service.recordings import (
    Drop,
    Held,
    KeptRecord,
    QueueLimits,
    RecordBounds,
    Recorder,
    Recordings,
    RecordStore,
)
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable

__all__ = [
    "BadRequest",
    "CacheService",
    "Counters",
    "Drop",
    "EntryStore",
    "FlightLimits",
    "FlightService",
    "FlightStore",
    "Found",
    "Held",
    "Kept",
    "KeptRecord",
    "Limits",
    "NewEpoch",
    "QueueLimits",
    "RecordBounds",
    "RecordStore",
    "Recorder",
    "Recordings",
    "StoreFull",
    "StoreUnavailable",
    "StoreUsage",
]
