"""The cache's use cases, and the Protocols of what they need."""

from cache_svc.service.answers import CacheService, Counters, Leave, Limits, Stored
from cache_svc.service.canonical_tier import CanonicalTier
from cache_svc.service.fills import FillLimits, FillService, FillStore
from cache_svc.service.flights import FlightLimits, FlightService, FlightStore, Kept
from cache_svc.service.ports import Ending, EntryStore, Found, NewEpoch, Put, StoreUsage
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
from cache_svc.service.tiers import Candidate, Clue, KeptAnswer, Ruling, SemanticCounters, UpperTier, Verdict

__all__ = [
    "BadRequest",
    "CacheService",
    "Candidate",
    "CanonicalTier",
    "Clue",
    "Counters",
    "Drop",
    "Ending",
    "EntryStore",
    "FillLimits",
    "FillService",
    "FillStore",
    "FlightLimits",
    "FlightService",
    "FlightStore",
    "Found",
    "Held",
    "Kept",
    "KeptAnswer",
    "KeptRecord",
    "Leave",
    "Limits",
    "NewEpoch",
    "Put",
    "QueueLimits",
    "RecordBounds",
    "RecordStore",
    "Recorder",
    "Recordings",
    "Ruling",
    "SemanticCounters",
    "StoreFull",
    "StoreUnavailable",
    "StoreUsage",
    "Stored",
    "UpperTier",
    "Verdict",
]
