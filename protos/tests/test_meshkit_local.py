"""What only the local transport has: its pipe, and behaviour that on sockets is up to the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.local import LocalNetwork
from meshkit.local.pipe import CAPACITY, Pipe, PipeClosedError
from meshkit.testing import linked


async def full() -> Pipe:
    pipe = Pipe()
    for number in range(CAPACITY):
        await pipe.put(bytes([number]))
    return pipe


class TestPipe:
    async def test_keeps_order_and_ends(self) -> None:
        pipe = await full()
        pipe.close()
        assert [await pipe.get() for _ in range(CAPACITY)] == [bytes([number]) for number in range(CAPACITY)]
        assert await pipe.get() is None
        assert await pipe.get() is None

    async def test_a_writer_waits_for_room(self) -> None:
        pipe = await full()
        writer = asyncio.create_task(pipe.put(b"next"))
        await asyncio.sleep(0)
        assert not writer.done()
        await pipe.get()
        await writer

    async def test_a_reader_waits_for_a_message(self) -> None:
        pipe = Pipe()
        reader = asyncio.create_task(pipe.get())
        await asyncio.sleep(0)
        assert not reader.done()
        await pipe.put(b"x")
        assert await reader == b"x"

    async def test_closing_wakes_both_sides(self) -> None:
        pipe, empty = await full(), Pipe()
        writer, reader = asyncio.create_task(pipe.put(b"x")), asyncio.create_task(empty.get())
        await asyncio.sleep(0)
        pipe.close()
        empty.close()
        with pytest.raises(PipeClosedError):
            await writer
        assert await reader is None
        with pytest.raises(PipeClosedError):
            await pipe.put(b"late")

    async def test_says_when_it_has_been_read_to_its_end(self) -> None:
        drained: list[str] = []
        pipe, empty = Pipe(), Pipe()
        await pipe.put(b"x")
        pipe.close(lambda: drained.append("pipe"))
        empty.close(lambda: drained.append("empty"))
        assert drained == ["empty"]
        await pipe.get()
        assert drained == ["empty", "pipe"]

    async def test_discarding_drops_what_is_inside(self) -> None:
        pipe = await full()
        pipe.close(lambda: pytest.fail("nobody read it"))
        pipe.discard()
        assert await pipe.get() is None

    async def test_a_turn_is_not_lost_with_a_cancelled_reader(self) -> None:
        pipe = Pipe()
        first, second = asyncio.create_task(pipe.get()), asyncio.create_task(pipe.get())
        await asyncio.sleep(0)
        await pipe.put(b"x")  # wakes the first, which is then cancelled before it runs
        first.cancel()
        assert await second == b"x"
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_handler_is_at_most_a_pipe_ahead_of_its_reader(registering: Any) -> None:
    sent = 0

    async def count(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
        nonlocal sent
        for number in range(1_000):
            sent += 1
            yield StringValue(value=str(number))

    async with linked(registering(unary_stream=count), "local") as channel:
        call: Any = channel.unary_stream(
            "/test.Probe/unary_stream", StringValue.SerializeToString, StringValue.FromString
        )(StringValue(), timeout=5)
        for read in range(1, 40):
            await call.read()
            for _ in range(3):
                await asyncio.sleep(0)
            assert sent <= read + CAPACITY + 1
        call.cancel()


async def test_a_handler_that_never_waits_still_sees_that_nobody_listens(registering: Any) -> None:
    ended = asyncio.Event()

    async def forever(_: StringValue, context: Any) -> None:
        try:
            while True:
                await context.write(StringValue(value="x"))
        finally:
            ended.set()

    async with linked(registering(unary_stream=forever), "local") as channel:
        call: Any = channel.unary_stream(
            "/test.Probe/unary_stream", StringValue.SerializeToString, StringValue.FromString
        )(StringValue(), timeout=5)
        await call.read()
        call.cancel()
        await ended.wait()


async def test_nothing_is_left_of_calls_that_are_over(registering: Any) -> None:
    async def echo(request: StringValue, _: Any) -> StringValue:
        if request.value == "hang":
            await asyncio.Event().wait()
        return request

    network = LocalNetwork()
    server, channel = network.server("a"), network.channel("a")
    registering(unary_unary=echo)(server)
    await server.start()
    call: Any = channel.unary_unary("/test.Probe/unary_unary", StringValue.SerializeToString, StringValue.FromString)
    await call(StringValue(value="x"), timeout=5)
    never_begun = call(StringValue(value="x"), timeout=5)
    never_begun.cancel()
    hanging = call(StringValue(value="hang"), timeout=0.05)
    assert await hanging.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(0)
    assert server._dispatcher._tasks == {}
    assert channel._active == set()
    await server.stop(0)
    assert await server.wait_for_termination(1) is False
    assert channel.get_state() is grpc.ChannelConnectivity.IDLE
    await channel.close()
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_waiting_for_a_server_that_has_not_stopped_times_out() -> None:
    server = LocalNetwork().server("a")
    await server.start()
    assert await server.wait_for_termination(0.01) is True
    await server.stop(None)


async def test_connectivity_changes_are_seen() -> None:
    network = LocalNetwork()
    channel, server = network.channel("a"), network.server("a")
    change = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
    await asyncio.sleep(0)
    assert not change.done()
    await server.start()
    await change
    await server.stop(None)
    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


def test_what_is_no_interceptor_is_refused() -> None:
    with pytest.raises(ValueError, match="not a client interceptor"):
        LocalNetwork().channel("a", interceptors=[object()])  # type: ignore[list-item]
