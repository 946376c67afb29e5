"""What a handler is given beside its request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from meshkit.local.pipe import Pipe
from meshkit.local.rpc import Metadata, Outcome, Rpc, checked_metadata

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


class LocalServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """The context of one call; the same contract as on sockets."""

    def __init__(self, rpc: Rpc, peer: str) -> None:
        self._rpc = rpc
        self._peer = peer
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._serializer: Serializer = None
        self._deserializer: Deserializer = None
        self.abortion: grpc.aio.AbortError | None = None
        self.ended = False

    def use(self, handler: Any) -> None:
        """Takes the codecs of the handler that was found."""
        self._serializer = handler.response_serializer
        self._deserializer = handler.request_deserializer

    def decode(self, message: bytes) -> Any:
        """A request from its bytes."""
        return message if self._deserializer is None else self._deserializer(message)

    def encode(self, message: Any) -> bytes:
        """A response to its bytes."""
        return message if self._serializer is None else self._serializer(message)

    def outcome(self) -> Outcome:
        """How the call ends if the handler returns now."""
        return Outcome(self._code, self._details, self._trailing)

    def end(self) -> None:
        """The handler is done."""
        self.ended = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def read(self) -> Any:
        """The next request of a stream; EOF at its end."""
        requests = self._rpc.request
        if not isinstance(requests, Pipe):
            raise grpc.aio.UsageError("The request of this call is not a stream.")
        message = await requests.get()
        return grpc.aio.EOF if message is None else self.decode(message)

    async def write(self, message: Any) -> None:
        """Sends a response; waits while the client is behind."""
        if self.abortion is not None or self.ended:
            raise grpc.aio.UsageError("RPC already finished.")
        await self._rpc.respond(self.encode(message))

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Sends the initial metadata; possible once, before the first response."""
        if self._rpc.initial_metadata is not None:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._rpc.begin(checked_metadata(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call by raising ``AbortError``."""
        if self.abortion is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self._trailing = checked_metadata(trailing_metadata) or self._trailing
        self._details = details or self._details
        self._code = code
        self.abortion = grpc.aio.AbortError("Locally aborted.")
        self._rpc.finish(self.outcome())
        raise self.abortion

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """As ``abort``, with the parts of ``status``."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Sent when the handler returns."""
        self._trailing = checked_metadata(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """What the client sent."""
        return self._rpc.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status when the handler returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """The details when the handler returns."""
        self._details = details

    def trailing_metadata(self) -> Any:
        """As set."""
        return self._trailing

    def code(self) -> grpc.StatusCode:
        """As set."""
        return self._code

    def details(self) -> str:
        """As set."""
        return self._details

    def time_remaining(self) -> float:
        """Seconds to the deadline; None where there is none (the stubs forget that case)."""
        return self._rpc.time_remaining_s()  # type: ignore[return-value]

    def add_done_callback(self, callback: Any) -> None:
        """Calls back when the handler is done."""
        if self.ended:
            callback(self)
        else:
            self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Whether the client gave up."""
        outcome = self._rpc.outcome
        return outcome is not None and outcome.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call is over."""
        return self.ended or self._rpc.outcome is not None

    def peer(self) -> str:
        """Where the call comes from."""
        return self._peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """Nobody: the process trusts itself."""
        return None

    def peer_identity_key(self) -> str | None:
        """None."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Empty."""
        return {}

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is compressed in a process."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed in a process."""
