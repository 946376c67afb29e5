"""Opens the HTTP client of the router."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import certifi

from router_svc.sources.http.by_aiohttp import open_aiohttp
from router_svc.sources.http.port import SourceHttp

_IDLE_S = 15.0


@asynccontextmanager
async def open_http(*, max_connections: int, idle_s: float = _IDLE_S) -> AsyncIterator[SourceHttp]:
    """One for the process, inside a running loop."""
    # Certifi's certificates: a slim image may have none of the system's.
    tls = ssl.create_default_context(cafile=certifi.where())
    async with open_aiohttp(max_connections=max_connections, idle_s=idle_s, tls=tls) as http:
        yield http
