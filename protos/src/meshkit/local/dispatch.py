"""From a call that arrived to the handler of its method: through the interceptors, in a task of its own, to an end that
its client learns.

What the local channel and the exchange of commands (``meshkit.exchange``) have in common on the server's side.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

import grpc

from meshkit.local.context import LocalServicerContext
from meshkit.local.pipe import Pipe, PipeClosedError
from meshkit.local.rpc import Metadata, Outcome, Rpc

_log = logging.getLogger(__name__)


class _CallDetails(NamedTuple):
    """What interceptors learn of a call."""

    method: str
    invocation_metadata: Metadata


class Dispatcher:
    """The handlers of one server, and the calls that it works on.

    ``limit``: calls at once; one more ends with RESOURCE_EXHAUSTED.
    """

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), limit: int | None = None) -> None:
        self._limit = limit
        self._registered: dict[str, Any] = {}
        self._generic: list[Any] = []
        self._found: dict[str, Any] | None = (
            {} if all(getattr(each, "decides_by_method", False) for each in interceptors) else None
        )
        """Handlers by method, where an interceptor would give the same one each time."""
        self._find: Callable[[Any], Awaitable[Any]] = self._look_up
        for interceptor in reversed(interceptors):
            self._find = partial(interceptor.intercept_service, self._find)  # type: ignore[arg-type]
        self._tasks: dict[Rpc, asyncio.Task[None]] = {}
        self._context = contextvars.Context()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers; asked in order, after the registered ones."""
        self._forget_found()
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the handlers of a service, by method."""
        self._forget_found()
        for method, handler in method_handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler

    def start(self) -> None:
        """From now on handlers see the context variables of whoever calls this, and not those of their callers."""
        self._context = contextvars.copy_context()

    def accept(self, rpc: Rpc, peer: str) -> None:
        """Begins to work on a call."""
        self._tasks[rpc] = rpc.loop.create_task(self._serve(rpc, peer), context=self._context.copy())
        rpc.abandon = partial(self._abandon, rpc)

    async def stop(self, grace_s: float | None, outcome: Outcome) -> None:
        """Gives what is running ``grace_s`` seconds, then ends it with ``outcome``."""
        if self._tasks and grace_s:
            await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        for rpc in list(self._tasks):
            rpc.finish(outcome)
            self._abandon(rpc)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _abandon(self, rpc: Rpc) -> None:
        task = self._tasks.get(rpc)
        if task is not None:
            if not rpc.begun_work:
                del self._tasks[rpc]  # a task that is cancelled before its first step never comes to its `finally`
            task.cancel()

    def _forget_found(self) -> None:
        if self._found is not None:
            self._found.clear()

    async def _look_up(self, details: _CallDetails) -> Any:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        return next((found for generic in self._generic if (found := generic.service(details)) is not None), None)

    async def _serve(self, rpc: Rpc, peer: str) -> None:
        rpc.begun_work = True
        context = LocalServicerContext(rpc, peer)
        try:
            handler = self._found.get(rpc.method) if self._found is not None else None
            if handler is None:
                handler = await self._find(_CallDetails(rpc.method, rpc.metadata))
                if self._found is not None and handler is not None:
                    self._found[rpc.method] = handler
            if handler is None or not _fits(rpc, handler):
                rpc.finish(Outcome(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
            elif self._limit is not None and len(self._tasks) > self._limit:
                rpc.finish(Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"))
            else:
                context.use(handler)
                await _handle(rpc, handler, context)
                rpc.finish(context.outcome())
        except grpc.aio.AbortError:
            assert context.abortion is not None, "an AbortError that is not this call's"
        except asyncio.CancelledError:
            # The client gave up, the deadline passed or the server stops: each has settled the call. If none did, the
            # handler was cancelled from within, and the client must learn of an end.
            rpc.finish(Outcome(grpc.StatusCode.CANCELLED, "cancelled by the handler"))
        except PipeClosedError:
            pass
        except Exception as error:  # noqa: BLE001 - as grpc does; Incoming sees to it that it has nothing to do
            _log.exception("unexpected %s in %s", type(error).__name__, rpc.method)
            code, _, trailing = context.outcome()
            if code is grpc.StatusCode.OK:
                code = grpc.StatusCode.UNKNOWN
            rpc.finish(Outcome(code, f"Unexpected {type(error)}: {error}", trailing))
        finally:
            del self._tasks[rpc]
            context.end()


def _fits(rpc: Rpc, handler: Any) -> bool:
    """Whether both sides mean the same kind of call."""
    streams = isinstance(rpc.request, Pipe), rpc.responses is not None
    return streams == (handler.request_streaming, handler.response_streaming)


async def _handle(rpc: Rpc, handler: Any, context: LocalServicerContext) -> None:
    request: Any
    if handler.request_streaming:
        request = _Requests(context)
    else:
        assert isinstance(rpc.request, bytes)
        request = context.decode(rpc.request)
    if handler.response_streaming:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
        responses = behavior(request, context)
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)
        return
    behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
    response = behavior(request, context)
    if inspect.isawaitable(response):
        response = await response
    if context.abortion is None and context.code() is grpc.StatusCode.OK:
        await rpc.respond(context.encode(response))


class _Requests:
    """A stream of requests as the handler reads it. No generator: nothing has to close it when the handler stops
    early."""

    __slots__ = ("_context",)

    def __init__(self, context: LocalServicerContext) -> None:
        self._context = context

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request
