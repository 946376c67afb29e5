"""Aids for tests: time under control, spans in memory, a service and its channel on any transport."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshkit.channels import Dialer
from meshkit.local import LocalNetwork
from meshkit.serve import Register, running
from meshkit.telemetry import Telemetry

if TYPE_CHECKING:
    import grpc

TRANSPORTS = ("local", "unix", "tcp", "exchange")
"""What a contract test is parametrised with. On "unix" and "tcp" each call is an RPC of its own; on "exchange" they
share a stream, over TCP, which is the dialer's way when it is not told otherwise."""


def address_on(transport: str, name: str, folder: object) -> str:
    """Where a service listens on a transport. ``folder``: for unix sockets; a short path, they have room for 107
    characters.
    """
    return {"local": f"local://{name}", "unix": f"unix://{folder}/{name}"}.get(transport, "grpc://127.0.0.1:0")


def dialer_on(transport: str, telemetry: Telemetry, network: LocalNetwork | None = None) -> Dialer:
    """A dialer whose channels are of a transport."""
    return Dialer(telemetry, network, exchange=transport == "exchange")


class FakeClock:
    """A clock that stands still until told to advance."""

    def __init__(self, now_ms: int = 1_750_000_000_000) -> None:
        self._now_ms = now_ms
        self._passed_ms = 0

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds that only grow; for durations."""
        return self._passed_ms / 1_000

    def advance(self, ms: int) -> None:
        """Lets ``ms`` milliseconds pass."""
        assert ms >= 0, "time does not go back"
        self._now_ms += ms
        self._passed_ms += ms


class SpanCollector:
    """Keeps the spans of any number of services in memory."""

    def __init__(self) -> None:
        self._exporters: dict[str, InMemorySpanExporter] = {}

    def telemetry(self, service_name: str) -> Telemetry:
        """Telemetry of a service whose spans end up here."""
        exporter = self._exporters[service_name] = InMemorySpanExporter()
        return Telemetry.start(service_name, exporter=exporter)

    def finished(self, service_name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended, of one service or of all, by start time."""
        spans = [
            span
            for name, exporter in self._exporters.items()
            if service_name in {None, name}
            for span in exporter.get_finished_spans()
        ]
        return sorted(spans, key=lambda span: span.start_time or 0)


@asynccontextmanager
async def linked(
    register: Register,
    transport: str,
    *,
    telemetry: Telemetry | None = None,
    client_telemetry: Telemetry | None = None,
    drain_s: float = 5.0,
) -> AsyncIterator[grpc.aio.Channel]:
    """A service running on ``transport``, one of ``TRANSPORTS``, and a channel to it."""
    telemetry = telemetry or Telemetry.off("server")
    network = LocalNetwork()
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        address = address_on(transport, "served", folder)
        async with (
            running(register, address, telemetry, local=network, drain_s=drain_s) as bound,
            dialer_on(transport, client_telemetry or telemetry, network) as dial,
        ):
            channel = dial(bound)
            if transport == "exchange":  # before the server has said that it carries streams, they are plain calls
                await channel.channel_ready()
            yield channel
