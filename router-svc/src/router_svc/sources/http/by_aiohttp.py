"""Calls by aiohttp: the spare client, where the own one (own.py) can not cope with a source."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp

from router_svc.domain.failure import SourceFailure
from router_svc.sources.http.port import cut_off, malformed, too_late, unconnected

_DNS_CACHE_S = 30
_LARGE_BYTES = 2**20
_END_GRACE_S = 0.02
"""After the last that matters the end of the body is a packet away at most."""


class AiohttpHttp:
    """SourceHttp over a session of aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_s: float,
        head_s: float,
        read_s: float,
    ) -> AiohttpAnswer:
        """As SourceHttp.post."""
        try:
            async with asyncio.timeout(head_s):
                response = await self._session.post(
                    url,
                    # Of bytes it warns from a megabyte on.
                    data=body if len(body) < _LARGE_BYTES else BytesIO(body),
                    headers={"content-type": "application/json", **headers},
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=connect_s, sock_connect=connect_s, sock_read=read_s
                    ),
                    allow_redirects=False,
                )
        except aiohttp.ClientError as error:
            raise _failure(error) from error
        except TimeoutError:
            raise too_late() from None
        except ValueError as error:
            raise malformed() from error  # a header with a line break in it
        return AiohttpAnswer(response)


class AiohttpAnswer:
    """HttpAnswer over a response of aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str:
        """As HttpAnswer.header."""
        return self._response.headers.get(name, "")

    async def read(self, by: float | None = None) -> bytes:
        """As HttpAnswer.read."""
        try:
            if by is None:
                return await self._response.content.readany()
            async with asyncio.timeout_at(by):
                return await self._response.content.readany()
        except aiohttp.ClientError as error:
            self.close()
            raise _failure(error) from error
        except TimeoutError:
            self.close()
            raise too_late() from None

    async def finish(self) -> None:
        """As HttpAnswer.finish."""
        by = asyncio.get_running_loop().time() + _END_GRACE_S
        try:
            while await self.read(by):
                pass
        except SourceFailure:
            return  # only the connection is lost

    def close(self) -> None:
        """As HttpAnswer.close."""
        self._response.close()


@asynccontextmanager
async def open_aiohttp(*, max_connections: int, idle_s: float, tls: ssl.SSLContext) -> AsyncIterator[AiohttpHttp]:
    """The client, inside a running loop. It sets TCP_NODELAY on every connection."""
    connector = aiohttp.TCPConnector(
        limit=max_connections, keepalive_timeout=idle_s, ttl_dns_cache=_DNS_CACHE_S, ssl=tls
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Compressed, a stream's events would wait for the compressor's buffer. What comes so all the same is decoded.
        headers={"user-agent": "tallygate", "accept-encoding": "identity"},
        trust_env=False,
    ) as session:
        yield AiohttpHttp(session)


def _failure(error: aiohttp.ClientError) -> SourceFailure:
    if isinstance(error, TimeoutError):
        return too_late()
    if isinstance(error, aiohttp.ClientConnectorError):
        return unconnected()
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return malformed()
    return cut_off()
