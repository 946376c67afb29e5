"""Makes ``router_rig`` importable and gives its sources as fixtures."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from router_rig import HAPPY_STREAM, ScriptedSource, serve_source, stream_answer


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
