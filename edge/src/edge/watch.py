"""A watch is a stream that tells of changes; it is opened anew whenever it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, Never, TypeVar

import structlog

from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Watch(Generic[T]):
    """Opens ``open_stream``, gives each message to ``on_message``, and begins again when the stream ends or fails.

    The pause between attempts doubles from ``first_pause_s`` to ``longest_pause_s`` and begins anew after a message.
    """

    def __init__(
        self,
        name: str,
        open_stream: Callable[[], AsyncGenerator[T]],
        on_message: Callable[[T], None],
        *,
        first_pause_s: float = 0.1,
        longest_pause_s: float = 3.0,
    ) -> None:
        self._name = name
        self._open = open_stream
        self._on_message = on_message
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._pause_s = first_pause_s
        self._lost = False

    async def run(self) -> Never:
        """Watches until cancelled."""
        while True:
            try:
                async with aclosing(self._open()) as messages:
                    async for message in messages:
                        self._stands()
                        self._on_message(message)
            except MeshError as error:
                if error.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED:
                    continue  # every watch has a deadline; passing it is how a quiet one ends
                if not self._lost:
                    self._lost = True
                    _log.warning("watch_lost", watch=self._name, reason=error.message)
            except Exception:  # noqa: BLE001 - see below
                # One bad message must not end the watch for good: the edge would serve from old facts and not say so.
                _log.exception("watch_broke", watch=self._name)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)

    def _stands(self) -> None:
        self._pause_s = self._first_pause_s
        if self._lost:
            self._lost = False
            _log.info("watch_regained", watch=self._name)
