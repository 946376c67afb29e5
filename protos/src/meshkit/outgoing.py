"""What every call that leaves a service gets: a deadline, the trace context and a CLIENT span.

A wrapper of the channel and not a set of ``grpc.aio`` client interceptors, because those make every call a second
task, and the calls they give back lack ``time_remaining`` and drive writes through a queue of their own. What is
added here is decided when the stub is called, in the caller's context, and the call given back is the transport's
own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from meshkit import trace_context
from meshkit.deadlines import remaining_s
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

T = TypeVar("T")

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
"""OpenTelemetry's semantic conventions for RPC: https://opentelemetry.io/docs/specs/semconv/rpc/."""


_EXPIRED_S = -1.0


def effective_timeout_s(method: str, timeout_s: float | None) -> float:
    """The nearer of the call's own timeout and the ambient deadline.

    Raises:
        MeshError: DEADLINE_REQUIRED, where there is neither.
    """
    nearest_s = remaining_s()
    if timeout_s is not None and (nearest_s is None or timeout_s < nearest_s):
        nearest_s = timeout_s
    if nearest_s is None:
        raise MeshError(
            ErrorReason.ERROR_REASON_DEADLINE_REQUIRED,
            f"{method} was called without a timeout, outside of any deadline()",
        )
    # With a timeout of exactly 0 grpc sometimes answers and sometimes not.
    return nearest_s if nearest_s > 0 else _EXPIRED_S


class _Outgoing:
    """A multicallable of the wrapped channel, of any kind: they differ only in what the first argument is."""

    def __init__(self, inner: Callable[..., Any], method: str, tracer: trace.Tracer) -> None:
        self._inner = inner
        self._method = method
        self._tracer = tracer
        self._span_name = method.removeprefix("/")
        self._attributes = {RPC_SYSTEM: "grpc", RPC_METHOD: self._span_name}

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        timeout = effective_timeout_s(self._method, timeout)
        span = self._tracer.start_span(self._span_name, None, SpanKind.CLIENT, self._attributes)
        traced = trace_context.carried(span)
        call = self._inner(
            request,
            timeout=timeout,
            metadata=(*metadata, *traced) if metadata else traced,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )
        if span.is_recording():
            call.add_done_callback(partial(_end, span))
        return call


def _end(span: trace.Span, call: Any) -> None:
    code: grpc.StatusCode = _at_once(call.code())
    span.set_attribute(RPC_STATUS, code.name)
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, _at_once(call.details()) or ""))
    span.end()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that has nothing to wait for, as the status of a call that is done."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("the call is done but its status is not known")


class OutgoingChannel(grpc.aio.Channel):
    """A channel whose calls have a deadline and a span."""

    def __init__(self, inner: grpc.aio.Channel, tracer: trace.Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with one request and one response."""
        return _Outgoing(self._inner.unary_unary(method, *args, **kwargs), method, self._tracer)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with one request and a stream of responses."""
        return _Outgoing(self._inner.unary_stream(method, *args, **kwargs), method, self._tracer)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one response."""
        return _Outgoing(self._inner.stream_unary(method, *args, **kwargs), method, self._tracer)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one of responses."""
        return _Outgoing(self._inner.stream_stream(method, *args, **kwargs), method, self._tracer)

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel; calls still running are cancelled after ``grace`` seconds."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The channel's connectivity."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the connectivity is another."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until the server can be reached."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> OutgoingChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
