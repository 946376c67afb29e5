"""What can be set, read from the environment as ``TALLYGATE_EDGE_*``."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class EdgeSettings(BaseSettings):
    """Settings of the edge. Every field may be given in code; the environment fills in the others."""

    model_config = SettingsConfigDict(env_prefix="TALLYGATE_EDGE_")

    host: str = "127.0.0.1"
    """The address to listen on; "0.0.0.0" or "::" for all."""

    port: int = Field(default=8080, ge=0, le=65_535)
    """The TCP port to listen on; 0 takes a free one."""

    fd: int | None = Field(default=None, ge=0)
    """A listening socket that the process inherits under this file descriptor; host and port are then not used."""

    trusted_proxies: int = Field(default=0, ge=0, le=10)
    """How many proxies of the operator's own stand before the edge, each of which adds to ``X-Forwarded-For`` the
    address that a request came to it from. The client is then the n-th address from the right. 0: there is none, and
    the client is the peer of the connection. Too high a number lets clients say where they are.
    """

    ledger_addr: str = "grpc://127.0.0.1:7003"
    """Where the ledger is: "grpc://HOST:PORT", "unix:///PATH" or "local://NAME". With replicas, the addresses of all of
    them with commas between: "grpc://ledger-0.ledger:7003,grpc://ledger-1.ledger:7003".
    """

    cache_addr: str = "grpc://127.0.0.1:7002"
    """Where the cache is."""

    router_addr: str = "grpc://127.0.0.1:7001"
    """Where the router is."""

    catalog_addr: str = "grpc://127.0.0.1:7004"
    """Where the catalog is."""

    max_body_bytes: int = Field(default=20 * MIB, ge=1)
    """The largest request body, in bytes. OpenAI's own limit on images in a request is of this order."""

    body_timeout_s: float = Field(default=60.0, gt=0)
    """A request body has arrived after so many seconds, or the request is refused."""

    request_timeout_s: float = Field(default=600.0, gt=0)
    """A completion takes at most so many seconds, a stream to its end; the default timeout of OpenAI's SDKs."""

    rpc_timeout_s: float = Field(default=5.0, gt=0)
    """Any other call in the mesh takes at most so many seconds."""

    charge_patience_s: float = Field(default=10.0, gt=0)
    """A charge of which it is not known whether it arrived is sent again, as the same charge, for so many seconds. Then
    the client is told ``unavailable``, and it stays unknown."""

    lookup_timeout_s: float = Field(default=2.0, gt=0)
    """The cache answers within so many seconds, or the request goes on without it."""

    flight_lease_s: float = Field(default=5.0, gt=0)
    """For how long a request with an Idempotency-Key has its key to itself, and the first of identical requests their
    lead, until the router takes over, in seconds: longer than a lookup may take. As long the others wait where this
    edge has died in between."""

    flight_wait_s: float = Field(default=10.0, gt=0)
    """How long a request waits at a time, in seconds, for another with the same Idempotency-Key that is under way; over
    and over until ``request_timeout_s`` have passed."""

    probe_timeout_s: float = Field(default=2.0, gt=0)
    """A dependency answers the health check of ``/readyz`` within so many seconds, or counts as away."""

    catalog_wait_s: float = Field(default=5.0, ge=0)
    """A process that starts listens once it has the catalog, and without it after so many seconds; then requests are
    refused until it has come."""

    watch_timeout_s: float = Field(default=3_600.0, gt=0)
    """A watch of catalog or revocations is opened anew after so many seconds."""

    max_inflight: int = Field(default=1_000, ge=1)
    """Completions under way at once; one more is refused as ``unavailable``. Far more calls than this on one gRPC
    channel were seen to come back cancelled."""

    auth_entries: int = Field(default=10_000, ge=1)
    """Authenticated keys that are remembered, for as long as the ledger allows."""

    limits_url: str = Field(default="memory://", pattern=r"^(memory://|rediss?://.+|unix://.+)$")
    """Where it is kept how much of its limits a key has used. "memory://": in this process, right for a single edge.
    "redis://[user:password@]host:port/db", "rediss://..." or "unix:///path": in Redis or Valkey, for all edges
    together."""

    limits_timeout_s: float = Field(default=0.2, gt=0)
    """Redis says within so many seconds whether a request is within its limit, or counts as away."""

    limits_retry_after_s: float = Field(default=1.0, gt=0)
    """Seconds after a failure of Redis during which it is not asked. Meanwhile this edge keeps the limits by itself."""

    limits_entries: int = Field(default=50_000, ge=1)
    """Limits of which this process itself remembers how much was used in the last minute: up to three a key, and one a
    client address. Beyond, those that were not used for longest begin anew."""

    account_requests_per_minute: int = Field(default=600, ge=0)
    """The most requests in a minute that one key may send to the routes that manage and read; 0: no limit. How many may
    call a model is the key's own, and its default the ledger's."""

    failed_authentications_per_minute: int = Field(default=600, ge=0)
    """The most keys in a minute that come from one address (of IPv6: from one /64) and turn out not to be valid; 0: no
    limit. Then more are not even asked about at the ledger."""
    failure_interval_s: float = Field(default=1.0, gt=0)
    """Requests that ended in an error are told to the ledger every so many seconds."""

    failures_waiting: int = Field(default=10_000, ge=1)
    """So many of them wait where the ledger is away; then the oldest are dropped."""

    keep_alive_s: int = Field(default=75, ge=1)
    """An idle connection is kept so many seconds; longer than the 60 that load balancers keep theirs."""

    drain_s: float = Field(default=30.0, ge=0)
    """At the end, requests under way may take so many seconds more."""

    log_level: str = "info"
    """The least severe level that is logged."""
