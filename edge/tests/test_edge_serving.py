"""The HTTP server: ports, draining, and as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Receive, Scope, Send

from edge.serving import running_http

REQUEST = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def test_port_0_is_reported_as_bound(world: Any, served: str) -> None:
    assert httpx.URL(served).port not in {None, 0}
    async with httpx.AsyncClient(base_url=served) as client:
        assert (await client.get("/api/health")).json()["status"] == "ok"


async def test_an_inherited_socket_is_served(world: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with running_http(world.app, "unused", 1, fd=listener.detach(), drain_s=1) as url:
        assert url == f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/api/health")).status_code == 200


async def test_signal_handlers_are_left_alone(world: Any) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with running_http(world.app, "127.0.0.1", 0, drain_s=1):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_port_that_is_taken_is_an_error(world: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with running_http(world.app, "127.0.0.1", taken.getsockname()[1]):
            pass


async def test_an_application_that_does_not_start_is_an_error() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"):
        async with running_http(broken, "127.0.0.1", 0):
            pass


async def test_a_stream_under_way_finishes_when_the_server_ends(world: Any) -> None:
    gate = asyncio.Event()
    router = world.router
    router.script = [router.route(), router.chunk(b'{"a":1}'), gate, router.final()]
    async with (
        running(world, drain_s=10) as (url, stop),
        world.new_client(url) as client,
        client.stream("POST", "/v1/chat/completions", json=REQUEST) as response,
    ):
        pieces = response.aiter_text()
        await anext(pieces)
        stop.set()

        async def closed_to_others() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            except (ConnectionRefusedError, ConnectionResetError):  # reset: not yet accepted when the listener closed
                return True
            writer.close()
            return False

        await world.until(closed_to_others)
        gate.set()
        assert "".join([piece async for piece in pieces]).endswith("data: [DONE]\n\n")


async def test_a_stream_that_outlasts_the_drain_is_cut_and_its_call_cancelled(world: Any) -> None:
    router = world.router
    router.script = [router.route(), router.chunk(b'{"a":1}'), asyncio.Event()]
    async with (
        running(world, drain_s=0) as (url, stop),
        world.new_client(url) as client,
        client.stream("POST", "/v1/chat/completions", json=REQUEST) as response,
    ):
        pieces = response.aiter_text()
        await anext(pieces)
        stop.set()
        await router.cancelled.wait()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)


@asynccontextmanager
async def running(world: Any, *, drain_s: float) -> Any:
    """A server in a task of its own; gives its URL and an event that ends it."""
    stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running_http(world.app, "127.0.0.1", 0, drain_s=drain_s) as url:
            bound.set_result(url)
            await stop.wait()

    serving = asyncio.create_task(serve())
    try:
        yield await bound, stop
    finally:
        stop.set()
        await serving


@pytest.mark.parametrize("transport", ["unix"])
async def test_as_a_process_it_serves_until_sigterm_and_ends_with_0(world: Any) -> None:
    environment = os.environ | {
        "TALLYGATE_EDGE_PORT": "0",
        "TALLYGATE_EDGE_DRAIN_S": "1",
        **{f"TALLYGATE_EDGE_{name.upper()}_ADDR": world.address(name) for name in world.names},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        url = ""
        async for line in process.stderr:
            if b'"serving_http"' in line:
                url = orjson.loads(line)["url"]
                break
        async with world.new_client(url) as client:

            async def ready() -> bool:
                return bool((await client.get("/readyz")).status_code == 200)

            await world.until(ready)
            world.router.answers()
            assert (await client.post("/v1/chat/completions", json=REQUEST | {"stream": False})).status_code == 200
        process.terminate()
        await process.stderr.read()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
