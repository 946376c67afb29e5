"""Traces and logs of several services in one process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meshkit import trace_context
from meshkit.telemetry import Telemetry, current_trace_id
from meshkit.testing import SpanCollector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, str], str]] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            attributes = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(attributes, span.name) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_each_service_exports_under_its_own_name(clean_environment: pytest.MonkeyPatch) -> None:
    receiver, server = Receiver(), grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    clean_environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    clean_environment.setenv("OTEL_SERVICE_NAME", "tallygate")
    services = [Telemetry.start("ledger"), Telemetry.start("router")]
    for telemetry in services:
        with telemetry.tracer.start_as_current_span(f"in {telemetry.service_name}"):
            assert len(current_trace_id()) == 32
    for telemetry in services:
        await asyncio.to_thread(telemetry.shutdown)
    await server.stop(None)
    exported = {(a["service.name"], a["service.namespace"], name) for a, name in receiver.spans}
    assert exported == {("ledger", "tallygate", "in ledger"), ("router", "tallygate", "in router")}


async def test_the_environment_decides_what_is_sampled(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans = SpanCollector()
    with spans.telemetry("a").tracer.start_as_current_span("x") as span:
        assert not span.is_recording()
        assert len(current_trace_id()) == 32
    assert spans.finished() == []


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_nothing_is_recorded_unless_asked(clean_environment: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        clean_environment.setenv(name, value)
    telemetry = Telemetry.start("ledger")
    with telemetry.tracer.start_as_current_span("outer") as outer:
        assert not outer.is_recording()
        outer_id = current_trace_id()
        with telemetry.tracer.start_as_current_span("inner"):
            assert current_trace_id() == outer_id
    assert current_trace_id() == ""
    telemetry.shutdown()


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]
)
def test_what_is_not_built_in_is_refused(clean_environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    clean_environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    clean_environment.setenv(name, value)
    with pytest.raises(ValueError, match=value):
        Telemetry.start("ledger")


@pytest.mark.parametrize(
    ("parent", "is_valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
        (f"00-{TRACE}-{SPAN}-01-too-long", False),
        (f"cc-{TRACE}-{SPAN}-01.too-long", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE[:-1]}_-{SPAN}-01", False),
        ("", False),
    ],
)
def test_trace_parents(parent: str, is_valid: bool) -> None:
    context = trace.get_current_span(trace_context.from_metadata([("traceparent", parent)])).get_span_context()
    assert context.is_valid is is_valid
    if is_valid:
        assert (format(context.trace_id, "032x"), format(context.span_id, "016x")) == (TRACE, SPAN)
        assert context.trace_flags.sampled is (parent[53:55] == "01")
        assert context.is_remote


@pytest.mark.parametrize("metadata", [[], [("traceparent", b"00")], [("tracestate", "a=1")]])
def test_bytes_and_absence_are_no_trace(metadata: list[tuple[str, str | bytes]]) -> None:
    assert not trace.get_current_span(trace_context.from_metadata(metadata)).get_span_context().is_valid


@given(
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 3),
    st.lists(st.tuples(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), st.just("v1")), max_size=3),
)
def test_the_trace_context_is_opentelemetrys(
    trace_id: int, span_id: int, flags: int, state: list[tuple[str, str]]
) -> None:
    """Against the library's own propagator, both ways."""
    span = trace.SpanContext(
        trace_id, span_id, False, trace.TraceFlags(flags), trace.TraceState(list(dict(state).items()))
    )
    ours = dict(trace_context.to_metadata(span))
    theirs: dict[str, str] = {}
    propagator = TraceContextTextMapPropagator()
    propagator.inject(theirs, trace.set_span_in_context(trace.NonRecordingSpan(span)))
    assert ours == theirs
    read = trace.get_current_span(trace_context.from_metadata(list(theirs.items()))).get_span_context()
    expected = trace.get_current_span(propagator.extract(theirs)).get_span_context()
    assert read == expected
    assert read.trace_state == expected.trace_state


def test_no_trace_travels_as_nothing() -> None:
    assert trace_context.to_metadata(trace.INVALID_SPAN_CONTEXT) == ()


LOGGING = """
import logging, structlog
from meshkit.logs import configure_logging
from meshkit.telemetry import Telemetry
configure_logging("ledger", level="info")
log = structlog.get_logger("meshkit.test")
prompt = "my prompt"
with Telemetry.off().tracer.start_as_current_span("x"):
    log.info("inside", amount_nano_usd=5)
log.debug("hidden")
logging.getLogger("grpc").warning("from %s", "elsewhere")
log.info("secret", header="Bearer tg-a1B2c3D4e5F6")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
    logging.getLogger("other").exception("failed too")
"""


def test_logs_are_json_lines_with_service_and_trace() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["inside", "from elsewhere", "secret", "failed", "failed too"]
    assert {line["service"] for line in lines} == {"ledger"}
    assert (lines[0]["amount_nano_usd"], len(lines[0]["trace_id"]), lines[0]["level"]) == (5, 32, "info")
    assert lines[0]["timestamp"].endswith("Z")
    assert "trace_id" not in lines[1]
    assert (lines[1]["level"], lines[1]["logger"]) == ("warning", "grpc")
    assert lines[2]["header"] == "Bearer tg-a1B2c3..."
    for line in lines[3:]:
        assert "ZeroDivisionError" in line["exception"]
    assert "my prompt" not in done.stderr


def test_an_unknown_log_level_is_refused() -> None:
    from meshkit.logs import configure_logging

    with pytest.raises(ValueError, match="loud"):
        configure_logging("ledger", level="loud")
