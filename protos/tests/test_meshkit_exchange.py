"""What is the exchange's own: how calls share a stream, and what becomes of them when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.channels import Dialer
from meshkit.exchange.frames import MESSAGE_BYTES
from meshkit.exchange.servicer import MAX_BACKLOG_BYTES
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from tallygate.mesh.v1 import exchange_pb2 as pb
from tallygate.mesh.v1.exchange_pb2_grpc import (
    ExchangeServiceServicer,
    ExchangeServiceStub,
    add_ExchangeServiceServicer_to_server,
)

OFF = Telemetry.off()
METHOD = "/test.Probe/unary_unary"


def text(value: object = "") -> StringValue:
    return StringValue(value=str(value))


async def echo(request: StringValue, _: Any) -> StringValue:
    return request


def unary(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(METHOD, StringValue.SerializeToString, StringValue.FromString)


class Scripted(ExchangeServiceServicer):
    """A server that speaks the protocol as a test tells it to, and keeps what it was sent."""

    def __init__(self, script: Callable[[int, pb.ExchangeRequest], pb.ExchangeResponse | None]) -> None:
        self._script = script
        self.streams = 0
        self.received: list[pb.ExchangeRequest] = []

    async def Exchange(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        self.streams += 1
        stream = self.streams
        await context.write(pb.ExchangeResponse())
        async for message in request_iterator:
            self.received.append(message)
            answer = self._script(stream, message)
            if answer is None:
                await context.abort(grpc.StatusCode.INTERNAL, "broken on purpose")
            await context.write(answer)


def all_answered(_: int, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
    return pb.ExchangeResponse(answers=[pb.Answer(id=c.id, response=c.request) for c in message.commands])


@asynccontextmanager
async def dialled(add: Callable[[Any], None]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that has what ``add`` gives it and nothing of the mesh."""
    server = grpc.aio.server()
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Dialer(OFF) as dial:
            yield dial(f"grpc://127.0.0.1:{port}")
    finally:
        await server.stop(0)


@asynccontextmanager
async def scripted(script: Any) -> AsyncIterator[tuple[Scripted, Any]]:
    servicer = Scripted(script)
    async with dialled(lambda server: add_ExchangeServiceServicer_to_server(servicer, server)) as channel:
        yield servicer, unary(channel)


async def test_calls_made_together_travel_together_and_one_alone_at_once() -> None:
    async with scripted(all_answered) as (server, call):
        assert (await call(text("alone"), timeout=5)).value == "alone"
        assert [len(message.commands) for message in server.received] == [1]
        answers = await asyncio.gather(*(call(text(n), timeout=5) for n in range(200)))
        assert [answer.value for answer in answers] == [str(n) for n in range(200)]
        assert sum(len(message.commands) for message in server.received) == 201
        assert len(server.received) <= 3
        assert server.streams == 1


async def test_a_call_whose_client_has_gone_before_it_was_sent_is_not_sent() -> None:
    async with scripted(all_answered) as (server, call):
        gone, kept = call(text("gone"), timeout=5), call(text("kept"), timeout=5)
        gone.cancel()
        await kept
        assert [c.request for message in server.received for c in message.commands] == [
            text("kept").SerializeToString()
        ]


async def test_calls_under_way_end_with_the_stream_and_the_next_open_another() -> None:
    def first_breaks(stream: int, message: pb.ExchangeRequest) -> pb.ExchangeResponse | None:
        return None if stream == 1 else all_answered(stream, message)

    async with scripted(first_breaks) as (server, call):
        lost = [call(text(n), timeout=5) for n in range(3)]
        for each in lost:
            with pytest.raises(grpc.aio.AioRpcError, match="broken on purpose") as caught:
                await each
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await call(text("again"), timeout=5)).value == "again"
        assert server.streams == 2
        # What may have been done is not done again by the transport.
        assert sum(len(message.commands) for message in server.received) == 4


async def test_what_a_leaving_server_did_not_begin_goes_over_another_stream_once() -> None:
    def leaves(stream: int, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
        if stream > 1:
            return all_answered(stream, message)
        answers = [pb.Answer(id=c.id, code=14, details="leaving", not_begun=True) for c in message.commands]
        return pb.ExchangeResponse(leaving=True, answers=answers)

    async with scripted(leaves) as (server, call):
        assert (await call(text("carried"), timeout=5)).value == "carried"
        assert server.streams == 2

    def always_leaves(_: int, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
        return leaves(1, message)

    async with scripted(always_leaves) as (server, call):
        assert await call(text("nowhere"), timeout=5).code() is grpc.StatusCode.UNAVAILABLE
        assert server.streams == 2


async def test_a_server_that_does_not_know_the_exchange_gets_plain_calls(registering: Any) -> None:
    seen: list[str] = []

    async def handler(request: StringValue, context: Any) -> StringValue:
        seen.append(dict(context.invocation_metadata())["who"])
        if request.value == "refused":
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here", (("why-bin", b"\x07"),))
        await context.send_initial_metadata((("began", "yes"),))
        return request

    async with dialled(registering(unary_unary=handler)) as channel:
        metadata = (("who", "me"),)
        first, refused = (unary(channel)(text(n), timeout=5, metadata=metadata) for n in ("first", "refused"))
        assert (await first).value == "first"
        assert (await first.initial_metadata())["began"] == "yes"
        with pytest.raises(grpc.aio.AioRpcError, match="not here") as caught:
            await refused
        assert dict(caught.value.trailing_metadata() or ()) == {"why-bin": b"\x07"}
        assert (await unary(channel)(text("later"), timeout=5, metadata=metadata)).value == "later"
        assert seen == ["me"] * 3


async def test_a_large_response_comes_in_parts_and_lets_others_pass(registering: Any) -> None:
    async def handler(request: StringValue, _: Any) -> StringValue:
        return text("x" * int(request.value))

    size = 5 * MESSAGE_BYTES + 7
    async with running(registering(unary_unary=handler), "grpc://127.0.0.1:0", OFF) as address, Dialer(OFF) as dial:
        large, small = (unary(dial(address))(text(n), timeout=20) for n in (size, 3))
        assert (await small).value == "xxx"
        assert (await large).value == "x" * size


@asynccontextmanager
async def raw(register: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """A stream to a server of the mesh, as a client of another make might use it; and what stops the server."""
    service = running(register, "grpc://127.0.0.1:0", OFF, **kwargs)
    address = await service.__aenter__()
    stopped = False

    async def stop() -> None:
        nonlocal stopped
        stopped = True
        await service.__aexit__(None, None, None)

    async with grpc.aio.insecure_channel(address.removeprefix("grpc://")) as channel:
        stream: Any = ExchangeServiceStub(channel).Exchange()
        assert await stream.read() == pb.ExchangeResponse(carries_streams=True)
        yield stream, stop
        stream.cancel()
        if not stopped:
            await stop()


def command(number: int, method: str = METHOD, **fields: Any) -> pb.Command:
    return pb.Command(id=number, method=method, request=text(number).SerializeToString(), **fields)


async def test_each_command_is_judged_by_itself(registering: Any) -> None:
    async def many(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
        yield text()

    async with raw(registering(unary_unary=echo, unary_stream=many)) as (stream, _):
        commands = [
            command(1, timeout_us=5_000_000),
            command(2),
            command(3, timeout_us=0),
            command(4, "/test.Probe/missing", timeout_us=5_000_000),
            command(5, "/test.Probe/unary_stream", timeout_us=5_000_000),
        ]
        await stream.write(pb.ExchangeRequest(commands=commands, cancelled_ids=[99]))
        codes: dict[int, int] = {}
        while len(codes) < len(commands):
            codes |= {answer.id: answer.code for answer in (await stream.read()).answers}
        ok, invalid, expired, unimplemented = 0, 3, 4, 12
        assert codes == {1: ok, 2: invalid, 3: expired, 4: unimplemented, 5: unimplemented}


async def test_a_client_that_does_not_read_is_not_read_from(registering: Any) -> None:
    begun = 0
    size = MAX_BACKLOG_BYTES // 4

    async def handler(_: StringValue, __: Any) -> StringValue:
        nonlocal begun
        begun += 1
        return text("x" * size)

    async with raw(registering(unary_unary=handler)) as (stream, _):

        async def send() -> None:
            for number in range(1, 101):
                await stream.write(pb.ExchangeRequest(commands=[command(number, timeout_us=50_000_000)]))

        sending = asyncio.create_task(send())
        before = -1
        while begun != before or begun < 5:  # until it stands still
            before = begun
            await asyncio.sleep(0.2)
        assert begun < 30
        answered = 0
        while answered < 100:
            answered += sum(not answer.continues for answer in (await stream.read()).answers)
        await sending


async def test_a_client_that_hangs_does_not_hold_up_a_server_that_leaves(registering: Any) -> None:
    async with raw(registering(unary_unary=echo), drain_s=60) as (_, stop), asyncio.timeout(10):
        await stop()


async def test_a_leaving_server_answers_what_runs_and_refuses_the_rest(registering: Any) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        await go_on.wait()
        return request

    async with raw(registering(unary_unary=handler), drain_s=60) as (stream, stop):
        await stream.write(pb.ExchangeRequest(commands=[command(1, timeout_us=50_000_000)]))
        await entered.wait()
        stopping = asyncio.create_task(stop())
        assert (await stream.read()).leaving
        await stream.write(pb.ExchangeRequest(commands=[command(2, timeout_us=50_000_000)]))
        (refused,) = (await stream.read()).answers
        assert (refused.id, refused.not_begun) == (2, True)
        go_on.set()
        (answer,) = (await stream.read()).answers
        assert StringValue.FromString(answer.response).value == "1"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        await stopping


async def test_a_server_does_not_end_before_its_handlers_have_cleaned_up(registering: Any) -> None:
    entered, cleaning, go_on, cleaned = (asyncio.Event() for _ in range(4))

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await go_on.wait()
            cleaned.set()
        return request

    async with raw(registering(unary_unary=handler)) as (stream, stop):
        await stream.write(pb.ExchangeRequest(commands=[command(1, timeout_us=50_000_000)]))
        await entered.wait()
        await stream.write(pb.ExchangeRequest(cancelled_ids=[1]))
        await cleaning.wait()
        await stream.done_writing()
        stopping = asyncio.create_task(stop())
        while await stream.read() is not grpc.aio.EOF:
            pass
        ended, _ = await asyncio.wait({stopping}, timeout=0.5)  # a server that did not wait would end within that
        assert not ended
        go_on.set()
        await stopping
        assert cleaned.is_set()
