"""Serving HTTP: from an application and an address to a running server, with a graceful end."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp

from meshkit.heap import settle_heap
from meshkit.serve import until_signalled

BACKLOG = 2_048
_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to whoever composes the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as error:
            # uvicorn has logged why. It would end the process; here others live in it.
            raise RuntimeError("the HTTP application did not start") from error
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running_http(
    app: ASGIApp, host: str, port: int, *, fd: int | None = None, drain_s: float = 30.0, keep_alive_s: int = 75
) -> AsyncIterator[str]:
    """Serves inside the block; gives the URL as bound, "http://127.0.0.1:41234", port 0 having become a free one.

    ``fd``: a listening socket that was inherited, instead of one at ``host`` and ``port``. On leaving: no connection is
    accepted any more, and what is under way, streams too, has ``drain_s`` seconds to end.

    Raises:
        OSError: the address can't be bound.
        RuntimeError: the application did not start.
    """
    listener = _listen(host, port) if fd is None else socket.socket(fileno=fd)
    listener.setblocking(False)
    url = _url(listener)
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await _started(server, serving)
        _log.info("serving_http", url=url)
        yield url
    finally:
        server.should_exit = True
        try:
            await serving
        finally:
            listener.close()
        _log.info("stopped_http", url=url)


async def serve_http(
    app: ASGIApp, host: str, port: int, *, fd: int | None = None, drain_s: float = 30.0, keep_alive_s: int = 75
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal ends the process in the usual way."""
    async with running_http(app, host, port, fd=fd, drain_s=drain_s, keep_alive_s=keep_alive_s):
        settle_heap()
        await until_signalled()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _url(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _started(server: _Server, serving: asyncio.Task[None]) -> None:
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait({listening, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not listening.done():
        listening.cancel()
        await serving
