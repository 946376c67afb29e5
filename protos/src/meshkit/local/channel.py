"""The channel to a ``local://NAME``: generated stubs take it as they take one to a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import grpc

from meshkit.local import calls
from meshkit.local.calls import Codec
from meshkit.local.interception import INTERCEPTED, Invoke
from meshkit.local.pipe import Pipe
from meshkit.local.rpc import Outcome, Rpc, checked_metadata, oversized, wind_down
from meshkit.local.server import LocalServer

_KINDS: dict[str, type[grpc.aio.ClientInterceptor]] = {
    "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "stream_stream": grpc.aio.StreamStreamClientInterceptor,
}


class Directory(Protocol):
    """What a channel needs of the network."""

    def find(self, name: str) -> LocalServer | None:
        """Who serves ``name`` now."""

    def next_change(self) -> asyncio.Future[None]:
        """Done when a server comes or goes."""


class LocalChannel(grpc.aio.Channel):
    """Calls a server of the same process, which need not be there yet."""

    def __init__(
        self, directory: Directory, name: str, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()
    ) -> None:
        self._directory = directory
        self._name = name
        # As in grpc.aio, an interceptor serves one kind of call: the first whose class it has.
        self._interceptors: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
        for interceptor in interceptors:
            kind = next((kind for kind, base in _KINDS.items() if isinstance(interceptor, base)), None)
            if kind is None:
                raise ValueError(f"not a client interceptor: {interceptor!r}")
            self._interceptors[kind].append(interceptor)
        self._active: set[Rpc] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool = False,
    ) -> Any:
        """A call with one request and one response."""
        return self._callable("unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool = False,
    ) -> Any:
        """A call with one request and a stream of responses."""
        return self._callable("unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool = False,
    ) -> Any:
        """A call with a stream of requests and one response."""
        return self._callable("stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Codec = None,
        response_deserializer: Codec = None,
        _registered_method: bool = False,
    ) -> Any:
        """A call with a stream of requests and one of responses."""
        return self._callable("stream_stream", method, request_serializer, response_deserializer)

    def _callable(self, kind: str, method: str, encode: Codec, decode: Codec) -> _Callable:
        invoke: Invoke = partial(getattr(self, f"_invoke_{kind}"), encode, decode)
        return _Callable(kind, method, invoke, self._interceptors[kind])

    def _invoke_unary_unary(self, encode: Codec, decode: Codec, request: Any, details: Any) -> Any:
        rpc = self._open(details, request if encode is None else encode(request), None)
        return calls.UnaryUnaryCall(rpc, decode)

    def _invoke_unary_stream(self, encode: Codec, decode: Codec, request: Any, details: Any) -> Any:
        rpc = self._open(details, request if encode is None else encode(request), Pipe())
        return calls.UnaryStreamCall(rpc, decode)

    def _invoke_stream_unary(self, encode: Codec, decode: Codec, requests: Any, details: Any) -> Any:
        return calls.StreamUnaryCall(self._open(details, Pipe(), None), decode, encode, requests)

    def _invoke_stream_stream(self, encode: Codec, decode: Codec, requests: Any, details: Any) -> Any:
        return calls.StreamStreamCall(self._open(details, Pipe(), Pipe()), decode, encode, requests)

    def _open(self, details: grpc.aio.ClientCallDetails, request: bytes | Pipe, responses: Pipe | None) -> Rpc:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        metadata = checked_metadata(details.metadata)
        rpc = Rpc(details.method, metadata, details.timeout, request, responses, self._active)
        server = self._directory.find(self._name)
        excess = None if isinstance(request, Pipe) else oversized(request)
        if excess is not None:
            rpc.give_up(excess)
        elif details.timeout is not None and details.timeout <= 0:
            rpc.give_up(Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        elif server is not None:
            server.accept(rpc)
        elif details.wait_for_ready:
            task = rpc.loop.create_task(self._accept_when_served(rpc))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            rpc.abandon = task.cancel
        else:
            rpc.give_up(Outcome(grpc.StatusCode.UNAVAILABLE, f"local://{self._name} is not served"))
        return rpc

    async def _accept_when_served(self, rpc: Rpc) -> None:
        (await self._server()).accept(rpc)

    async def _server(self) -> LocalServer:
        while (server := self._directory.find(self._name)) is None:
            await self._directory.next_change()
        return server

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: ARG002 - grpc's
        """READY while the name is served, IDLE while not, SHUTDOWN once closed."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        served = self._directory.find(self._name) is not None
        return grpc.ChannelConnectivity.READY if served else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another."""
        while self.get_state() is last_observed_state:
            await self._directory.next_change()

    async def channel_ready(self) -> None:
        """Waits until the name is served."""
        await self._server()

    async def close(self, grace: float | None = None) -> None:
        """Makes no more calls; those running have ``grace`` seconds, then they are cancelled."""
        self._closed = True
        await wind_down(self._active, grace)

    async def __aenter__(self) -> LocalChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Callable:
    """What a stub holds for one method."""

    def __init__(self, kind: str, method: str, invoke: Invoke, interceptors: Sequence[Any]) -> None:
        self._method = method
        self._invoke = invoke
        self._intercepted: Callable[..., Any] | None = (
            partial(INTERCEPTED[kind], interceptors, invoke) if interceptors else None
        )

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        del compression  # nothing is compressed in a process
        if self._intercepted is None:
            details = grpc.aio.ClientCallDetails(self._method, timeout, metadata, credentials, wait_for_ready)
            return self._invoke(request, details)
        metadata = grpc.aio.Metadata(*(metadata or ()))
        details = grpc.aio.ClientCallDetails(self._method, timeout, metadata, credentials, wait_for_ready)
        return self._intercepted(request, details)
