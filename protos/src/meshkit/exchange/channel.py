"""The client's channel: a call with one request is a command of the one stream to its server; others are plain gRPC."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

import grpc

from meshkit.exchange.frames import MESSAGE_BYTES
from meshkit.exchange.link import Link
from meshkit.exchange.streams import Inbox
from meshkit.incoming import INFRASTRUCTURE, is_watch
from meshkit.local.calls import Codec, UnaryStreamCall, UnaryUnaryCall
from meshkit.local.pipe import Pipe, PipeClosedError
from meshkit.local.rpc import Outcome, Rpc, checked_metadata, wind_down
from tallygate.mesh.v1.exchange_pb2_grpc import ExchangeServiceStub

OLDER_PEER_S = 60.0
"""After a server has answered that it does not know the exchange, calls to it are plain for so long: by then it may
have been replaced by a newer one."""


class Carrier(Protocol):
    """Takes a unary call to where it is answered."""

    def carry(self, rpc: Rpc) -> None:
        """Begins to; the call ends with the answer's outcome."""


class CarriedCallable:
    """What a stub holds for a unary method: makes the call and gives it to a carrier."""

    def __init__(self, carrier: Carrier, running: set[Rpc], method: str, encode: Codec, decode: Codec) -> None:
        self._carrier = carrier
        self._running = running
        self._method = method
        self._encode = encode
        self._decode = decode

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **_: Any) -> Any:
        """The call, begun."""
        message = request if self._encode is None else self._encode(request)
        return self.begin(message, timeout, metadata)

    def begin(self, message: bytes, timeout: float | None, metadata: Any) -> UnaryUnaryCall:
        """The call of an encoded request."""
        return UnaryUnaryCall(self._carry(message, timeout, metadata, None), self._decode)

    def begin_stream(self, message: bytes, timeout: float | None, metadata: Any) -> UnaryStreamCall:
        """The same, of a call that is answered with a stream."""
        return UnaryStreamCall(self._carry(message, timeout, metadata, Inbox()), self._decode)

    def _carry(self, message: bytes, timeout: float | None, metadata: Any, responses: Inbox | None) -> Rpc:
        rpc = Rpc(self._method, checked_metadata(metadata), timeout, message, responses, self._running)
        if timeout is not None and timeout <= 0:
            rpc.give_up(Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        else:
            self._carrier.carry(rpc)
        return rpc


class ExchangeChannel(grpc.aio.Channel):
    """Wraps a channel to one server. The stream is opened by the first call that needs it, and again after it ended.
    ``plain``: use none.
    """

    def __init__(self, inner: grpc.aio.Channel, *, plain: bool = False) -> None:
        self._inner = inner
        self._open = ExchangeServiceStub(inner).Exchange
        self._link: Link | None = None
        self._links: set[Link] = set()
        self._running: set[Rpc] = set()
        self._plain_calls: set[asyncio.Task[None]] = set()
        self._plain_until = math.inf if plain else 0.0
        self._closed = False

    def unary_unary(
        self, method: str, request_serializer: Codec = None, response_deserializer: Codec = None, *_: Any, **__: Any
    ) -> Any:
        """A call with one request and one response."""
        if method.startswith(INFRASTRUCTURE):
            return self._inner.unary_unary(method, request_serializer, response_deserializer)
        carried = CarriedCallable(self, self._running, method, None, response_deserializer)
        plain: Any = self._inner.unary_unary(method, None, response_deserializer)
        return _Command(self.takes, carried.begin, plain, request_serializer)

    def unary_stream(
        self, method: str, request_serializer: Codec = None, response_deserializer: Codec = None, *_: Any, **__: Any
    ) -> Any:
        """A call with one request and a stream of responses."""
        if method.startswith(INFRASTRUCTURE) or is_watch(method):
            return self._inner.unary_stream(method, request_serializer, response_deserializer)
        carried = CarriedCallable(self, self._running, method, None, response_deserializer)
        plain: Any = self._inner.unary_stream(method, None, response_deserializer)
        return _Command(self._takes_stream, carried.begin_stream, plain, request_serializer)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one response."""
        return self._inner.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one of responses."""
        return self._inner.stream_stream(*args, **kwargs)

    def takes(self, request: bytes) -> bool:
        """Whether a request goes over the stream; otherwise it is a call of its own."""
        return len(request) <= MESSAGE_BYTES and not self._knows_older_peer()

    def _takes_stream(self, request: bytes) -> bool:
        """The same, of a call that is answered with a stream: the server has to have said that it carries those."""
        if self._closed or not self.takes(request):
            return False
        return self._opened().carries_streams

    def carry(self, rpc: Rpc) -> None:
        """Sends a call over the stream, or as a call of its own.

        Raises:
            grpc.aio.UsageError: the channel is closed.
        """
        if self._closed:
            rpc.give_up(Outcome(grpc.StatusCode.CANCELLED, "Channel is closed."))
            raise grpc.aio.UsageError("Channel is closed.")
        assert isinstance(rpc.request, bytes)
        if rpc.method.startswith(INFRASTRUCTURE) or not self.takes(rpc.request):
            self._carry_plainly(rpc)
            return
        link = self._opened()
        if rpc.responses is not None and not link.carries_streams:
            self._carry_plainly(rpc)
        else:
            link.send(rpc)

    def _opened(self) -> Link:
        if self._link is None:
            # Its tasks are nobody's: not of the caller that happens to come first, nor in its trace and deadline.
            self._link = contextvars.Context().run(lambda: Link(self._open(), self))
            self._links.add(self._link)
        return self._link

    # What the link asks for.

    def left(self, link: Link) -> None:
        """See ``Owner``."""
        if self._link is link:
            self._link = None

    def ended(self, link: Link) -> None:
        """See ``Owner``."""
        self.left(link)
        self._links.discard(link)

    def carry_again(self, rpc: Rpc, otherwise: Outcome) -> None:
        """See ``Owner``: over another stream, once."""
        if rpc.outcome is not None:
            return
        if rpc.was_handed_on or self._closed:
            rpc.finish(otherwise)
            return
        rpc.was_handed_on = True
        rpc.abandon = None
        self.carry(rpc)

    def peer_is_older(self, rpcs: Iterable[Rpc]) -> None:
        """See ``Owner``."""
        self._plain_until = asyncio.get_running_loop().time() + OLDER_PEER_S
        for rpc in rpcs:
            if rpc.outcome is None:
                self._carry_plainly(rpc)

    def _carry_plainly(self, rpc: Rpc) -> None:
        working = self._call_plainly(rpc) if rpc.responses is None else self._stream_plainly(rpc, rpc.responses)
        task = contextvars.Context().run(asyncio.create_task, working)
        self._plain_calls.add(task)
        task.add_done_callback(self._plain_calls.discard)

    def _knows_older_peer(self) -> bool:
        return self._plain_until > 0 and asyncio.get_running_loop().time() < self._plain_until

    async def _call_plainly(self, rpc: Rpc) -> None:
        if rpc.outcome is not None:  # given up before this came to run
            return
        make: Any = self._inner.unary_unary(rpc.method)
        call = make(rpc.request, timeout=rpc.time_remaining_s(), metadata=rpc.metadata)
        rpc.abandon = call.cancel
        try:
            rpc.response = await call
        except grpc.aio.AioRpcError as error:
            trailing = tuple(error.trailing_metadata() or ())
            rpc.finish(Outcome(error.code(), error.details() or "", trailing))
        except asyncio.CancelledError:
            if rpc.outcome is None:
                rpc.finish(Outcome(grpc.StatusCode.CANCELLED, "Channel closed."))
        else:
            rpc.begin(tuple(await call.initial_metadata()))
            rpc.finish(Outcome(grpc.StatusCode.OK, "", tuple(await call.trailing_metadata())))

    async def _stream_plainly(self, rpc: Rpc, responses: Pipe) -> None:
        if rpc.outcome is not None:
            return
        if isinstance(responses, Inbox):
            responses.grant = None
        make: Any = self._inner.unary_stream(rpc.method)
        call = make(rpc.request, timeout=rpc.time_remaining_s(), metadata=rpc.metadata)
        rpc.abandon = call.cancel
        try:
            async for response in call:
                rpc.begin(tuple(await call.initial_metadata()))
                await responses.put(response)
        except grpc.aio.AioRpcError as error:
            rpc.finish(Outcome(error.code(), error.details() or "", tuple(error.trailing_metadata() or ())))
        except asyncio.CancelledError:
            if rpc.outcome is None:
                rpc.finish(Outcome(grpc.StatusCode.CANCELLED, "Channel closed."))
        except PipeClosedError:
            call.cancel()
        else:
            rpc.begin(tuple(await call.initial_metadata()))
            rpc.finish(Outcome(grpc.StatusCode.OK, "", tuple(await call.trailing_metadata())))

    async def close(self, grace: float | None = None) -> None:
        """Makes no more calls; those running have ``grace`` seconds, then they are cancelled."""
        self._closed = True
        await wind_down(self._running, grace)
        for link in list(self._links):
            await link.close()
        self._link = None
        self._links.clear()
        await self._inner.close(grace)
        if self._plain_calls:
            await asyncio.wait(set(self._plain_calls))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connection's."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """The connection's."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until the server can be reached, and has said what it carries."""
        await self._inner.channel_ready()
        if not self._closed and not self._knows_older_peer():
            await self._opened().answered()

    async def __aenter__(self) -> ExchangeChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Command:
    """A method with one request; a call that asks for what a stream can't give each of its commands is plain."""

    def __init__(
        self,
        takes: Callable[[bytes], bool],
        begin: Callable[[bytes, float | None, Any], Any],
        plain: Callable[..., Any],
        encode: Codec,
    ) -> None:
        self._takes = takes
        self._begin = begin
        self._plain = plain
        self._encode = encode

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        message = request if self._encode is None else self._encode(request)
        asks_more = credentials is not None or wait_for_ready or compression is not None
        if asks_more or not self._takes(message):
            return self._plain(
                message,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
        return self._begin(message, timeout, metadata)
