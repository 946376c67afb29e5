"""The settings of the cache, from the environment (``TALLYGATE_CACHE_*``) or from keyword arguments."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class CacheSettings(BaseSettings):
    """What the cache can be told."""

    model_config = SettingsConfigDict(env_prefix="TALLYGATE_CACHE_", frozen=True)

    listen: str = "grpc://127.0.0.1:7002"
    """The address to serve on: "grpc://host:port" or "unix:///path"."""

    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that calls under way are given when the service stops."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severity that is logged."""

    url: str = Field(default="memory://", pattern=r"^(memory://|rediss?://.+|unix://.+)$")
    """Where entries lie. "memory://": in this process, for a single replica, gone when it ends.
    "redis://[user:password@]host:port/db", "rediss://..." or "unix:///path": in Redis or Valkey, shared by all
    replicas."""

    max_bytes: int = Field(default=256 * 2**20, ge=0)
    """The bound of "memory://" in bytes, keys and overhead included. Redis has its own (`maxmemory`)."""

    max_entry_bytes: int = Field(default=2 * 2**20, ge=0)
    """The longest entry that is kept, in bytes, its request and its answer together."""

    compress_from_bytes: int = Field(default=32 * 1024, ge=0)
    """The shortest entry that is kept compressed, in bytes, in either backend. Lower means less room and more CPU for a
    hit; see cache-svc/README.md for both. A number above max_entry_bytes: none is."""

    sweep_every_s: float = Field(default=5.0, gt=0)
    """Seconds between two sweeps of "memory://" for entries that have expired. Redis has its own."""

    ttl_s: int = Field(default=24 * 3600, ge=1, le=30 * 24 * 3600)
    """Seconds that an answer is kept."""

    semantic: bool = False
    """Replays answers to questions that mean the same, to requests that set a bound on errors. Needs the packages of
    ``tallygate-cache[semantic]``, and about 80 MB of memory for its model."""

    semantic_max_bytes: int = Field(default=64 * 2**20, ge=2**20)
    """The bound in bytes of the vectors in this process: 50,000 questions or so. Not used with a Redis that has vector
    sets."""

    flight_max_bytes: int = Field(default=64 * 2**20, ge=0)
    """The bound in bytes of what "memory://" remembers of requests with an Idempotency-Key. Past it, the oldest answers
    are forgotten first; then, with only requests under way left, new ones are refused."""

    flight_max_answer_bytes: int = Field(default=4 * 2**20, ge=0)
    """The longest answer, compressed, that is kept for an Idempotency-Key, in bytes. Of a longer one the receipt is
    kept, so that it is not charged again."""

    flight_ttl_s: int = Field(default=24 * 3600, ge=60, le=30 * 24 * 3600)
    """Seconds that an Idempotency-Key is remembered after its answer. Afterwards the ledger still bars a second charge
    under it."""

    flight_max_wait_s: float = Field(default=30.0, gt=0)
    """The longest that one call waits for a request under way, or for one that follows it, in seconds; the caller asks
    again."""

    flight_max_lease_s: float = Field(default=60.0, gt=0)
    """The longest lease of a leader, in seconds: as long others wait where it has died."""

    recording_max_records: int = Field(default=10_000, ge=1)
    """The most requests that are recorded of one organisation, if it lets them be recorded. Past it the oldest go."""

    recording_max_bytes: int = Field(default=64 * 2**20, ge=0)
    """The most bytes, compressed, of one organisation's records. Past it the oldest go."""

    recording_total_max_bytes: int = Field(default=256 * 2**20, ge=0)
    """The most bytes of the records of all organisations together in "memory://". Redis has its own (`maxmemory`)."""

    recording_max_record_bytes: int = Field(default=2**20, ge=0)
    """The longest request that is recorded, in bytes, its answer included. Of a longer one nothing is."""

    recording_max_waiting_bytes: int = Field(default=16 * 2**20, ge=0)
    """The most bytes of records that wait to be written; past it requests go unrecorded."""

    recording_ttl_s: int = Field(default=7 * 24 * 3600, ge=60, le=90 * 24 * 3600)
    """Seconds that a record is kept."""

    fill_alone_s: float = Field(default=60.0, ge=0)
    """Seconds during which identical requests are not made to wait for each other, after one of them had an answer that
    could not be stored."""

    redis_timeout_s: float = Field(default=0.2, gt=0)
    """Seconds within which Redis has to say something while it is asked, or to let connect. Past it the lookup is a
    miss."""

    redis_max_connections: int = Field(default=64, ge=1)
    """Connections to Redis at the same time for what is rare: purges, recordings, vectors. Lookups, stores and flights
    share one besides."""

    redis_queue_s: float = Field(default=1.5, gt=0)
    """Seconds that a command waits for its turn, behind others or for a connection. Past it the lookup is a miss; so it
    should be below TALLYGATE_EDGE_LOOKUP_TIMEOUT_S."""

    redis_retry_after_s: float = Field(default=1.0, gt=0)
    """Seconds after a failure of Redis during which it is not asked."""

    @model_validator(mode="after")
    def _entry_fits(self) -> Self:
        if self.url == "memory://" and self.max_entry_bytes > self.max_bytes:
            raise ValueError("max_entry_bytes is above max_bytes, so the longest entry would never fit")
        return self
