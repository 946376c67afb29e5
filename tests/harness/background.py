"""An event loop in a thread of its own, for the test parts that must answer while a test blocks (Node, a sync SDK)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines and keeps async context managers open, away from the test's own loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-parts", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """The result of ``coroutine``, run in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Keeps ``manager`` open in the thread. It is entered and left by one task, as task groups inside it demand."""
        opened: asyncio.Future[T] = self._loop.create_future()
        leave = asyncio.Event()

        async def hold() -> None:
            try:
                async with manager as value:
                    opened.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if opened.done():
                    raise
                opened.set_exception(error)

        holder = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        try:
            yield self.run(_await(opened))
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            holder.result(60.0)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()


async def _await(future: asyncio.Future[T]) -> T:
    return await future
