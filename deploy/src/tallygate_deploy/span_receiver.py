"""A small OTLP/gRPC receiver: collects the spans that a demo or a test wants to see."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span; ids in hex, times in nanoseconds since 1970."""

    service_name: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]

    @property
    def duration_ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def is_source_call(self) -> bool:
        """A call of a model source, by the GenAI semantic conventions."""
        return self.kind == "CLIENT" and "gen_ai.operation.name" in self.attributes


class SpanReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span it is sent, by trace."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._traces: dict[str, list[Span]] = defaultdict(list)
        self._arrived = asyncio.Condition()

    def otel_environment(self) -> dict[str, str]:
        """What a process needs in its environment to send its spans here, soon after they end."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take a batch."""
        del context
        async with self._arrived:
            for resource_spans in request.resource_spans:
                service_name = str(_attributes(resource_spans.resource.attributes).get("service.name", ""))
                for scope_spans in resource_spans.scope_spans:
                    for message in scope_spans.spans:
                        span = _decode(service_name, message)
                        self._traces[span.trace_id].append(span)
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def trace(self, trace_id: str, *, services: Set[str], within_s: float) -> list[Span]:
        """The spans of one trace, once every service of ``services`` has sent its spans of it and the trace has a root.

        Raises:
            TimeoutError: naming the services that were heard.
        """
        return await self.wait_for(
            trace_id,
            lambda spans: services <= {span.service_name for span in spans} and _is_whole(spans),
            within_s=within_s,
        )

    async def wait_for(self, trace_id: str, complete: Callable[[list[Span]], bool], *, within_s: float) -> list[Span]:
        """The spans of one trace, once ``complete`` says so.

        Raises:
            TimeoutError: with what had arrived.
        """
        try:
            async with asyncio.timeout(within_s), self._arrived:
                await self._arrived.wait_for(lambda: complete(self._traces[trace_id]))
        except TimeoutError:
            heard = [f"{span.service_name}: {span.name}" for span in self._traces[trace_id]]
            raise TimeoutError(f"trace {trace_id} is incomplete after {within_s} s; arrived: {heard}") from None
        return list(self._traces[trace_id])


def _is_whole(spans: list[Span]) -> bool:
    """Every span's parent is here, but for the one span that began the trace on our side."""
    known = {span.span_id for span in spans}
    return sum(span.parent_id not in known for span in spans) == 1


def _decode(service_name: str, message: SpanProto) -> Span:
    return Span(
        service_name=service_name,
        name=message.name,
        kind=SpanProto.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_"),
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        start_ns=message.start_time_unix_nano,
        end_ns=message.end_time_unix_nano,
        attributes=_attributes(message.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        kind = pair.value.WhichOneof("value")
        return getattr(pair.value, kind) if kind else None

    return {pair.key: value(pair) for pair in pairs}


@asynccontextmanager
async def span_receiver() -> AsyncIterator[SpanReceiver]:
    """A receiver on a free port of loopback."""
    server = grpc.aio.server()
    receiver = SpanReceiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    receiver.endpoint = f"http://127.0.0.1:{port}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(grace=1.0)
