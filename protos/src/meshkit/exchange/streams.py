"""The responses of a call that is answered with a stream, at both ends of the exchange.

Each stands where the local channel has one pipe, so that the call and the handler see no difference. Flow control is
by the message: the server sends what the client has granted, and the client grants more as it reads.
"""

from __future__ import annotations

from collections.abc import Callable

from meshkit.local.pipe import CAPACITY, Pipe, PipeClosedError, turn, wake_one

WINDOW = CAPACITY
"""Responses that a server may be ahead of its client."""

_GRANT_AFTER = WINDOW // 2
"""Responses that are read before more are granted, so that a grant is rarer than a response."""


class Inbox(Pipe):
    """The client's end."""

    __slots__ = ("_read", "grant")

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self.grant: Callable[[int], None] | None = None
        """Tells the server how many more may come; None: whoever writes here keeps to the bound of the pipe."""

    async def get(self) -> bytes | None:
        """See ``Pipe``."""
        message = await super().get()
        if message is not None:
            self._read += 1
            if self._read == _GRANT_AFTER:
                self._read = 0
                if self.grant is not None:
                    self.grant(_GRANT_AFTER)
        return message


class Outbox(Pipe):
    """The server's end: what the handler writes goes on at once, as far as the client has granted.

    ``send``: queues a response to be written.
    """

    __slots__ = ("_granted", "_send", "dropped")

    def __init__(self, window: int, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._granted = window
        self._send = send
        self.dropped = False
        """The client takes nothing more: what is queued need not be written."""

    async def put(self, message: bytes) -> None:
        """See ``Pipe``."""
        while self._granted <= 0 and not self._closed:
            await turn(self._writers)
        if self._closed:
            raise PipeClosedError
        self._granted -= 1
        self._send(message)

    def grant(self, responses: int) -> None:
        """The client takes so many more."""
        self._granted += responses
        for _ in range(min(responses, len(self._writers))):
            wake_one(self._writers)

    def discard(self) -> None:
        """See ``Pipe``."""
        self.dropped = True
        super().discard()
