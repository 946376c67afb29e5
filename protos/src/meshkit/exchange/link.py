"""The client's half of one stream."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import grpc

from meshkit.errors import STATUS_OF_NUMBER
from meshkit.exchange.frames import (
    MESSAGE_BYTES,
    MESSAGE_COMMANDS,
    Pump,
    metadata_from_proto,
    metadata_to_proto,
)
from meshkit.exchange.streams import WINDOW, Inbox
from meshkit.local.rpc import Outcome, Rpc
from tallygate.mesh.v1 import exchange_pb2 as pb

_LONGEST_S = 1e9
"""Thirty years; the field that carries a timeout has an end."""


class Owner(Protocol):
    """Whose stream it is: what a link asks of its channel."""

    def left(self, link: Link) -> None:
        """The link takes no more calls; those under way it ends."""

    def ended(self, link: Link) -> None:
        """The stream is over."""

    def carry_again(self, rpc: Rpc, otherwise: Outcome) -> None:
        """The call surely did not reach a handler: carries it some other way, or ends it with ``otherwise``."""

    def peer_is_older(self, rpcs: Iterable[Rpc]) -> None:
        """The server does not know the exchange; these calls were meant for it."""


class Link:
    """Sends commands over a stream and hands their answers to the calls. Make it where no context variables of a caller
    are seen: its tasks outlive them.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any], owner: Owner) -> None:
        self._call = call
        self._owner = owner
        self._ids = itertools.count(1)
        self._unsent: deque[Rpc] = deque()
        self._sent: dict[int, Rpc] = {}
        self._parts: dict[int, list[bytes]] = {}
        self._cancelled_ids: list[int] = []
        self._grants: dict[int, int] = {}
        self.carries_streams = False
        """Whether the server has said so."""
        self._greeted = False
        self._answered = asyncio.Event()
        self._leaving = False
        self._pump = Pump(self._next_message, call.write)
        self._writing = asyncio.create_task(self._write())
        self._reading = asyncio.create_task(self._read())

    def send(self, rpc: Rpc) -> None:
        """Sends a call's command, with whatever else there is to send then."""
        self._unsent.append(rpc)
        self._pump.wake()

    async def answered(self) -> None:
        """Waits until the server has said that it reads, or the stream is over."""
        await self._answered.wait()

    async def close(self) -> None:
        """Ends the stream; whoever closes has ended its calls."""
        self._call.cancel()
        self._reading.cancel()
        self._writing.cancel()
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)

    def _next_message(self) -> pb.ExchangeRequest | None:
        if not self._unsent and not self._cancelled_ids and not self._grants:
            return None
        message = pb.ExchangeRequest(cancelled_ids=self._cancelled_ids)
        self._cancelled_ids = []
        for number, responses in self._grants.items():
            message.grants.add(id=number, responses=responses)
        self._grants.clear()
        commands, size = message.commands, 0
        while self._unsent and size < MESSAGE_BYTES and len(commands) < MESSAGE_COMMANDS:
            rpc = self._unsent.popleft()
            if rpc.outcome is not None:
                continue
            number = next(self._ids)
            self._sent[number] = rpc
            rpc.abandon = partial(self._cancel, number)
            if isinstance(rpc.responses, Inbox):
                rpc.responses.grant = partial(self._grant, number)
            assert isinstance(rpc.request, bytes)
            size += len(rpc.request)
            remaining_s = rpc.time_remaining_s()
            commands.add(
                id=number,
                method=rpc.method,
                timeout_us=None if remaining_s is None else math.ceil(min(remaining_s, _LONGEST_S) * 1e6),
                metadata=metadata_to_proto(rpc.metadata),
                request=rpc.request,
                window=0 if rpc.responses is None else WINDOW,
            )
        return message if commands or message.cancelled_ids or message.grants else None

    def _grant(self, number: int, responses: int) -> None:
        if number in self._sent:
            self._grants[number] = self._grants.get(number, 0) + responses
            self._pump.wake()

    def _cancel(self, number: int) -> None:
        if self._sent.pop(number, None) is None:  # it ends with its stream
            return
        self._parts.pop(number, None)
        self._grants.pop(number, None)
        self._cancelled_ids.append(number)
        self._pump.wake()
        self._finish_if_left()

    async def _write(self) -> None:
        try:
            # That a write fails says only that the stream is over, and the reader learns how.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._pump.run()
                await self._call.done_writing()
        except Exception:
            self._call.cancel()  # a bug here must not leave calls waiting
            raise

    async def _read(self) -> None:
        try:
            with suppress(grpc.aio.AioRpcError):  # its status is asked for below
                while isinstance(message := await self._call.read(), pb.ExchangeResponse):
                    if not self._greeted:
                        self._greeted, self.carries_streams = True, message.carries_streams
                        self._answered.set()
                    if message.leaving:  # first, so that what was not begun goes elsewhere
                        self._leave()
                    for answer in message.answers:
                        self._take(answer)
            self._end(await self._call.code(), await self._call.details())
        except BaseException:
            self._call.cancel()
            self._end(grpc.StatusCode.CANCELLED, "the stream of commands was closed")
            raise

    def _take(self, answer: pb.Answer) -> None:
        rpc = self._sent.get(answer.id)
        if rpc is None:  # cancelled meanwhile
            return
        if answer.continues:
            self._parts.setdefault(answer.id, []).append(answer.response)
            return
        if answer.streams:
            self._take_streamed(rpc, answer)
            return
        del self._sent[answer.id]
        self._grants.pop(answer.id, None)
        outcome = Outcome(
            STATUS_OF_NUMBER.get(answer.code, grpc.StatusCode.UNKNOWN),
            answer.details,
            metadata_from_proto(answer.trailing_metadata),
        )
        if answer.not_begun:
            self._owner.carry_again(rpc, outcome)
        else:
            rpc.response = self._whole(answer)
            rpc.begin(metadata_from_proto(answer.initial_metadata))
            rpc.finish(outcome)
        self._finish_if_left()

    def _take_streamed(self, rpc: Rpc, answer: pb.Answer) -> None:
        assert rpc.responses is not None
        rpc.begin(metadata_from_proto(answer.initial_metadata))
        rpc.responses.push(self._whole(answer))

    def _whole(self, answer: pb.Answer) -> bytes:
        parts = self._parts.pop(answer.id, None)
        return answer.response if parts is None else b"".join([*parts, answer.response])

    def _leave(self) -> None:
        """The server is going away: it is told that nothing more comes once nothing is under way."""
        self._leaving = True
        self._owner.left(self)
        self._hand_back(Outcome(grpc.StatusCode.UNAVAILABLE, "the server is going away"))
        self._finish_if_left()

    def _finish_if_left(self) -> None:
        if self._leaving and not self._sent:
            self._pump.finish()

    def _end(self, code: grpc.StatusCode, details: str | None) -> None:
        self._writing.cancel()
        self._answered.set()
        self._owner.ended(self)
        sent, self._sent = list(self._sent.values()), {}
        if code is grpc.StatusCode.UNIMPLEMENTED and not self._greeted:
            unsent, self._unsent = list(self._unsent), deque()
            self._owner.peer_is_older([*sent, *unsent])
            return
        lost = Outcome(grpc.StatusCode.UNAVAILABLE, details or "the stream of commands ended")
        for rpc in sent:
            rpc.finish(lost)
        if self._greeted:
            self._hand_back(lost)
        while self._unsent:  # nobody was there
            self._unsent.popleft().finish(lost)

    def _hand_back(self, otherwise: Outcome) -> None:
        unsent, self._unsent = self._unsent, deque()
        for rpc in unsent:
            self._owner.carry_again(rpc, otherwise)
