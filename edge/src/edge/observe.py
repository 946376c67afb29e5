"""ASGI middleware: one span, one log line and the ids in the headers for every request, whatever becomes of it."""

from __future__ import annotations

import structlog
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import error_response, refusal
from edge.exchange import ClientGone, Exchange
from edge.failures import NoteEnd
from edge.wire.header_lines import HeaderLines
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.telemetry import Telemetry
from meshkit.trace_context import TRACEPARENT, TRACESTATE, from_metadata
from tallygate.common.v1.errors_pb2 import ErrorReason

CLIENT_CLOSED_REQUEST = 499
"""The status logged where the client went before an answer began; nginx's number for it, never sent."""

_PARENT, _STATE = TRACEPARENT.encode(), TRACESTATE.encode()
_UNMATCHED = "unmatched"
_log = structlog.get_logger(__name__)


class Observe:
    """Wraps the application. Continues the client's W3C trace context, or begins a trace. ``note_end`` is told of every
    exchange that has ended.
    """

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry, clock: Clock, make_id: MakeId, note_end: NoteEnd) -> None:
        self._app = app
        self._tracer = telemetry.tracer
        self._clock = clock
        self._make_id = make_id
        self._note_end = note_end
        self._log = _log.bind()  # else each line would make a logger of its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        began_s = self._clock.monotonic_s()
        span = self._tracer.start_span(scope["method"], context=_parent(scope), kind=SpanKind.SERVER)
        exchange = Exchange(self._make_id("req"), _trace_id_of(span), self._clock.now_ms())
        exchange.attach(scope)
        # As trace.use_span does, whose generator and exception handling cost more than a span that records nothing.
        outside = context.attach(trace.set_span_in_context(span))
        try:
            await self._guarded(scope, receive, send, exchange)
        finally:
            try:
                duration_s = self._clock.monotonic_s() - began_s
                self._finish(scope, span, exchange, duration_s)
                self._note_end(exchange, round(duration_s * 1_000))
            finally:
                span.end()
                context.detach(outside)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                ids = ((b"x-trace-id", exchange.trace_id.encode()), (b"x-request-id", exchange.request_id.encode()))
                message["headers"] = [*message["headers"], *exchange.headers, *ids]
            await send(message)

        try:
            await self._app(scope, receive, send_with_ids)
        except ClientGone:
            exchange.status = exchange.status or CLIENT_CLOSED_REQUEST
            exchange.error_code = "client_gone"
        except Exception:
            _log.exception("unexpected_error", request_id=exchange.request_id)
            exchange.error_code = "internal_error"
            if exchange.status:
                raise  # half an answer is out; only closing the connection tells the client
            await error_response(refusal(ErrorReason.ERROR_REASON_INTERNAL))(scope, receive, send_with_ids)

    def _finish(self, scope: Scope, span: trace.Span, exchange: Exchange, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path_format", "")
        self._log.info(
            "request",
            method=scope["method"],
            route=route or _UNMATCHED,
            status=exchange.status,
            duration_ms=round(duration_s * 1_000, 3),
            request_id=exchange.request_id,
            **{name: value for name in _LOGGED if (value := getattr(exchange, name))},
        )
        if not span.is_recording():
            return
        span.update_name(f"{scope['method']} {route}" if route else scope["method"])
        span.set_attributes(
            {
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "http.response.status_code": exchange.status,
                "tallygate.request_id": exchange.request_id,
                **({"http.route": route} if route else {}),
                **_gen_ai(exchange),
                **{f"tallygate.{name}": value for name in _LOGGED if (value := getattr(exchange, name))},
            }
        )
        if exchange.error_code:
            span.set_attribute("error.type", exchange.error_code)
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))


_LOGGED = (
    "org_id",
    "key_id",
    "requested_model",
    "model",
    "served_mode",
    "receipt_id",
    "idempotent_replayed",
    "error_code",
)


def _parent(scope: Scope) -> context.Context:
    lines = HeaderLines.of(scope)
    if _PARENT not in lines:
        return from_metadata(())
    sent = ((TRACEPARENT, lines.every(_PARENT)), (TRACESTATE, lines.every(_STATE)))
    return from_metadata((name, value) for name, values in sent for value in values)


def _trace_id_of(span: trace.Span) -> str:
    """32 hex digits."""
    return f"{span.get_span_context().trace_id:032x}"


def _gen_ai(exchange: Exchange) -> dict[str, str | int]:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/"""
    attributes: dict[str, str | int] = {}
    if exchange.requested_model:
        attributes |= {"gen_ai.operation.name": "chat", "gen_ai.request.model": exchange.requested_model}
    if exchange.receipt_id:
        attributes |= {
            "gen_ai.response.model": exchange.model,
            "gen_ai.usage.input_tokens": exchange.input_tokens,
            "gen_ai.usage.output_tokens": exchange.output_tokens,
        }
    return attributes
