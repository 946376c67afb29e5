"""Traces, one provider per service, so that several services in one process keep their own ``service.name``.

Spans are exported over OTLP gRPC as the standard ``OTEL_*`` variables say, and only if one of
``OTEL_EXPORTER_OTLP_ENDPOINT`` and ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set. Without, trace ids are still made and
propagated, and cost next to nothing.

``service.name`` is always the name given here. ``OTEL_SERVICE_NAME`` names a whole process; obeying it would give the
five services of the all-in-one process a single name, so it becomes ``service.namespace`` instead, where that is not
set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from meshkit.trace_context import PassedOn, to_metadata

if TYPE_CHECKING:
    from opentelemetry.context import Context

_SCOPE = "tallygate"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Telemetry:
    """The telemetry of one service."""

    service_name: str
    tracer: trace.Tracer

    def __init__(self, service_name: str, tracer: trace.Tracer, provider: TracerProvider | None = None) -> None:
        self.service_name = service_name
        self.tracer = tracer
        self._provider = provider

    @classmethod
    def start(cls, service_name: str, *, exporter: SpanExporter | None = None) -> Telemetry:
        """Telemetry as the environment says; with ``exporter``, every span goes there at once instead (for tests).

        Raises:
            ValueError: the environment asks for an exporter or a protocol that is not built in.
        """
        processor: SpanProcessor
        if exporter is not None:
            processor = SimpleSpanProcessor(exporter)
        elif _exports():
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - 60 ms, only if used
                OTLPSpanExporter,
            )

            processor = BatchSpanProcessor(OTLPSpanExporter())
        else:
            return cls.off(service_name)
        provider = TracerProvider(resource=_resource(service_name))
        provider.add_span_processor(processor)
        return cls(service_name, provider.get_tracer(_SCOPE), provider)

    @classmethod
    def off(cls, service_name: str = "test") -> Telemetry:
        """Telemetry that exports nothing; ids are made and propagated."""
        return cls(service_name, UnrecordedTracer())

    def shutdown(self) -> None:
        """Exports what is left and ends."""
        if self._provider is not None:
            self._provider.shutdown()


def current_trace_id() -> str:
    """The trace that the caller is in: 32 hex digits, "" where there is none."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def _exports() -> bool:
    """Whether the environment asks for export."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if exporter == "none" or not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    if exporter != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER is {exporter!r}: only otlp and none are known")
    protocol = next((value for name in _PROTOCOLS if (value := os.environ.get(name))), "grpc")
    if protocol != "grpc":
        raise ValueError(f"the OTLP protocol asked for is {protocol!r}: only grpc is known")
    return True


def _resource(service_name: str) -> Resource:
    attributes = {SERVICE_NAME: service_name}
    process_name = os.environ.get("OTEL_SERVICE_NAME")
    if process_name and SERVICE_NAMESPACE not in OTELResourceDetector().detect().attributes:
        attributes[SERVICE_NAMESPACE] = process_name
    return Resource.create(attributes)


class UnrecordedTracer(trace.Tracer):
    """Passes a trace through as it came and begins one where there is none; records nothing.

    The SDK with its sampler off would clear the caller's sampled flag and cost several microseconds a span.
    """

    _ids = RandomIdGenerator()

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> trace.Span:
        """The span of the context, or one with fresh ids that records nothing."""
        del name
        current = trace.get_current_span(context)
        if type(current) is PassedOn:
            return current
        spoken = current.get_span_context()
        if not spoken.is_valid:
            spoken = trace.SpanContext(self._ids.generate_trace_id(), self._ids.generate_span_id(), is_remote=False)
        return PassedOn(spoken, to_metadata(spoken))

    @contextmanager
    def start_as_current_span(  # type: ignore[override] # the API's own context manager type is private
        self, name: str, context: Context | None = None, *_: Any, end_on_exit: bool = True, **__: Any
    ) -> Iterator[trace.Span]:
        """``start_span``, current inside."""
        with trace.use_span(self.start_span(name, context), end_on_exit=end_on_exit) as span:
            yield span
