"""A bounded one-way queue of serialised messages: what flow control is on a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

CAPACITY = 16
"""Messages that a writer may be ahead of its reader. Enough that neither waits on each message, few enough that a
slow reader holds its writer back."""


class PipeClosedError(Exception):
    """Nobody will read what was to be written."""


class Pipe:
    """Messages from one side of a call to the other."""

    __slots__ = ("_closed", "_messages", "_on_drained", "_readers", "_writers")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._writers: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._on_drained: Callable[[], None] | None = None

    async def put(self, message: bytes) -> None:
        """Adds a message; waits while the pipe is full.

        Raises:
            PipeClosedError: the pipe was closed, before or while waiting.
        """
        while len(self._messages) >= CAPACITY and not self._closed:
            await turn(self._writers)
        if self._closed:
            raise PipeClosedError
        self._messages.append(message)
        wake_one(self._readers)

    async def get(self) -> bytes | None:
        """The next message; waits for one. None at the end."""
        while not self._messages:
            if self._closed:
                return None
            await turn(self._readers)
        message = self._messages.popleft()
        wake_one(self._writers)
        if self._closed and not self._messages:
            self._drained()
        return message

    def push(self, message: bytes) -> None:
        """Adds a message without waiting, for a writer that keeps to a bound of its own; nothing once it is closed."""
        if not self._closed:
            self._messages.append(message)
            wake_one(self._readers)

    def close(self, on_drained: Callable[[], None] | None = None) -> None:
        """Takes no more; what is inside can still be read. ``on_drained`` is called when it has been, perhaps at
        once."""
        self._on_drained = on_drained
        self._closed = True
        if not self._messages:
            self._drained()
        _wake_all(self._readers)
        _wake_all(self._writers)

    def discard(self) -> None:
        """Closes, and drops what is inside."""
        self._messages.clear()
        self._on_drained = None
        self.close()

    def _drained(self) -> None:
        if self._on_drained is not None:
            on_drained, self._on_drained = self._on_drained, None
            on_drained()


async def turn(waiters: deque[asyncio.Future[None]]) -> None:
    """Waits to be woken, in line."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(turn)
    try:
        await turn
    except asyncio.CancelledError:
        # Woken and cancelled in the same round of the loop: the turn goes to the next in line, or it would be lost.
        if turn.done() and not turn.cancelled():
            wake_one(waiters)
        raise


def wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    """Wakes the first in line."""
    while waiters:
        turn = waiters.popleft()
        if not turn.done():
            turn.set_result(None)
            return


def _wake_all(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        wake_one(waiters)
