"""Makes ``router_rig`` importable; gives its sources, and the clients of sources, as fixtures."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from http_asking import Open
from router_rig import HAPPY_STREAM, ScriptedSource, serve_source, stream_answer

from router_svc.sources.http.opening import HttpName, open_http, verifying
from router_svc.sources.http.port import SourceHttp


@pytest.fixture
async def source() -> AsyncIterator[ScriptedSource]:
    """Answers with a short stream until scripted otherwise."""
    async with serve_source(stream_answer(HAPPY_STREAM)) as served:
        yield served


@pytest.fixture
async def second() -> AsyncIterator[ScriptedSource]:
    """Another of the kind."""
    async with serve_source(stream_answer(HAPPY_STREAM)) as served:
        yield served


@pytest.fixture(scope="session")
def trusting() -> ssl.SSLContext:
    """Trusts what the router does. Made once: it takes 25 ms."""
    return verifying()


@pytest.fixture(params=["own", "aiohttp"])
def opened(request: pytest.FixtureRequest, trusting: ssl.SSLContext) -> Open:
    """How each of the HTTP clients is opened."""
    return partial(open_http, cast(HttpName, request.param), max_connections=10, tls=trusting)


@pytest.fixture
async def http(opened: Open) -> AsyncIterator[SourceHttp]:
    """Each of the HTTP clients."""
    async with opened() as client:
        yield client


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The HTTP client is a guest of both loops: of asyncio's in a process of its own, of uvloop in the all-in-one."""
    if item.path.name.startswith("test_router_http"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """aiohttp is the spare: what it does on one loop is enough to know."""
    spare = [item for item in items if "uvloop-aiohttp" in item.name]
    config.hook.pytest_deselected(items=spare)
    items[:] = [item for item in items if item not in set(spare)]
