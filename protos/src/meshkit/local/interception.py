"""Client interceptors on the local channel: the contract of ``grpc.aio``'s, with the same objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any

import grpc

from meshkit.local.calls import LOCALLY_CANCELLED
from meshkit.local.pipe import CAPACITY

Invoke = Callable[[Any, grpc.aio.ClientCallDetails], Any]
"""Begins the call itself: takes the request (or the iterator of them) and the details, gives the call."""

_END = object()


class _Intercepted(grpc.aio.Call):
    """A call on its way through interceptors. They run in a task; once they have given the call, it is that call."""

    _intercept = ""

    def __init__(
        self, interceptors: Sequence[Any], invoke: Invoke, request: Any, details: grpc.aio.ClientCallDetails
    ) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        chain = self._run(list(interceptors), invoke, details, request)
        self._task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(chain)
        self._task.add_done_callback(self._hand_over)

    async def _run(
        self, interceptors: list[Any], invoke: Invoke, details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        if not interceptors:
            return invoke(request, details)

        async def proceed(details: grpc.aio.ClientCallDetails, request: Any) -> Any:
            return await self._run(interceptors[1:], invoke, details, request)

        result = await getattr(interceptors[0], self._intercept)(proceed, details, request)
        return result if isinstance(result, grpc.aio.Call) else _Answered(result)

    def _hand_over(self, _: asyncio.Task[Any]) -> None:
        for callback in self._callbacks:
            self._on_end(callback)
        self._callbacks.clear()

    def _on_end(self, callback: Callable[[Any], None]) -> None:
        call = self._call()
        if call is None:
            callback(self)
        else:
            call.add_done_callback(lambda _: callback(self))

    def _call(self) -> Any:
        """The call, once the interceptors have given it; None where they failed or were cancelled."""
        failed = self._task.cancelled() or self._task.exception() is not None
        return None if failed else self._task.result()

    def cancel(self) -> bool:
        """Gives up. False when the call was over."""
        if not self._task.done():
            return self._task.cancel()
        call = self._call()
        return False if call is None else call.cancel()

    def cancelled(self) -> bool:
        """Whether the call ended with CANCELLED."""
        if not self._task.done():
            return False
        call = self._call()
        if call is not None:
            return bool(call.cancelled())
        error = None if self._task.cancelled() else self._task.exception()
        return error is None or (isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.CANCELLED)

    def done(self) -> bool:
        """Whether the call is over."""
        if not self._task.done():
            return False
        call = self._call()
        return call is None or bool(call.done())

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; None where there is none, or the interceptors have not given the call yet."""
        call = self._call() if self._task.done() else None
        return None if call is None else call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back at the end; at once when it is over."""
        if self._task.done():
            self._on_end(callback)
        else:
            self._callbacks.append(callback)

    async def _ask(self, question: str, instead: Any) -> Any:
        """What the call, or the error that the interceptors ended with, answers to ``question``."""
        try:
            call = await asyncio.shield(self._task)
        except grpc.aio.AioRpcError as error:
            return getattr(error, question)()
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return instead
        return await getattr(call, question)()

    async def initial_metadata(self) -> Any:
        """Waits for it."""
        return await self._ask("initial_metadata", None)

    async def trailing_metadata(self) -> Any:
        """Waits for the end."""
        return await self._ask("trailing_metadata", None)

    async def code(self) -> Any:
        """Waits for the end."""
        return await self._ask("code", grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        """Waits for the end."""
        return await self._ask("details", LOCALLY_CANCELLED)

    async def debug_error_string(self) -> Any:
        """Waits for the end."""
        return await self._ask("debug_error_string", "")

    async def wait_for_connection(self) -> None:
        """Waits for the interceptors and the call's initial metadata."""
        await (await self._task).wait_for_connection()


class _OneResponse(_Intercepted):
    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._task
        return (yield from call.__await__())


class _ManyResponses(_Intercepted):
    _responses: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        async for response in await self._task:
            yield response

    async def read(self) -> Any:
        """The next response; EOF at the end of a call that went well."""
        return await anext(aiter(self), grpc.aio.EOF)


class _ManyRequests(_Intercepted):
    """Where requests are written, interceptors see them as an iterator all the same."""

    def __init__(
        self, interceptors: Sequence[Any], invoke: Invoke, request: Any, details: grpc.aio.ClientCallDetails
    ) -> None:
        self._written: asyncio.Queue[Any] | None = None
        if request is None:
            self._written = asyncio.Queue(maxsize=CAPACITY)
            request = self._iterate_written(self._written)
        super().__init__(interceptors, invoke, request, details)

    @staticmethod
    async def _iterate_written(written: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (request := await written.get()) is not _END:
            yield request

    async def write(self, request: Any) -> None:
        """Sends a request; waits while the server is behind."""
        await self._put(request)

    async def done_writing(self) -> None:
        """There are no more requests."""
        await self._put(_END)

    async def _put(self, request: Any) -> None:
        if self._written is None:
            raise grpc.aio.UsageError("The iterator and read/write APIs may not be mixed on a single RPC.")
        put = asyncio.ensure_future(self._written.put(request))
        end = asyncio.ensure_future(self.code())
        try:
            await asyncio.wait((put, end), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                raise asyncio.InvalidStateError("RPC already finished.")
        finally:
            put.cancel()
            end.cancel()


class _UnaryUnary(_OneResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    _intercept = "intercept_unary_unary"


class _UnaryStream(_ManyResponses, grpc.aio.UnaryStreamCall[Any, Any]):
    _intercept = "intercept_unary_stream"


class _StreamUnary(_ManyRequests, _OneResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    _intercept = "intercept_stream_unary"


class _StreamStream(_ManyRequests, _ManyResponses, grpc.aio.StreamStreamCall[Any, Any]):
    _intercept = "intercept_stream_stream"


INTERCEPTED: dict[str, type[_Intercepted]] = {
    "unary_unary": _UnaryUnary,
    "unary_stream": _UnaryStream,
    "stream_unary": _StreamUnary,
    "stream_stream": _StreamStream,
}


class _Answered(grpc.aio.Call):
    """What an interceptor gave instead of a call: the response, or an iterator of responses."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        return aiter(self._answer)

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        return
