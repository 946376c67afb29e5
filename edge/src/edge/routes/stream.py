"""An answer that is sent as it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from edge.hangup import Hangup
from edge.wire import sse
from edge.wire.header_lines import Lines


class Closable(Protocol):
    """What ends with the answer."""

    def aclose(self) -> Coroutine[Any, Any, None]:
        """Ends it."""


class EventStream:
    """Server-sent events. Ends the call behind them when the client goes.

    ``events``: what ``frames`` is made from; closed here as well, because closing a generator that has not begun closes
    nothing of what it would have used.
    """

    def __init__(self, frames: AsyncGenerator[bytes], events: Closable, headers: Lines) -> None:
        self._frames = frames
        self._events = events
        self._headers = [*headers, *sse.HEADERS, (b"content-type", sse.MEDIA_TYPE)]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        async with Hangup(receive), aclosing(self._events), aclosing(self._frames) as frames:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
