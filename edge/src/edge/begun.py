"""Coroutines that are begun without a task or a timer, because most often there is nothing to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """A coroutine that has run up to the first thing it waits for, or to its end; then ``done``, with its ``result``.

    If it is not done it is awaited, once, under whatever bounds it needs by then; or it ``goes_on_alone``. Entering a
    timeout takes 4 microseconds, a task that is cancelled unused 6, on a path where all of a request should take 100.
    What the coroutine raises in its first step is raised here.
    """

    __slots__ = ("_at_end", "_coroutine", "_waits_for", "done", "result")

    result: T

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._waits_for: Any = None
        self._at_end: Callable[[], None] | None = None
        self.done = False
        self._step(coroutine.send, None)

    def __await__(self) -> Generator[Any, Any, T]:
        while not self.done:
            try:
                sent = yield self._waits_for
            except BaseException as error:  # noqa: BLE001 - whatever it is, a cancellation most often, is the coroutine's
                self._step(self._coroutine.throw, error)
            else:
                self._step(self._coroutine.send, sent)
        return self.result

    def goes_on_alone(self, at_end: Callable[[], None]) -> None:
        """Goes on in the event loop, outside of any task, and calls ``at_end`` when it is done. For coroutines that
        wait for futures and do not ask which task they are in, as an ASGI server's ``receive``.
        """
        self._at_end = at_end
        self._wait()

    def close(self) -> None:
        """Ends it where it waits; ``at_end`` is not called any more."""
        self._at_end = None
        if not self.done:
            if self._waits_for is not None:
                self._waits_for.remove_done_callback(self._go_on)
            self._coroutine.close()

    def _step(self, resume: Callable[[Any], Any], value: Any) -> None:
        try:
            self._waits_for = resume(value)
        except StopIteration as end:
            self.done, self.result = True, end.value

    def _wait(self) -> None:
        future = self._waits_for
        if future is None:  # a bare ``yield``, as of ``asyncio.sleep(0)``
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        future._asyncio_future_blocking = False  # taken notice of, as by a task
        future.add_done_callback(self._go_on)

    def _go_on(self, _: Any = None) -> None:
        if self._at_end is None:
            return
        self._step(self._coroutine.send, None)
        if self.done:
            self._at_end()
        else:
            self._wait()
