"""One connection to a source, on llhttp by way of httptools: one exchange after the other, never two at once.

Source: RFC 9112. What comes unasked, or after the end of an answer, ends the connection: it must never be taken for the
answer to what is asked next.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from router_svc.domain.failure import SourceFailure
from router_svc.sources.http.port import cut_off, malformed, too_late, unconnected

_MOST_HEAD_BYTES = 64 * 1024
"""Of an answer's head; and of whatever is no body and comes at a stretch: trailers, chunk extensions, 1xx answers."""
_MOST_FIELDS = 128
_MOST_UNREAD_BYTES = 128 * 1024
"""Unread, before the source is slowed."""
_END_GRACE_S = 1.0
"""How long the end of an answer may take to come after the last that matters of it, and how much may come."""
_MOST_REST_BYTES = 64 * 1024
_KEPT_S = re.compile(rb"(?:.*,)?\s*timeout\s*=\s*\"?([0-9]{1,6})", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """``on_free``: an exchange was left before its end, and the end has come. ``on_lost``: it is closed."""

    status = 0
    """Of the answer under way; 0 until its head has come."""
    kept_s: float | None = None
    """For how long the source says that it keeps the connection when idle, in seconds."""
    idle_until = 0.0
    """Its pool's: until when it may be used again, by the time of the loop."""

    _transport: asyncio.Transport
    _failure: SourceFailure | None = None
    _waiter: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _timer_at = 0.0
    _by = 0.0
    _asked = False
    _complete = False
    _left = False
    _reusable = True
    _closed = False
    _paused = False
    _unread = 0
    _bare = 0

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        *,
        on_free: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._on_free = on_free
        self._on_lost = on_lost
        self.headers: dict[bytes, bytes] = {}
        self._fields: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._incoming = select.poll()
        self._incoming.register(sock.fileno(), select.POLLIN)
        self._parser = HttpResponseParser(_Callbacks(self))
        # As aiohttp's parser in its client; some sources end their lines with a bare LF.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    # What the client does.

    @property
    def is_usable(self) -> bool:
        """It may be asked: nothing is under way, and the source has neither closed it nor said anything unasked, as far
        as has come to this machine. The loop may not have looked since.
        """
        return not (self._asked or self._closed or self._transport.is_closing()) and not self._incoming.poll(0)

    @property
    def is_complete(self) -> bool:
        """The whole answer has come."""
        return self._complete

    @property
    def is_reusable(self) -> bool:
        """The exchange is over, and another may follow."""
        # A source that answered before it had read the whole request has the rest of it still to come.
        return self._complete and self._reusable and not self._transport.get_write_buffer_size()

    def ask(self, request: bytes) -> None:
        """Begin an exchange. It is sent in one write, once.

        Raises:
            SourceFailure: CONNECT, it is closed and nothing was sent.
        """
        assert not self._asked, "one exchange at a time"
        if self._closed:
            raise unconnected()
        self._asked = True
        self._complete = self._left = False
        self.status = self._unread = self._bare = 0
        self._transport.write(request)

    async def head(self, by: float) -> None:
        """Wait for the head, until that time of the loop.

        Raises:
            SourceFailure: TIMEOUT, CUT, PROTOCOL; it is closed.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._more(by)

    async def read(self, by: float) -> bytes:
        """What has come of the body; b"" at the end.

        Raises:
            SourceFailure: TIMEOUT, CUT, PROTOCOL, once what came before was read; it is closed.
        """
        parts = self._parts
        while not parts:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._more(by)
        read = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._unread = 0
        if self._paused:
            self._resume()
        return read

    def release(self) -> None:
        """End an exchange that is complete."""
        assert self._complete
        self._asked = False
        self._parts.clear()

    def leave(self) -> None:
        """Throw the rest of the answer away, and let ``on_free`` know when it has come, if it does in a moment."""
        self._left = True
        self._parts.clear()
        self._unread = 0
        if self._paused:
            self._resume()
        self._watch(self._loop.time() + _END_GRACE_S)

    def close(self) -> None:
        """Close it at once, whatever is under way: a source that is written to no more may stop its work."""
        if not self._closed:
            self._closed = True
            self._reusable = False
            self._transport.abort()

    # What the loop does.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.BaseProtocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol."""
        if not self._asked or self._complete:
            self.close()
            return
        parts = self._parts
        had = len(parts)
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._reusable = False
            if not self._complete:
                self._fail(cut_off() if self.status else malformed())
                return
        if len(parts) > had:
            self._bare = 0
            self._unread += len(data)
        if self._left:
            self._throw_away()
        elif parts or self._complete:
            self._wake()
            if self._unread > _MOST_UNREAD_BYTES and not self._complete:
                self._paused = True
                self._transport.pause_reading()
        if self._bare > _MOST_HEAD_BYTES and not self._complete:
            self._fail(malformed())

    def eof_received(self) -> None:
        """As asyncio.Protocol: a source that says nothing more has left."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio.BaseProtocol."""
        self._end(exc)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_lost(self)

    # What the parser does: see _Callbacks.

    def message_began(self) -> None:
        """The first byte of an answer has come."""
        if self._complete:
            raise _Unasked

    def head_ended(self) -> None:
        """A head has come."""
        fields, parser = self._fields, self._parser
        status = parser.get_status_code()
        if status >= 200:
            headers = {name.lower(): value for name, value in fields.items()}
            if len(headers) > _MOST_FIELDS or (self._bare > _MOST_HEAD_BYTES and _bytes_of(headers) > _MOST_HEAD_BYTES):
                raise _TooMuch
            if headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
                raise _Undecodable
            self._reusable = parser.should_keep_alive()
            kept = headers.get(b"keep-alive")
            if kept is not None:
                match = _KEPT_S.match(kept)
                self.kept_s = float(match[1]) if match else None
            self.headers = headers
            self.status = status
            self._wake()
        fields.clear()

    def message_ended(self) -> None:
        """An answer has come."""
        self._fields.clear()  # of trailers
        if self.status:
            self._complete = True

    # What comes of it.

    async def _more(self, by: float) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._watch(by)
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _watch(self, by: float) -> None:
        """Patience ends then. A timer outlives the waits that it was set for: each but the first finds one ticking."""
        self._by = by
        if self._timer is None or self._timer_at > by:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = by
            self._timer = self._loop.call_at(by, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None and not self._left:
            return
        if self._timer_at < self._by:
            self._watch(self._by)
        else:
            self._fail(too_late())

    def _throw_away(self) -> None:
        self._parts.clear()
        if self._complete:
            self._left = False
            self._on_free(self)
        elif self._unread > _MOST_REST_BYTES:
            self.close()

    def _end(self, error: Exception | None) -> None:
        """The source has closed, or half: an answer whose length was not told is complete by this, and no other is."""
        self._reusable = False
        if self._asked and not self._complete and self._failure is None:
            if self.status and error is None and not self._closed and not self._is_delimited():
                self._complete = True
            else:
                self._failure = cut_off()
        self._wake()

    def _is_delimited(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, failure: SourceFailure) -> None:
        if self._failure is None:
            self._failure = failure
        self.close()
        self._wake()


class _Callbacks:
    """What the parser calls. Body and fields go where they belong without a frame of Python."""

    def __init__(self, connection: Connection) -> None:
        self.on_message_begin = connection.message_began
        self.on_header = connection._fields.__setitem__
        self.on_headers_complete = connection.head_ended
        self.on_body = connection._parts.append
        self.on_message_complete = connection.message_ended


class _Unasked(Exception):
    """A second answer to one request."""


class _TooMuch(Exception):
    """A head that is too large."""


class _Undecodable(Exception):
    """A transfer coding other than chunked."""


def _bytes_of(headers: dict[bytes, bytes]) -> int:
    return sum(map(len, headers)) + sum(map(len, headers.values()))
