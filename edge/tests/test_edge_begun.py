"""Coroutines that are begun without a task, and the watch for a client that is one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from edge.begun import Begun
from edge.exchange import ClientGone
from edge.hangup import Hangup
from edge.inbound import read_body
from meshkit.errors import MeshError

GONE: Message = {"type": "http.disconnect"}


async def given(value: Any) -> Any:
    return value


async def waiting(event: asyncio.Event, ends: list[str]) -> str:
    try:
        await event.wait()
        await asyncio.sleep(0)
    except BaseException as error:
        ends.append(type(error).__name__)
        raise
    return "done"


async def test_what_is_there_at_once_is_there_without_waiting() -> None:
    begun = Begun(given(7))
    assert (begun.done, begun.result) == (True, 7)
    assert await begun == 7


async def test_what_is_not_is_awaited_where_it_stands() -> None:
    event = asyncio.Event()
    begun = Begun(waiting(event, []))
    assert not begun.done
    asyncio.get_running_loop().call_soon(event.set)
    assert await begun == "done"


async def test_a_timeout_reaches_what_was_begun_outside_of_it() -> None:
    ends: list[str] = []
    begun = Begun(waiting(asyncio.Event(), ends))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await begun
    assert ends == ["CancelledError"]


async def test_alone_it_goes_on_to_its_end() -> None:
    event, ended = asyncio.Event(), asyncio.Event()
    begun = Begun(waiting(event, []))
    begun.goes_on_alone(ended.set)
    event.set()
    await ended.wait()
    assert begun.result == "done"


async def test_closed_it_ends_where_it_waits_and_says_nothing() -> None:
    event, ends = asyncio.Event(), list[str]()
    begun = Begun(waiting(event, ends))
    begun.goes_on_alone(lambda: ends.append("told"))
    event.set()
    begun.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert ends == ["GeneratorExit"]


async def test_a_first_step_that_fails_fails_there() -> None:
    async def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Begun(failing())


@pytest.fixture
def connection() -> Any:
    """``receive`` of a connection, which gives what is put into the queue."""
    return asyncio.Queue[Message]()


async def test_a_client_that_has_gone_before_ends_what_waits(connection: Any) -> None:
    connection.put_nowait(GONE)
    with pytest.raises(ClientGone):
        async with Hangup(connection.get):
            await asyncio.Event().wait()


async def test_what_does_not_wait_is_done_and_nothing_after_it_is_cancelled(connection: Any) -> None:
    connection.put_nowait(GONE)
    async with Hangup(connection.get):
        pass
    await asyncio.sleep(0)
    assert (current := asyncio.current_task()) is not None
    assert current.cancelling() == 0


async def test_a_client_that_goes_meanwhile_ends_what_waits(connection: Any) -> None:
    with pytest.raises(ClientGone):
        async with Hangup(connection.get):
            connection.put_nowait({"type": "http.request"})
            connection.put_nowait(GONE)
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_passes(connection: Any) -> None:
    async def work() -> None:
        async with Hangup(connection.get):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_watching_takes_no_task(connection: Any) -> None:
    before = asyncio.all_tasks()
    async with Hangup(connection.get):
        assert asyncio.all_tasks() == before


def request(receive: Callable[[], Any]) -> Request:
    return Request({"type": "http", "headers": []}, receive)


async def test_a_body_that_is_there_starts_no_timer(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
    connection.put_nowait({"type": "http.request", "body": b"b"})
    monkeypatch.setattr("asyncio.timeout", lambda _: 1 / 0)
    assert await read_body(request(connection.get), max_bytes=2, timeout_s=9) == b"ab"


async def test_a_body_that_does_not_come_is_refused_in_time(connection: Any) -> None:
    connection.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
    with pytest.raises(MeshError, match=r"did not arrive within 0\.01 seconds"):
        await read_body(request(connection.get), max_bytes=9, timeout_s=0.01)


async def test_a_client_that_goes_before_its_body_was_there(connection: Any) -> None:
    asyncio.get_running_loop().call_soon(connection.put_nowait, GONE)
    with pytest.raises(ClientGone):
        await read_body(request(connection.get), max_bytes=9, timeout_s=9)
