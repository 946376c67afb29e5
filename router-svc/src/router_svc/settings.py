"""The router's settings. The only reader of the environment."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class RouterSettings(BaseSettings):
    """Read from ``TALLYGATE_ROUTER_*``."""

    model_config = SettingsConfigDict(env_prefix="TALLYGATE_ROUTER_")

    listen: str = "grpc://127.0.0.1:7001"
    """Where the service listens: ``grpc://host:port``, ``unix:///path`` or ``local://name``."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    catalog_addr: str = "grpc://127.0.0.1:7004"
    """The catalog's address."""
    ledger_addr: str = "grpc://127.0.0.1:7003"
    """The ledger's address; with replicas, the addresses of all of them with commas between."""
    cache_addr: str = "grpc://127.0.0.1:7002"
    """The cache's address."""

    request_timeout_s: float = Field(600.0, gt=0)
    """The longest that one answer may take, over all attempts, in seconds."""
    connect_timeout_s: float = Field(5.0, gt=0)
    """The longest wait for a connection to a source, in seconds."""
    first_byte_timeout_s: float = Field(180.0, gt=0)
    """The longest wait for the first event of a stream, in seconds. Long, as models may reason before it."""
    idle_timeout_s: float = Field(180.0, gt=0)
    """The longest silence before and inside a stream, in seconds; keep-alive comments break it."""

    drain_max_s: float = Field(60.0, ge=0)
    """How long an answer is read on after its client has gone, where cancelling stops no billing, in seconds."""
    drain_max_bytes: int = Field(4 * 1024 * 1024, ge=0)
    """How much is read on then, in bytes."""
    client_stall_s: float = Field(30.0, gt=0)
    """A client that reads nothing for so long counts as gone, in seconds."""
    client_queue_bytes: int = Field(256 * 1024, gt=0)
    """What may wait for a slow client before the source is slowed, in bytes."""

    source_http: Literal["own", "aiohttp"] = "own"
    """The HTTP client that sources are called with: the router's own, or aiohttp, at several times the CPU, for a
    source that the own one can't cope with.
    """
    provider_keys_kept_s: float = Field(5.0, ge=0, le=5)
    """How long the keys that an organisation brought are kept in memory, in seconds; a change drops them at once."""
    provider_keys_orgs: int = Field(10_000, gt=0)
    """Of how many organisations they are kept."""

    max_connections: int = Field(1_000, gt=0)
    """Connections to sources, over all of them."""
    max_inflight: int = Field(2_000, gt=0)
    """Calls under way at once."""
    max_inflight_per_source: int = Field(500, gt=0)
    """Calls of one source under way at once."""
    max_answer_bytes: int = Field(16 * 1024 * 1024, gt=0)
    """The largest answer that is taken from a source, in bytes."""

    hold_ttl_s: float = Field(120.0, ge=1)
    """How long a hold lasts, in seconds. A call that is under way extends its own three times in that; after a crash of
    the router it ends by itself.
    """
    settle_patience_s: float = Field(60.0, gt=0)
    """How long a settlement is tried again while the ledger is away, in seconds; then the hold ends uncharged."""
    ledger_timeout_s: float = Field(5.0, gt=0)
    """The longest that one call of the ledger may take, in seconds."""
    cache_timeout_s: float = Field(5.0, gt=0)
    """The longest that one call of the cache may take, in seconds."""
    store_wait_s: float = Field(0.25, ge=0)
    """The longest that the end of an answer waits until the cache has it, in seconds; it is stored all the same."""
    flight_lease_s: float = Field(15.0, gt=0)
    """For how long the lead of a request with an Idempotency-Key, or of identical requests, is taken at a time, in
    seconds; renewed three times in that. As long the others wait where this router has died."""
    flight_patience_s: float = Field(10.0, ge=0)
    """How long the cache is told again what became of such a request while it is away, in seconds."""
    catalog_wait_s: float = Field(5.0, ge=0)
    """How long the first requests wait for the first snapshot of the catalog, in seconds."""
    catalog_watch_s: float = Field(3_600.0, gt=0)
    """How long one watch of the catalog stands before it is begun anew, in seconds."""
    drain_s: float = Field(30.0, ge=0)
    """How long a shutdown waits for the callers' answers to end, in seconds; then what was delivered is settled."""


def source_secret(env_name: str) -> SecretStr | None:
    """The key of a source, from the environment variable that the catalog names; None where it is unset or empty."""
    value = os.environ.get(env_name, "") if env_name else ""
    return SecretStr(value) if value else None
