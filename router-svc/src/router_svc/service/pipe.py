"""The bounded way from the detached task of a call to the RPC that waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meshkit.money import Usage

_MOST_EVENTS = 256


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A source has begun to answer."""

    source_id: str
    offer_id: str
    upstream_model: str
    failed_attempts: int
    held_nano_usd: int


@dataclass(frozen=True, slots=True)
class ChunksEvent:
    """What one read of the source gave."""

    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FinalEvent:
    """The end; the charge is durable."""

    body: bytes
    usage_chunk: bytes
    usage: Usage
    charged_nano_usd: int
    receipt_id: str


Event = RouteEvent | ChunksEvent | FinalEvent


class EventPipe:
    """One writer, one reader. Full: the writer waits, at most ``stall_s``."""

    def __init__(self, *, most_bytes: int, stall_s: float) -> None:
        self._most_bytes = most_bytes
        self._stall_s = stall_s
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._closed = False
        self._error: Exception | None = None
        self._left = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    @property
    def left(self) -> bool:
        """The reader has gone."""
        return self._left

    @property
    def closed(self) -> bool:
        """The writer has said its last."""
        return self._closed

    async def put(self, event: Event) -> bool:
        """Hand on an event, once there is room. False where the reader has gone; the event is dropped then.

        Raises:
            TimeoutError: the reader took nothing for ``stall_s``.
        """
        while not self._left and (self._bytes >= self._most_bytes or len(self._events) >= _MOST_EVENTS):
            self._writable.clear()
            async with asyncio.timeout(self._stall_s):
                await self._writable.wait()
        if self._left:
            return False
        self._append(event)
        return True

    def note(self, event: RouteEvent) -> None:
        """Hand on an event together with the next: nobody has to be woken for it alone."""
        if not self._left:
            self._events.append(event)

    def finish(self, event: FinalEvent) -> None:
        """Hand on the last event, without waiting for room."""
        if not self._closed and not self._left:
            self._append(event)
        self.close()

    def close(self, error: Exception | None = None) -> None:
        """End the events: the reader gets what waits, then ``error`` if there is one. Only the first close counts."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._readable.set()

    def leave(self) -> None:
        """The reader goes; a waiting writer goes on."""
        self._left = True
        self._events.clear()
        self._writable.set()
        self._readable.set()

    async def events(self) -> AsyncIterator[Event]:
        """The events until the end.

        Raises:
            Exception: what the pipe was closed with.
        """
        while True:
            while self._events:
                event = self._events.popleft()
                self._bytes -= _weight(event)
                self._writable.set()
                yield event
            if self._closed or self._left:
                if self._error is not None:
                    raise self._error
                return
            self._readable.clear()
            await self._readable.wait()

    def _append(self, event: Event) -> None:
        self._events.append(event)
        self._bytes += _weight(event)
        self._readable.set()


def _weight(event: Event) -> int:
    return sum(map(len, event.payloads)) if isinstance(event, ChunksEvent) else 0
