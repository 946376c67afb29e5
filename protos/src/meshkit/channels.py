"""Dialling: from an address to a channel that the generated stubs take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import grpc

from meshkit import addresses
from meshkit.exchange.channel import ExchangeChannel
from meshkit.local import LocalNetwork
from meshkit.outgoing import OutgoingChannel
from meshkit.replicas import ReplicaChannel
from meshkit.telemetry import Telemetry
from meshkit.transport import CLIENT_OPTIONS

C = TypeVar("C", bound=grpc.aio.Call)

Dial = Callable[[str], grpc.aio.Channel]
"""Takes an address, gives a channel to it."""


@contextmanager
def cancelling(call: C) -> Iterator[C]:
    """Cancels a call on leaving, however that happens; one that is over stays as it is.

    For whoever may stop reading a stream before its end: leaving an ``async for`` does not tell the server, which
    would work on until the deadline.
    """
    try:
        yield call
    finally:
        call.cancel()


class Dialer:
    """A ``Dial`` over grpc://, unix:// and local://. Use as an async context manager: it closes its channels.

    Every call on its channels has a deadline (``MeshError`` DEADLINE_REQUIRED where it has none) and carries the
    trace. The same address gives the same channel. Dialling sends nothing: the other side may come up later; until
    then calls end with UNAVAILABLE, or wait with ``wait_for_ready=True``. An address may name the replicas of a
    service, with commas between: a call finds the one that serves it (see ``meshkit.replicas``).

    ``exchange``: unary calls to a socket share one stream, many in a message under load (see ``meshkit.exchange``);
    without, each is an RPC of its own. A local channel needs neither.
    """

    def __init__(self, telemetry: Telemetry, local: LocalNetwork | None = None, *, exchange: bool = True) -> None:
        self._telemetry = telemetry
        self._local = local
        self._exchange = exchange
        self._channels: dict[str, grpc.aio.Channel] = {}

    def __call__(self, address: str) -> grpc.aio.Channel:
        """A channel to ``address``.

        Raises:
            ValueError: not an address, or a local one without a local network.
        """
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = OutgoingChannel(self._connect(address), self._telemetry.tracer)
        return channel

    def _connect(self, address: str) -> grpc.aio.Channel:
        replicas = addresses.parse_all(address)
        if len(replicas) > 1:
            return ReplicaChannel(
                [(rest, ExchangeChannel(_socket(scheme, rest), plain=not self._exchange)) for scheme, rest in replicas]
            )
        ((scheme, rest),) = replicas
        if scheme == addresses.LOCAL:
            if self._local is None:
                raise ValueError(f"{address} needs a local network, and this dialer has none")
            return self._local.channel(rest)
        socket = _socket(scheme, rest)
        return ExchangeChannel(socket) if self._exchange else socket

    async def __aenter__(self) -> Dialer:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()


def _socket(scheme: str, rest: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(addresses.target(scheme, rest), options=CLIENT_OPTIONS)
