"""The server's half: takes commands off the streams and gives them to the handlers of the services beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import grpc

from meshkit.exchange.frames import (
    MESSAGE_BYTES,
    MESSAGE_COMMANDS,
    Pump,
    metadata_from_proto,
    metadata_to_proto,
)
from meshkit.exchange.streams import Outbox
from meshkit.local.dispatch import Dispatcher
from meshkit.local.rpc import Outcome, Rpc
from tallygate.mesh.v1 import exchange_pb2 as pb
from tallygate.mesh.v1.exchange_pb2_grpc import ExchangeServiceServicer

MAX_BACKLOG_BYTES = 8 * MESSAGE_BYTES
"""While so much waits to be written to a client that does not read, no more of its commands are read."""

ANSWER_BYTES = 128
"""What an answer is counted with apart from its response."""

LEAVE_S = 1.0
"""A client that has nothing under way and does not end its half of the stream has so long to do it."""

_EXPIRED = Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
_GONE = Outcome(grpc.StatusCode.CANCELLED, "the client has gone")


class _Outgoing(NamedTuple):
    """What waits to be written. ``streamed``: one response of a stream; None: the end of the call."""

    number: int
    rpc: Rpc
    streamed: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The response in it."""
        return (self.rpc.response or b"") if self.streamed is None else self.streamed

    @property
    def dropped(self) -> bool:
        """Nobody takes it any more."""
        return self.streamed is not None and isinstance(self.rpc.responses, Outbox) and self.rpc.responses.dropped


class ExchangeServicer(ExchangeServiceServicer):
    """Serves every stream of a server."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._sessions: set[_Session] = set()
        self._leaving = False

    async def Exchange(  # type: ignore[override] # written to through its context, where the stub expects a generator
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """See exchange.proto."""
        del request_iterator  # read through its context
        session = _Session(self._dispatcher, context)
        self._sessions.add(session)
        if self._leaving:
            session.leave()
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    def leave(self) -> None:
        """Begins no command any more, and lets the streams end when those under way are answered."""
        self._leaving = True
        for session in self._sessions:
            session.leave()

    async def unwound(self, grace_s: float) -> None:
        """Waits for handlers that clean up after a call that is over; after ``grace_s`` they are cancelled."""
        await self._dispatcher.stop(grace_s, _GONE)


class _Session:
    """One stream: reads, dispatches and writes until the client has gone or the server leaves."""

    def __init__(self, dispatcher: Dispatcher, context: Any) -> None:
        self._dispatcher = dispatcher
        self._context = context
        self._peer: str = context.peer()
        self._running: set[Rpc] = set()
        self._by_id: dict[int, Rpc] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._answers: deque[_Outgoing] = deque()
        self._refused: list[int] = []
        self._part_from = 0
        self._backlog_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._leaving = asyncio.Event()
        self._notice: pb.ExchangeResponse | None = pb.ExchangeResponse(carries_streams=True)
        self._pump = Pump(self._next_message, context.write)

    def leave(self) -> None:
        """Tells the client, and refuses what it has sent meanwhile."""
        self._leaving.set()
        self._notice = pb.ExchangeResponse(leaving=True)
        self._pump.wake()

    async def run(self) -> None:
        """Until the client has ended its half, or has nothing under way when the server leaves."""
        reading, writing = asyncio.create_task(self._read()), asyncio.create_task(self._pump.run())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({reading, writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            while not reading.done() and not writing.done():
                await asyncio.wait({reading, writing}, timeout=LEAVE_S, return_when=asyncio.FIRST_COMPLETED)
                if not self._by_id and not self._answers:
                    break
            for task in (reading, writing):
                if task.done():
                    await task
            await self._idle.wait()
            self._pump.finish()
            await writing
        finally:
            reading.cancel()
            writing.cancel()
            leaving.cancel()
            for rpc in list(self._running):
                rpc.give_up(_GONE)
            await asyncio.gather(reading, writing, leaving, return_exceptions=True)

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            for number in message.cancelled_ids:
                rpc = self._by_id.pop(number, None)
                if rpc is not None:
                    rpc.give_up(_GONE)
            for grant in message.grants:
                rpc = self._by_id.get(grant.id)
                if rpc is not None and isinstance(rpc.responses, Outbox):
                    rpc.responses.grant(grant.responses)
            for command in message.commands:
                self._begin(command)
            await self._room.wait()

    def _begin(self, command: pb.Command) -> None:
        if self._leaving.is_set():
            self._refused.append(command.id)
            self._pump.wake()
            return
        timeout_s = command.timeout_us / 1e6 if command.HasField("timeout_us") else None
        metadata = metadata_from_proto(command.metadata)
        rpc = Rpc(command.method, metadata, timeout_s, command.request, None, self._running)
        if command.window:
            rpc.responses = Outbox(command.window, lambda message: self._queue(_Outgoing(command.id, rpc, message)))
        self._by_id[command.id] = rpc
        self._idle.clear()
        rpc.on_end(partial(self._answer, command.id, rpc))
        if timeout_s == 0:
            rpc.give_up(_EXPIRED)
        else:
            self._dispatcher.accept(rpc, self._peer)

    def _answer(self, number: int, rpc: Rpc) -> None:
        if self._by_id.pop(number, None) is not None:  # else nobody waits for it
            self._queue(_Outgoing(number, rpc))
        if not self._by_id:
            self._idle.set()

    def _queue(self, outgoing: _Outgoing) -> None:
        self._answers.append(outgoing)
        self._backlog_bytes += _size(outgoing)
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self._room.clear()
        self._pump.wake()

    def _next_message(self) -> pb.ExchangeResponse | None:
        if self._notice is None and not self._answers and not self._refused:
            return None
        message, self._notice = self._notice or pb.ExchangeResponse(), None
        answers, size = message.answers, 0
        for number in self._refused:
            code, _ = grpc.StatusCode.UNAVAILABLE.value
            answers.add(id=number, code=code, details="the server is going away", not_begun=True)
        self._refused.clear()
        while self._answers and size < MESSAGE_BYTES and len(answers) < MESSAGE_COMMANDS:
            size += self._add_answer(answers)
        return message

    def _add_answer(self, answers: Any) -> int:
        """Adds the next answer, or the next part of its response; gives the bytes of that."""
        outgoing = self._answers[0]
        number, rpc, streamed = outgoing
        if outgoing.dropped and not self._part_from:
            self._written(outgoing)
            return 0
        response = outgoing.payload
        if len(response) - self._part_from > MESSAGE_BYTES:
            part = response[self._part_from : self._part_from + MESSAGE_BYTES]
            self._part_from += MESSAGE_BYTES
            answers.add(id=number, response=part, continues=True)
            return len(part)
        rest = response[self._part_from :] if self._part_from else response
        self._part_from = 0
        initial = metadata_to_proto(rpc.initial_metadata or ())
        if streamed is not None:
            answers.add(id=number, initial_metadata=initial, response=rest, streams=True)
        else:
            assert rpc.outcome is not None
            code, details, trailing = rpc.outcome
            answers.add(
                id=number,
                code=code.value[0],
                details=details,
                initial_metadata=initial,
                trailing_metadata=metadata_to_proto(trailing),
                response=rest,
            )
        self._written(outgoing)
        return len(rest)

    def _written(self, outgoing: _Outgoing) -> None:
        self._answers.popleft()
        self._backlog_bytes -= _size(outgoing)
        if self._backlog_bytes <= MAX_BACKLOG_BYTES:
            self._room.set()


def _size(outgoing: _Outgoing) -> int:
    return len(outgoing.payload) + ANSWER_BYTES
