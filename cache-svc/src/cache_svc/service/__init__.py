"""The cache's use cases, and the Protocols of what they need."""

from cache_svc.service.answers import CacheService, Counters, EntryStore, Found, Limits, NewEpoch, StoreUsage
from cache_svc.service.fills import FillLimits, FillService, FillStore
from cache_svc.service.flights import FlightLimits, FlightService, FlightStore, Kept
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable

__all__ = [
    "BadRequest",
    "CacheService",
    "Counters",
    "EntryStore",
    "FillLimits",
    "FillService",
    "FillStore",
    "FlightLimits",
    "FlightService",
    "FlightStore",
    "Found",
    "Kept",
    "Limits",
    "NewEpoch",
    "StoreFull",
    "StoreUnavailable",
    "StoreUsage",
]
