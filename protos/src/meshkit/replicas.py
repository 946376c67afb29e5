"""A channel to several replicas of which one leads: finds that one, and finds it again when it is another.

A replica that is not the one refuses with UNAVAILABLE and names its ``role`` (see ``errors.ROLE``): nothing was done,
and the call goes to the next replica at once. A call whose replica is lost or goes away may have been done or not; it
goes to the next one if its contract says that it may be sent again (``idempotency_level`` in the proto). Whichever
replica serves a call is the first to be asked by the next. Once all have been asked there is a pause, and another
round, until the call's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from meshkit.errors import ROLE, error_info
from meshkit.exchange.channel import CarriedCallable, ExchangeChannel
from meshkit.local.calls import Codec
from meshkit.local.rpc import Outcome, Rpc, wind_down

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5
"""Between two rounds; doubles. A takeover takes about a second, so a short outage costs few rounds."""

MAX_ROUNDS = 40
"""About 20 s; for calls whose deadline is far."""

STANDBY = "standby"

_log = structlog.get_logger(__name__)


class ReplicaChannel(grpc.aio.Channel):
    """Owns a channel to each replica. Unary calls look for the one that serves them. A stream goes to the replica that
    served last, and is not begun again elsewhere: its caller does that. ``wait_for_ready`` is not looked at.
    """

    def __init__(self, replicas: Sequence[tuple[str, ExchangeChannel]]) -> None:
        assert replicas, "a channel to nobody"
        self._names = [name for name, _ in replicas]
        self._channels = [channel for _, channel in replicas]
        self._first = 0
        self._closed = False
        self._running: set[Rpc] = set()
        self._attempts: set[Rpc] = set()

    def unary_unary(
        self, method: str, request_serializer: Codec = None, response_deserializer: Codec = None, *_: Any, **__: Any
    ) -> Any:
        """A call with one request and one response."""
        return CarriedCallable(self, self._running, method, request_serializer, response_deserializer)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A call with one request and a stream of responses."""
        return self._stream([channel.unary_stream(*args, **kwargs) for channel in self._channels])

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one response."""
        return self._stream([channel.stream_unary(*args, **kwargs) for channel in self._channels])

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A call with a stream of requests and one of responses."""
        return self._stream([channel.stream_stream(*args, **kwargs) for channel in self._channels])

    def carry(self, rpc: Rpc) -> None:
        """Begins the search for the replica that serves the call."""
        if self._closed:
            rpc.cancel("Channel is closed.")
            raise grpc.aio.UsageError("Channel is closed.")
        _Search(self, rpc).ask_next()

    @property
    def first(self) -> int:
        """The replica to ask first."""
        return self._first

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._channels)

    def ask(self, replica: int, rpc: Rpc) -> Rpc:
        """Begins an attempt at a call: a call of its own, whose end is not the caller's."""
        assert isinstance(rpc.request, bytes)
        attempt = Rpc(rpc.method, rpc.metadata, rpc.time_remaining_s(), rpc.request, None, self._attempts)
        self._channels[replica].carry(attempt)
        return attempt

    def passed_over(self, replica: int) -> None:
        """A replica that did not serve is no longer the first to be asked. Of many calls that find out, one says so."""
        if replica == self._first and len(self._channels) > 1:
            self._first = (replica + 1) % len(self._channels)
            _log.info("asking_another_replica", instead_of=self._names[replica], asked=self._names[self._first])

    def _stream(self, makers: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
        def begin(*args: Any, **kwargs: Any) -> Any:
            replica = self._first
            call = makers[replica](*args, **kwargs)
            call.add_done_callback(lambda _: self._streamed(replica, call))
            return call

        return begin

    def _streamed(self, replica: int, call: Any) -> None:
        coroutine = call.code()
        try:
            coroutine.send(None)  # the call is done, so there is nothing to wait for
        except StopIteration as done:
            if done.value is grpc.StatusCode.UNAVAILABLE:
                self.passed_over(replica)
        finally:
            coroutine.close()

    async def close(self, grace: float | None = None) -> None:
        """Makes no more calls; those running have ``grace`` seconds, then they are cancelled."""
        self._closed = True
        await wind_down(self._running, grace)
        for channel in self._channels:
            await channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connectivity of the replica that is asked first."""
        return self._channels[self._first].get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the replica that is asked first."""
        await self._channels[self._first].wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until the replica that is asked first can be reached."""
        await self._channels[self._first].channel_ready()

    async def __aenter__(self) -> ReplicaChannel:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Search:
    """One call on its way through the replicas."""

    __slots__ = ("_asked", "_attempt", "_channel", "_pause_s", "_replica", "_rounds", "_rpc", "_timer")

    def __init__(self, channel: ReplicaChannel, rpc: Rpc) -> None:
        self._channel = channel
        self._rpc = rpc
        self._replica = channel.first
        self._asked = 0
        self._rounds = 1
        self._pause_s = FIRST_PAUSE_S
        self._attempt: Rpc | None = None
        self._timer: asyncio.Handle | None = None
        rpc.abandon = self._abandon

    def ask_next(self) -> None:
        """Asks the replica whose turn it is."""
        self._timer = None
        self._asked += 1
        self._attempt = self._channel.ask(self._replica, self._rpc)
        self._attempt.on_end(self._attempt_ended)

    def _abandon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel("the caller has gone")

    def _attempt_ended(self) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        assert attempt.outcome is not None
        rpc, outcome = self._rpc, attempt.outcome
        if rpc.outcome is not None:  # the caller has gone
            return
        if _points_elsewhere(outcome):
            self._channel.passed_over(self._replica)
            if self._may_go_on(outcome):
                self._go_on(outcome)
                return
        rpc.response = attempt.response
        rpc.begin(attempt.initial_metadata or ())
        rpc.finish(outcome)

    def _may_go_on(self, outcome: Outcome) -> bool:
        return _role(outcome) == STANDBY or may_be_sent_again(self._rpc.method)

    def _go_on(self, outcome: Outcome) -> None:
        """To the next replica: at once, or after a pause when all have been asked."""
        rpc, loop = self._rpc, self._rpc.loop
        self._replica = (self._replica + 1) % self._channel.size
        if self._asked < self._channel.size:
            self._timer = loop.call_soon(self.ask_next)
            return
        remaining_s = rpc.time_remaining_s()
        if self._rounds >= MAX_ROUNDS or (remaining_s is not None and remaining_s <= self._pause_s):
            rpc.finish(outcome)
            return
        self._asked = 0
        self._rounds += 1
        self._timer = loop.call_later(self._pause_s, self._ask_first)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _ask_first(self) -> None:
        self._replica = self._channel.first  # another call may have found it meanwhile
        self.ask_next()


@lru_cache(maxsize=1_024)
def may_be_sent_again(method: str) -> bool:
    """Whether the contract of ``/PACKAGE.SERVICE/METHOD`` says that a call may be sent twice. One that says nothing may
    not, nor one that this process has no contract of.
    """
    try:
        found = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return False
    return found.GetOptions().idempotency_level in {MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS}


def _points_elsewhere(outcome: Outcome) -> bool:
    """Whether another replica may serve what this one did not: it said so, or it could not be reached. A refusal that
    names no role is an answer (a full queue, say), and another replica has no better one.
    """
    if outcome.code is not grpc.StatusCode.UNAVAILABLE:
        return False
    return error_info(outcome.trailing_metadata) is None or _role(outcome) is not None


def _role(outcome: Outcome) -> str | None:
    info = error_info(outcome.trailing_metadata)
    return None if info is None else info.metadata.get(ROLE)
