"""The client of sources: connections of our own (connection.py), kept in a pool (pool.py).

aiohttp can do more, and takes several times the CPU for what is needed here (ADR 0051).
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from yarl import URL

from router_svc.domain.failure import SourceFailure
from router_svc.sources.http.connection import Connection
from router_svc.sources.http.decoding import Decoder
from router_svc.sources.http.dialling import Dialler, Origin
from router_svc.sources.http.pool import Pool
from router_svc.sources.http.port import cut_off, malformed, too_late, unconnected

_MOST_TARGETS = 10_000
_PLAIN = frozenset({"", "identity"})


@dataclass(frozen=True, slots=True)
class _Target:
    """An address, and what every request to it begins with. ``basic``: for a request without an authorization."""

    origin: Origin
    beginning: str
    basic: str


class OwnHttp:
    """SourceHttp over a pool of our own connections."""

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._targets: dict[str, _Target] = {}

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_s: float,
        head_s: float,
        read_s: float,
    ) -> OwnAnswer:
        """As SourceHttp.post."""
        by = self._loop.time() + head_s
        target = self._targets.get(url) or self._learn(url)
        request = _head(target, headers, len(body)) + body
        connection = self._pool.idle(target.origin)
        if connection is None:
            connection = await self._open(target.origin, min(connect_s, head_s))
        try:
            connection.ask(request)
            await connection.head(by)
            return OwnAnswer(self._pool, connection, self._loop, read_s)
        except BaseException:
            self._pool.drop(connection)
            raise

    async def _open(self, origin: Origin, connect_s: float) -> Connection:
        try:
            async with asyncio.timeout(connect_s):
                return await self._pool.open(origin)
        except TimeoutError:
            raise too_late() from None
        except (OSError, UnicodeError) as error:  # the latter: a name that can't be asked for
            raise unconnected() from error

    def _learn(self, url: str) -> _Target:
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()  # of sources that the catalog has no more
        target = self._targets[url] = _target(url)
        return target


class OwnAnswer:
    """HttpAnswer over a connection, as long as the exchange lasts."""

    _connection: Connection | None

    def __init__(self, pool: Pool, connection: Connection, loop: asyncio.AbstractEventLoop, read_s: float) -> None:
        self.status = connection.status
        self._headers = connection.headers
        self._pool = pool
        self._connection = connection
        self._loop = loop
        self._read_s = read_s
        self._coding = self.header("content-encoding").strip().lower()
        self._decoder: Decoder | None = None

    def header(self, name: str) -> str:
        """As HttpAnswer.header."""
        return self._headers.get(name.encode(), b"").decode("latin-1")

    async def read(self, by: float | None = None) -> bytes:
        """As HttpAnswer.read."""
        try:
            if self._coding in _PLAIN:
                return await self._read(by)
            self._decoder = self._decoder or Decoder(self._coding)
            return await self._decoded(self._decoder, by)
        except SourceFailure:
            self.close()
            raise

    async def finish(self) -> None:
        """As HttpAnswer.finish; nobody has to wait for the rest."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.is_complete:
            self._pool.give_back(connection)
        else:
            connection.leave()

    def close(self) -> None:
        """As HttpAnswer.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    async def _read(self, by: float | None) -> bytes:
        connection = self._connection
        if connection is None:
            return b""
        until = self._loop.time() + self._read_s
        read = await connection.read(until if by is None else min(by, until))
        if connection.is_complete:
            self.close()  # all is read: others may use it
        return read

    async def _decoded(self, decoder: Decoder, by: float | None) -> bytes:
        while True:
            read = b"" if decoder.is_waiting else await self._read(by)
            if not read and not decoder.is_waiting:
                if not decoder.is_ended:
                    raise cut_off()
                return b""
            piece = decoder.feed(read)
            if piece:
                return piece


@asynccontextmanager
async def open_own(*, max_connections: int, idle_s: float, tls: ssl.SSLContext) -> AsyncIterator[OwnHttp]:
    """The client, inside a running loop."""
    loop = asyncio.get_running_loop()
    pool = Pool(Dialler(tls, loop), loop, most=max_connections, idle_s=idle_s)
    try:
        yield OwnHttp(pool, loop)
    finally:
        await pool.aclose()


def _target(url: str) -> _Target:
    try:
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError as error:
        raise malformed() from error
    if not host or not port or parsed.scheme not in {"http", "https"}:
        raise malformed()
    named = f"[{host}]" if ":" in host else host
    if not parsed.is_default_port():
        named = f"{named}:{port}"
    return _Target(
        Origin(host, port, parsed.scheme == "https"),
        f"POST {parsed.raw_path_qs} HTTP/1.1\r\nhost: {named}\r\nuser-agent: tallygate\r\n"
        # Compressed, a stream's events would wait for the compressor's buffer.
        "accept-encoding: identity\r\ncontent-type: application/json\r\n",
        _basic(parsed),
    )


def _basic(url: URL) -> str:
    """The header for a user and password in the address (RFC 7617)."""
    if not url.user and not url.password:
        return ""
    told = b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
    return f"authorization: Basic {told}\r\n"


def _head(target: _Target, headers: Mapping[str, str], length: int) -> bytes:
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    # A line break in a value would begin a header, or a request, of its own.
    if not fields.count("\r") == fields.count("\n") == len(headers) or "\0" in fields:
        raise malformed()
    if target.basic and "authorization" not in headers:
        fields += target.basic
    return f"{target.beginning}{fields}content-length: {length}\r\n\r\n".encode()
