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

    ttl_s: int = Field(default=24 * 3600, ge=1, le=30 * 24 * 3600)
    """Seconds that an answer is kept."""

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

    fill_alone_s: float = Field(default=60.0, ge=0)
    """Seconds during which identical requests are not made to wait for each other, after one of them had an answer that
    could not be stored."""

    redis_timeout_s: float = Field(default=0.2, gt=0)
    """Seconds that one Redis command, connecting, or waiting for a connection may take. Past it the lookup is a
    miss."""

    redis_max_connections: int = Field(default=64, ge=1)
    """Connections to Redis at the same time."""

    redis_retry_after_s: float = Field(default=1.0, gt=0)
    """Seconds after a failure of Redis during which it is not asked."""

    @model_validator(mode="after")
    def _entry_fits(self) -> Self:
        if self.url == "memory://" and self.max_entry_bytes > self.max_bytes:
            raise ValueError("max_entry_bytes is above max_bytes, so the longest entry would never fit")
        return self
