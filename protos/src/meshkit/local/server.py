"""The server of one ``local://NAME``: takes generated servicers and server interceptors as ``grpc.aio.Server`` does."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc

from meshkit.local.context import LocalServicerContext
from meshkit.local.pipe import PipeClosedError
from meshkit.local.rpc import Metadata, Outcome, Rpc

_log = logging.getLogger(__name__)

GOING_AWAY = Outcome(grpc.StatusCode.UNAVAILABLE, "the server is going away")


class _CallDetails(NamedTuple):
    """What interceptors learn of a call."""

    method: str
    invocation_metadata: Metadata


class Switchboard(Protocol):
    """Where servers are found by name."""

    def connect(self, name: str, server: LocalServer) -> None:
        """``server`` takes the calls to ``name`` from now on."""

    def disconnect(self, name: str) -> None:
        """Nobody takes the calls to ``name`` any more."""


class LocalServer(grpc.aio.Server):
    """Serves calls of the same event loop, each in a task of its own."""

    def __init__(
        self,
        name: str,
        switchboard: Switchboard,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        maximum_concurrent_rpcs: int | None = None,
    ) -> None:
        self._name = name
        self._switchboard = switchboard
        self._limit = maximum_concurrent_rpcs
        self._registered: dict[str, Any] = {}
        self._generic: list[Any] = []
        self._find: Callable[[Any], Awaitable[Any]] = self._look_up
        for interceptor in reversed(interceptors):
            self._find = partial(interceptor.intercept_service, self._find)  # type: ignore[arg-type]
        self._tasks: dict[Rpc, asyncio.Task[None]] = {}
        self._context: contextvars.Context | None = None
        self._stopped = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers; asked in order, after the registered ones."""
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the handlers of a service, by method."""
        for method, handler in method_handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """Not here."""
        raise NotImplementedError("a local server has a name, not a port")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Not here."""
        raise NotImplementedError("a local server has a name, not a port")

    async def start(self) -> None:
        """Takes calls from now on.

        Raises:
            RuntimeError: the name is served already.
        """
        # As on a socket, a handler does not see the context variables of its caller, but those of whoever started the
        # server.
        self._context = contextvars.copy_context()
        self._switchboard.connect(self._name, self)

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls; those running have ``grace`` seconds, then they are cancelled."""
        if self._context is None or self._stopped.is_set():
            return
        self._context = None
        self._switchboard.disconnect(self._name)
        if self._tasks and grace:
            await asyncio.wait(list(self._tasks.values()), timeout=grace)
        for rpc in list(self._tasks):
            rpc.finish(GOING_AWAY)
            self._abandon(rpc)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits for the end of ``stop``. True when ``timeout`` seconds passed before."""
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def accept(self, rpc: Rpc) -> None:
        """Begins to work on a call."""
        assert self._context is not None
        self._tasks[rpc] = rpc.loop.create_task(self._serve(rpc), context=self._context.copy())
        rpc.abandon = partial(self._abandon, rpc)

    def _abandon(self, rpc: Rpc) -> None:
        task = self._tasks.get(rpc)
        if task is not None:
            if not rpc.begun_work:
                del self._tasks[rpc]  # a task that is cancelled before its first step never comes to its `finally`
            task.cancel()

    async def _look_up(self, details: _CallDetails) -> Any:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        return next((found for generic in self._generic if (found := generic.service(details)) is not None), None)

    async def _serve(self, rpc: Rpc) -> None:
        rpc.begun_work = True
        context = LocalServicerContext(rpc, self._name)
        try:
            handler = await self._find(_CallDetails(rpc.method, rpc.metadata))
            if handler is None:
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


async def _handle(rpc: Rpc, handler: Any, context: LocalServicerContext) -> None:
    request: Any
    if handler.request_streaming:
        request = _Requests(context)
    else:
        assert isinstance(rpc.request, bytes), "a stream of requests for a method that takes one"
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
