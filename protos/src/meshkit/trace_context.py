"""The W3C trace context (https://www.w3.org/TR/trace-context/) in gRPC metadata.

OpenTelemetry's propagator does the same over arbitrary carriers with regular expressions; this is on the path of
every call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.context import Context

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_NO_TRACE = Context()

# A version above 00 may be longer, and is read as far as 00 reaches, as the specification asks.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class PassedOn(trace.NonRecordingSpan):
    """A span that is not recorded here. What carries it on is the same for every call that is made inside."""

    def __init__(self, context: trace.SpanContext, metadata: tuple[tuple[str, str], ...]) -> None:
        super().__init__(context)
        self.metadata = metadata


def carried(span: trace.Span) -> tuple[tuple[str, str], ...]:
    """The metadata that carries ``span``; empty where there is no trace."""
    return span.metadata if type(span) is PassedOn else to_metadata(span.get_span_context())


def to_metadata(context: trace.SpanContext) -> tuple[tuple[str, str], ...]:
    """The metadata that carries ``context``; empty where there is no trace."""
    if not context.is_valid:
        return ()
    parent = (TRACEPARENT, _format(context.trace_id, context.span_id, context.trace_flags))
    return (parent, (TRACESTATE, context.trace_state.to_header())) if context.trace_state else (parent,)


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """A context whose current span is the caller's; an empty one where the caller sent none or nonsense."""
    parent = state = None
    for key, value in metadata:
        if key == TRACEPARENT:
            parent = value
        elif key == TRACESTATE:
            state = value
    if not isinstance(parent, str):
        return _NO_TRACE
    return _with_state(parent, state) if isinstance(state, str) else _context(parent)


# One request makes several calls, and while nothing is sampled they all carry the same parent.
@lru_cache(maxsize=1_024)
def _format(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


@lru_cache(maxsize=1_024)
def _context(parent: str) -> Context:
    span = _parse(parent)
    return _NO_TRACE if span is None else trace.set_span_in_context(PassedOn(span, to_metadata(span)), _NO_TRACE)


def _with_state(parent: str, state: str) -> Context:
    span = _parse(parent)
    if span is None:
        return _NO_TRACE
    trace_state = trace.TraceState.from_header([state])
    stateful = trace.SpanContext(span.trace_id, span.span_id, True, span.trace_flags, trace_state)
    return trace.set_span_in_context(trace.NonRecordingSpan(stateful), _NO_TRACE)


def _parse(value: str) -> trace.SpanContext | None:
    match = _FORM.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "00" and rest is not None:
        return None
    context = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return context if context.is_valid else None
