"""The settings of the socket transports, the same for every service."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The largest message either way. A request with inline images reaches 20 MB (the most that OpenAI takes) and grows
by a third in base64; above that, someone is using the mesh as a file store."""

MAX_METADATA_BYTES = 64 * 1024
"""grpc's own 8 KB would turn an error with a long message, which travels twice, into RESOURCE_EXHAUSTED."""

MAX_CONCURRENT_RPCS = 4_096
"""What one server works on at once; more are refused with RESOURCE_EXHAUSTED. Each costs a task and its messages, so
this is what bounds memory. Watches count too."""

MAX_PENDING_RPCS = 4 * MAX_CONCURRENT_RPCS
"""What waits inside grpc until the event loop takes it. From 1,000 on, grpc's default drops some at random, and all
from 3,000, which callers see as CANCELLED. (``grpc.max_concurrent_streams``, which would make clients wait instead,
has a race in 1.85 that ends some calls with UNAVAILABLE.)"""

KEEPALIVE_S = 30
"""After so long without traffic a peer is asked whether it is there; below the idle limits of common load balancers
(60 s)."""

KEEPALIVE_TIMEOUT_S = 10

_SIZES = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
]
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

CLIENT_OPTIONS: list[tuple[str, int]] = [
    *_SIZES,
    *_KEEPALIVE,
    # grpc's own backoff grows from 1 s to 2 minutes: a service that restarts would be missed for that long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
]

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_SIZES,
    *_KEEPALIVE,
    ("grpc.server.max_pending_requests", MAX_PENDING_RPCS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_RPCS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
    # By default two processes can listen on one port and share its connections; a port that is taken must fail.
    ("grpc.so_reuseport", 0),
]
