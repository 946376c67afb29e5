"""What every call that reaches a service passes: its deadline becomes the ambient one, its trace goes on in a SERVER
span.

One interceptor for both, on sockets and on the local channel: this is on the path of every call. OpenTelemetry's own
misses the status of aborted calls.

A stream named ``Watch...`` has no end of its own. When the server drains, such calls end at once with UNAVAILABLE, so
that watchers turn to another replica and the drain waits only for work that finishes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from meshkit import trace_context
from meshkit.deadlines import deadline
from meshkit.errors import ROLE, STATUS_OF_NUMBER, MeshError, abort, refuse
from meshkit.outgoing import RPC_METHOD, RPC_STATUS, RPC_SYSTEM
from meshkit.telemetry import UnrecordedTracer
from tallygate.common.v1.errors_pb2 import ErrorReason

Behavior = Callable[[Any, Any], Awaitable[Any]]
"""Takes the request (or the iterator of requests) and the context; gives the response, or None where it wrote a
stream."""

INFRASTRUCTURE = ("/grpc.health.v1.", "/grpc.reflection.")
"""Called by probes and by people's tools, which send no deadline and whose spans nobody wants."""

EXCHANGE = "/tallygate.mesh.v1.ExchangeService/Exchange"
"""Carries commands, each of which passes the interceptor by itself; the stream that they come on does not."""

_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that make a SERVER span an error; the others are the caller's doing (the conventions for gRPC spans)."""


class Incoming(grpc.aio.ServerInterceptor):
    """The interceptor of one server. What it makes of a handler depends on the method alone."""

    decides_by_method = True

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self._work: set[asyncio.Task[Any]] = set()
        self._watches: set[asyncio.Task[Any]] = set()
        self._interrupted: set[asyncio.Task[Any]] = set()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler that the method has, wrapped; wrapped once and kept."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method == EXCHANGE:
            return handler
        kept = self._wrapped.get(method)
        if kept is None or kept[0] is not handler:
            kept = self._wrapped[method] = (handler, self._wrap(method, handler))
        return kept[1]

    def end_watches(self) -> None:
        """Ends the watches, now and from now on."""
        self._draining = True
        self._interrupt(self._watches)

    def end_work(self) -> None:
        """Ends all other calls too."""
        self._interrupt(self._work)

    def _wrap(self, method: str, handler: Any) -> Any:
        infrastructure = method.startswith(INFRASTRUCTURE)
        kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
        behavior = getattr(handler, "_".join(kind))
        behavior = self._writes(behavior) if handler.response_streaming else _answers(behavior)
        endless = handler.response_streaming and (infrastructure or is_watch(method))
        behavior = self._interruptible(behavior, self._watches if endless else self._work)
        if not infrastructure:
            unrecorded = isinstance(self._tracer, UnrecordedTracer)
            behavior = self._admitted(method, behavior) if not unrecorded else self._passed_on(method, behavior)
        make = getattr(grpc, f"{'_'.join(kind)}_rpc_method_handler")
        return make(behavior, handler.request_deserializer, handler.response_serializer)

    def _passed_on(self, method: str, behavior: Behavior) -> Behavior:
        """As ``_admitted``, where no span is recorded: the caller's goes on as it came."""

        async def call(request: Any, context: Any) -> Any:
            timeout_s = context.time_remaining()
            if timeout_s is None:
                await _refuse_endless(context, method)
            caller = trace_context.from_metadata(context.invocation_metadata() or ())
            if not caller:
                caller = trace.set_span_in_context(self._tracer.start_span(method, caller), caller)
            token = otel_context.attach(caller)
            try:
                with deadline(timeout_s, detached=True):
                    return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - grpc would send its text
                await _abort_unmapped(context, error)
            finally:
                otel_context.detach(token)

        return call

    def _admitted(self, method: str, behavior: Behavior) -> Behavior:
        """With its deadline as the ambient one, inside a span."""
        name = method.removeprefix("/")
        attributes = {RPC_SYSTEM: "grpc", RPC_METHOD: name}

        async def call(request: Any, context: Any) -> Any:
            timeout_s = context.time_remaining()
            if timeout_s is None:
                await _refuse_endless(context, method)
            caller = trace_context.from_metadata(context.invocation_metadata() or ())
            span = self._tracer.start_span(name, caller, SpanKind.SERVER, attributes)
            passed_through = span is trace.get_current_span(caller)
            token = otel_context.attach(caller if passed_through else trace.set_span_in_context(span, caller))
            failure: BaseException | None = None
            try:
                with deadline(timeout_s, detached=True):
                    return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - grpc would send its text
                failure = error
                await _abort_unmapped(context, error)
            except BaseException as error:
                failure = error
                raise
            finally:
                if span.is_recording():
                    _record(span, context, failure)
                span.end()
                otel_context.detach(token)

        return call

    def _interruptible(self, behavior: Behavior, tasks: set[asyncio.Task[Any]]) -> Behavior:
        """Lets the server end the call: with a refusal that says so, where grpc would leave the handler running."""

        async def call(request: Any, context: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                if not (self._draining and tasks is self._watches):
                    return await behavior(request, context)
            except asyncio.CancelledError:
                if task not in self._interrupted:
                    raise
                task.uncancel()
            finally:
                tasks.discard(task)
                self._interrupted.discard(task)
            leaving = MeshError(
                ErrorReason.ERROR_REASON_UNAVAILABLE, "the server is going away", metadata={ROLE: "leaving"}
            )
            return await refuse(context, leaving)

        return call

    def _interrupt(self, tasks: set[asyncio.Task[Any]]) -> None:
        self._interrupted |= tasks
        for task in tasks - self._beginning:
            task.cancel()

    def _writes(self, behavior: Callable[[Any, Any], Any]) -> Behavior:
        """Runs a generator to its end in the handler's own task, and closes it there when the call ends early.

        Left to grpc, a generator that is waiting at its ``yield`` is closed by the garbage collector, some time later,
        in another context.
        """

        async def write(request: Any, context: Any) -> None:
            responses = behavior(request, context)
            if not hasattr(responses, "__aiter__"):
                await responses
                return
            has_begun = False
            async with aclosing(responses):
                async for response in responses:
                    if has_begun:
                        await context.write(response)
                    else:
                        await self._begin(context.write(response))
                        has_begun = True

        return write

    async def _begin(self, first_write: Awaitable[None]) -> None:
        """The write that also sends the initial metadata is never interrupted: what wants to, does so afterwards.

        grpc.aio notes that the metadata is sent when that write returns. Interrupted before, it would send it again
        with the status, and fail: the client would never learn of the end, and the server would wait for the call as
        long as its drain lasts.
        """
        task = asyncio.current_task()
        assert task is not None
        self._beginning.add(task)
        try:
            await first_write
        finally:
            self._beginning.discard(task)
        if task in self._interrupted:
            task.cancel()


async def _refuse_endless(context: Any, method: str) -> NoReturn:
    message = f"{method} was called without a deadline"
    await refuse(context, MeshError(ErrorReason.ERROR_REASON_DEADLINE_REQUIRED, message))


def is_watch(method: str) -> bool:
    """Whether a stream of this name has no end of its own."""
    return method.rpartition("/")[2].startswith("Watch")


def _answers(behavior: Callable[[Any, Any], Any]) -> Behavior:
    async def answer(request: Any, context: Any) -> Any:
        response = behavior(request, context)
        # A method that the servicer does not have is the generated class's, which is not async: it raises.
        return await response if inspect.isawaitable(response) else response

    return answer if not inspect.iscoroutinefunction(behavior) else behavior


async def _abort_unmapped(context: Any, error: Exception) -> None:
    """Ends a call whose servicer let an exception through: grpc itself would send its text."""
    code = _code(context)
    if code is grpc.StatusCode.OK:
        await abort(context, error, {})
    await context.abort(code, _details(context))


def _code(context: Any) -> grpc.StatusCode:
    """The status so far. grpc.aio's contexts give numbers."""
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else STATUS_OF_NUMBER.get(code or 0, grpc.StatusCode.UNKNOWN)


def _details(context: Any) -> str:
    details = context.details()
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""


def _record(span: trace.Span, context: Any, failure: BaseException | None) -> None:
    code = _code(context)
    if isinstance(failure, asyncio.CancelledError):
        expired = context.time_remaining() == 0
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
    span.set_attribute(RPC_STATUS, code.name)
    if code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR, _details(context)))
    if failure is not None:
        span.set_attribute("error.type", type(failure).__qualname__)
