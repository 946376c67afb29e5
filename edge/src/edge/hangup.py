"""Work for a client ends when the client goes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from edge.begun import Begun
from edge.exchange import ClientGone


class Hangup:
    """Async context manager: cancels what runs inside once the client has closed the connection.

    To be entered after the request body was read. Built like ``asyncio.timeout``: only its own cancellation is turned
    into an exception, one from outside passes. The watch for the client is no task, see ``edge.begun``.

    Raises:
        ClientGone: on leaving, where the client went.
    """

    __slots__ = ("_cancelling", "_gone", "_noticing", "_receive", "_task", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._noticing: asyncio.Handle | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watch = Begun(self._until_gone())
        if self._watch.done:
            # It has gone before. Told to the task while it waits for something, not while it runs: else what does not
            # wait would leave the cancellation to whoever waits after it.
            self._noticing = task.get_loop().call_soon(self._notice)
        else:
            self._watch.goes_on_alone(self._notice)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.close()
        if self._noticing is not None:
            self._noticing.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _notice(self) -> None:
        self._gone = True
        self._task.cancel()
