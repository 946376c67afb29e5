"""Calls that are answered with a stream, over the exchange: what is its own. What such a call promises to its client is
tested for every transport in test_meshkit_streams.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.channels import Dialer
from meshkit.exchange.frames import MESSAGE_BYTES
from meshkit.exchange.streams import WINDOW
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from tallygate.mesh.v1 import exchange_pb2 as pb
from tallygate.mesh.v1.exchange_pb2_grpc import ExchangeServiceServicer, add_ExchangeServiceServicer_to_server

OFF = Telemetry.off()
METHOD = "/test.Probe/unary_stream"


def text(value: object = "") -> StringValue:
    return StringValue(value=str(value))


def encoded(value: object) -> bytes:
    return text(value).SerializeToString()


def stream_of(channel: grpc.aio.Channel, method: str = METHOD) -> Any:
    return channel.unary_stream(method, StringValue.SerializeToString, StringValue.FromString)


class Spoken(ExchangeServiceServicer):
    """A server that says at first what a test wants, then answers each message as the test says."""

    def __init__(self, answer: Callable[[pb.ExchangeRequest], list[pb.ExchangeResponse]], *, streams: bool) -> None:
        self._answer = answer
        self._streams = streams
        self.received: list[pb.ExchangeRequest] = []

    async def Exchange(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await context.write(pb.ExchangeResponse(carries_streams=self._streams))
        async for message in request_iterator:
            self.received.append(message)
            for response in self._answer(message):
                await context.write(response)


@asynccontextmanager
async def spoken(
    answer: Callable[[pb.ExchangeRequest], list[pb.ExchangeResponse]], *add: Any, streams: bool = True
) -> AsyncIterator[tuple[Spoken, Any]]:
    servicer = Spoken(answer, streams=streams)
    server = grpc.aio.server()
    add_ExchangeServiceServicer_to_server(servicer, server)
    for one in add:
        one(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Dialer(OFF) as dial:
            channel = dial(f"grpc://127.0.0.1:{port}")
            await channel.channel_ready()
            yield servicer, channel
    finally:
        await server.stop(0)


@asynccontextmanager
async def served(registering: Any, **handlers: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with running(registering(**handlers), "grpc://127.0.0.1:0", OFF) as address, Dialer(OFF) as dial:
        channel = dial(address)
        await channel.channel_ready()
        yield channel


def counted(message: pb.ExchangeRequest) -> list[pb.ExchangeResponse]:
    """As many responses as the client takes at first, in one message, and the end."""
    answers = []
    for command in message.commands:
        answers += [pb.Answer(id=command.id, response=encoded(n), streams=True) for n in range(command.window)]
        answers.append(pb.Answer(id=command.id))
    return [pb.ExchangeResponse(answers=answers)]


async def test_streams_begun_together_travel_together() -> None:
    async with spoken(counted) as (server, channel):
        calls = [stream_of(channel)(text(n), timeout=5) for n in range(20)]
        taken = [[response.value async for response in call] for call in calls]
        assert taken == [[str(n) for n in range(WINDOW)]] * 20
        assert [await call.code() for call in calls] == [grpc.StatusCode.OK] * 20
        assert len([message for message in server.received if message.commands]) <= 3


async def test_a_server_that_carries_no_streams_is_asked_by_plain_calls(registering: Any) -> None:
    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield request

    async with spoken(counted, registering(unary_stream=handler), streams=False) as (server, channel):
        assert [response.value async for response in stream_of(channel)(text("plain"), timeout=5)] == ["plain"]
        assert not [message for message in server.received if message.commands]


async def test_what_a_leaving_server_did_not_begin_becomes_a_plain_call(registering: Any) -> None:
    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for number in range(3 * WINDOW):
            yield text(number)
        context.set_trailing_metadata((("left", "nothing"),))

    def leaves(message: pb.ExchangeRequest) -> list[pb.ExchangeResponse]:
        answers = [pb.Answer(id=c.id, code=14, details="leaving", not_begun=True) for c in message.commands]
        return [pb.ExchangeResponse(leaving=True, answers=answers)]

    async with spoken(leaves, registering(unary_stream=handler)) as (server, channel):
        call = stream_of(channel)(text(), timeout=5)
        assert [response.value async for response in call] == [str(n) for n in range(3 * WINDOW)]
        assert dict(await call.trailing_metadata())["left"] == "nothing"
        assert len([message for message in server.received if message.commands]) == 1


async def test_a_client_that_reads_slowly_holds_up_its_handler_and_nobody_else(registering: Any) -> None:
    written: list[int] = []

    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        for number in range(10 * WINDOW):
            yield text(number)
            if request.value == "slow":
                written.append(number)

    async with served(registering, unary_stream=handler) as channel:
        slow = stream_of(channel)(text("slow"), timeout=20)
        assert (await slow.read()).value == "0"
        quick = stream_of(channel)(text("quick"), timeout=20)
        assert len([response async for response in quick]) == 10 * WINDOW
        assert len(written) == WINDOW
        rest = 1
        while await slow.read() is not grpc.aio.EOF:
            rest += 1
        assert rest == 10 * WINDOW


async def test_a_handler_learns_that_its_client_has_gone(registering: Any) -> None:
    ended = asyncio.Event()

    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield text()
        finally:
            ended.set()

    async with served(registering, unary_stream=handler) as channel:
        call = stream_of(channel)(text(), timeout=20)
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_large_response_comes_in_parts(registering: Any) -> None:
    size = 3 * MESSAGE_BYTES + 7

    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield text("first")
        yield text("x" * size)
        yield text("last")

    async with served(registering, unary_stream=handler) as channel:
        assert [len(response.value) async for response in stream_of(channel)(text(), timeout=20)] == [5, size, 4]


async def test_a_watch_stays_a_call_of_its_own(registering: Any) -> None:
    commands: list[str] = []

    async def handler(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield request

    def keep(message: pb.ExchangeRequest) -> list[pb.ExchangeResponse]:
        commands.extend(command.method for command in message.commands)
        return []

    async with spoken(keep, registering(WatchThings__unary_stream=handler)) as (_, channel):
        watch = stream_of(channel, "/test.Probe/WatchThings")(text("plain"), timeout=5)
        assert [response.value async for response in watch] == ["plain"]
        assert commands == []


async def test_streams_end_with_the_connection_that_they_came_on() -> None:
    def breaks(message: pb.ExchangeRequest) -> list[pb.ExchangeResponse]:
        if any(command.request == encoded("break") for command in message.commands):
            raise RuntimeError("broken on purpose")
        answers = [pb.Answer(id=c.id, response=encoded("first"), streams=True) for c in message.commands]
        return [pb.ExchangeResponse(answers=answers)]

    async with spoken(breaks) as (_, channel):
        call = stream_of(channel)(text("begins"), timeout=5)
        assert (await call.read()).value == "first"
        broken = stream_of(channel)(text("break"), timeout=5)
        assert await broken.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
