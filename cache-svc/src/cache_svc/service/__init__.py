"""The cache's use cases, and the Protocols of what they need."""

from cache_svc.service.answers import CacheService, Counters, Limits
from cache_svc.service.canonical_tier import CanonicalTier
from cache_svc.service.flights import FlightLimits, FlightService, FlightStore, Kept
from cache_svc.service.ports import EntryStore, Found, NewEpoch, StoreUsage
from cache_svc.service.refusals import BadRequest, StoreFull, StoreUnavailable
from cache_svc.service.tiers import Candidate, Clue, KeptAnswer, Ruling, SemanticCounters, UpperTier, Verdict

__all__ = [
    "BadRequest",
    "CacheService",
    "Candidate",
    "CanonicalTier",
    "Clue",
    "Counters",
    "EntryStore",
    "FlightLimits",
    "FlightService",
    "FlightStore",
    "Found",
    "Kept",
    "KeptAnswer",
    "Limits",
    "NewEpoch",
    "Ruling",
    "SemanticCounters",
    "StoreFull",
    "StoreUnavailable",
    "StoreUsage",
    "UpperTier",
    "Verdict",
]
