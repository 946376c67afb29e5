"""Opens the client that the settings ask for."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import certifi

from router_svc.sources.http.by_aiohttp import open_aiohttp
from router_svc.sources.http.own import open_own
from router_svc.sources.http.port import SourceHttp

HttpName = Literal["own", "aiohttp"]

_IDLE_S = 15.0


@asynccontextmanager
async def open_http(
    name: HttpName = "own",
    *,
    max_connections: int,
    idle_s: float = _IDLE_S,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[SourceHttp]:
    """The HTTP client of the router: one for the process, inside a running loop.

    ``idle_s``: how long a connection is kept for the next request; ``tls``: by what sources over https are trusted.
    """
    opened = open_own if name == "own" else open_aiohttp
    async with opened(max_connections=max_connections, idle_s=idle_s, tls=tls or verifying()) as http:
        yield http


def verifying(certificates: str | None = None) -> ssl.SSLContext:
    """Trusts Certifi's certificates, as a slim image may have none of the system's; or those in a file."""
    tls = ssl.create_default_context(cafile=certificates or certifi.where())
    tls.set_alpn_protocols(["http/1.1"])
    return tls
