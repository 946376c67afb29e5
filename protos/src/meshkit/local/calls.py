"""The four kinds of call as the client holds them: the contract of ``grpc.aio``'s call objects over an ``Rpc``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any

import grpc

from meshkit.local.pipe import Pipe, PipeClosedError
from meshkit.local.rpc import Outcome, Rpc, oversized

LOCALLY_CANCELLED = "Locally cancelled by application!"
_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."
_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'

Codec = Callable[[Any], Any] | None
_log = logging.getLogger(__name__)


class LocalCall(grpc.aio.Call):
    """What all four kinds share."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    def cancel(self) -> bool:
        """Gives up. False when the call was over."""
        return self._rpc.cancel(LOCALLY_CANCELLED)

    def cancelled(self) -> bool:
        """Whether the call ended with CANCELLED."""
        outcome = self._rpc.outcome
        return outcome is not None and outcome.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call is over."""
        return self._rpc.outcome is not None

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; None where there is none."""
        return self._rpc.time_remaining_s()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back at the end; at once when it is over."""
        self._rpc.on_end(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Waits for it."""
        return grpc.aio.Metadata(*await self._rpc.begun())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Waits for the end."""
        return grpc.aio.Metadata(*(await self._rpc.ended()).trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        """Waits for the end."""
        return (await self._rpc.ended()).code

    async def details(self) -> str:
        """Waits for the end."""
        return (await self._rpc.ended()).details

    async def debug_error_string(self) -> str:
        """Waits for the end."""
        outcome = await self._rpc.ended()
        return f"{self._rpc.method}: {outcome.code.name}: {outcome.details}"

    async def wait_for_connection(self) -> None:
        """Waits for the initial metadata.

        Raises:
            AioRpcError: the call has failed.
        """
        await self._rpc.begun()
        if self._rpc.outcome is not None:
            self._raise_unless_ok(self._rpc.outcome)

    def _raise_unless_ok(self, outcome: Outcome) -> None:
        if self._rpc.cancelled_here:
            raise asyncio.CancelledError
        if outcome.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                outcome.code,
                grpc.aio.Metadata(*(self._rpc.initial_metadata or ())),
                grpc.aio.Metadata(*outcome.trailing_metadata),
                outcome.details,
                f"{self._rpc.method}: {outcome.code.name}: {outcome.details}",
            )


class _OneResponse(LocalCall):
    """A call that is awaited."""

    def __init__(self, rpc: Rpc, decode: Codec) -> None:
        super().__init__(rpc)
        self._decode = decode
        self._decoded: list[Any] = []

    def __await__(self) -> Generator[Any, None, Any]:
        rpc = self._rpc
        try:
            while rpc.outcome is None:
                yield from rpc.next_change()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_unless_ok(rpc.outcome)
        if not self._decoded:
            self._decoded.append(rpc.response if self._decode is None else self._decode(rpc.response))
        return self._decoded[0]


class _ManyResponses(LocalCall):
    """A call that is iterated over, or read."""

    def __init__(self, rpc: Rpc, decode: Codec) -> None:
        super().__init__(rpc)
        self._decode = decode
        self._iterator: AsyncIterator[Any] | None = None
        self._is_read = False

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._is_read:
            raise grpc.aio.UsageError(_MIXED)
        if self._iterator is None:
            self._iterator = self._iterate()
        return self._iterator

    async def read(self) -> Any:
        """The next response; EOF at the end of a call that went well."""
        if self._iterator is not None:
            raise grpc.aio.UsageError(_MIXED)
        self._is_read = True
        return await self._next()

    async def _iterate(self) -> AsyncIterator[Any]:
        while (response := await self._next()) is not grpc.aio.EOF:
            yield response

    async def _next(self) -> Any:
        responses = self._rpc.responses
        assert responses is not None
        try:
            message = await responses.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is None:
            self._raise_unless_ok(await self._rpc.ended())
            return grpc.aio.EOF
        return message if self._decode is None else self._decode(message)


class _ManyRequests(LocalCall):
    """A call that is written to, or fed from an iterator."""

    _encode: Codec
    _feeder: asyncio.Task[None] | None
    _done_writing = False

    def _take_requests(self, encode: Codec, requests: AsyncIterable[Any] | Iterable[Any] | None) -> None:
        self._encode = encode
        self._feeder = None if requests is None else self._rpc.loop.create_task(self._feed(requests))

    async def write(self, request: Any) -> None:
        """Sends a request; waits while the server is behind."""
        if self._feeder is not None:
            raise grpc.aio.UsageError(_MIXED)
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)
        if self._done_writing:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        try:
            await self._put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise
        except PipeClosedError:
            if self._rpc.outcome is not None:
                self._raise_unless_ok(self._rpc.outcome)
            raise asyncio.InvalidStateError(_FINISHED) from None

    async def done_writing(self) -> None:
        """There are no more requests."""
        if self._feeder is not None:
            raise grpc.aio.UsageError(_MIXED)
        self._close()

    async def _put(self, request: Any) -> None:
        message = request if self._encode is None else self._encode(request)
        assert isinstance(self._rpc.request, Pipe)
        excess = oversized(message)
        if excess is not None:
            self._rpc.give_up(excess)
            raise PipeClosedError
        await self._rpc.request.put(message)

    def _close(self) -> None:
        assert isinstance(self._rpc.request, Pipe)
        self._done_writing = True
        self._rpc.request.close()

    async def _feed(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        self._rpc.on_end(self._stop_feeding)
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._put(request)
            else:
                for request in requests:
                    await self._put(request)
        except PipeClosedError:
            return
        except Exception:  # noqa: BLE001 - the caller's iterator may raise anything; as on a socket, that ends the call
            _log.exception("the requests of %s failed", self._rpc.method)
            self.cancel()
            return
        self._close()

    def _stop_feeding(self) -> None:
        if self._feeder is not None and self._feeder is not asyncio.current_task():
            self._feeder.cancel()


class UnaryUnaryCall(_OneResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class UnaryStreamCall(_ManyResponses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, many responses."""


class StreamUnaryCall(_ManyRequests, _OneResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """Many requests, one response."""

    def __init__(self, rpc: Rpc, decode: Codec, encode: Codec, requests: Any) -> None:
        super().__init__(rpc, decode)
        self._take_requests(encode, requests)


class StreamStreamCall(_ManyRequests, _ManyResponses, grpc.aio.StreamStreamCall[Any, Any]):
    """Many requests, many responses."""

    def __init__(self, rpc: Rpc, decode: Codec, encode: Codec, requests: Any) -> None:
        super().__init__(rpc, decode)
        self._take_requests(encode, requests)
