"""What both halves of a stream share: the sizes of its messages, metadata, and the loop that writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from meshkit.local.rpc import Metadata
from tallygate.mesh.v1.exchange_pb2 import Metadatum

MESSAGE_BYTES = 1024 * 1024
"""A message takes nothing more once its payloads have reached this. A request above it travels as a call of its own, a
response above it in parts: nobody waits behind 20 MB, and a message stays far below what the transport takes."""

MESSAGE_COMMANDS = 512
"""What a message takes at most, so that one that is decoded at once does not hold up the event loop."""


def metadata_to_proto(metadata: Metadata) -> list[Metadatum]:
    """As it crosses."""
    return [Metadatum(key=key, value=value.encode() if isinstance(value, str) else value) for key, value in metadata]


def metadata_from_proto(pairs: Iterable[Metadatum]) -> Metadata:
    """As calls hold it."""
    return tuple((pair.key, pair.value if pair.key.endswith("-bin") else pair.value.decode()) for pair in pairs)


class Pump:
    """Writes what there is to say: at once when nothing is being written, and what came meanwhile as the next message.

    ``next_message``: everything that waits, within the limits above; None when nothing does.
    """

    def __init__(self, next_message: Callable[[], Any], write: Callable[[Any], Awaitable[None]]) -> None:
        self._next_message = next_message
        self._write = write
        self._sleeping: asyncio.Future[None] | None = None
        self._finishing = False

    def wake(self) -> None:
        """There is something to say."""
        # The loop below runs after whatever is ready to run now, so callers that were woken together write together.
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    def finish(self) -> None:
        """Ends ``run`` as soon as nothing waits."""
        self._finishing = True
        self.wake()

    async def run(self) -> None:
        """Writes until ``finish``, or until writing fails."""
        loop = asyncio.get_running_loop()
        while True:
            message = self._next_message()
            if message is not None:
                await self._write(message)
            elif self._finishing:
                return
            else:
                self._sleeping = loop.create_future()
                await self._sleeping
