"""Streams of requests and of responses: the same on every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.channels import cancelling


def text(value: object) -> StringValue:
    return StringValue(value=str(value))


async def count(request: StringValue, _: Any) -> AsyncIterator[StringValue]:
    for number in range(int(request.value)):
        yield text(number)


async def collect(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
    return text(" ".join([request.value async for request in requests]))


async def shout(requests: AsyncIterator[StringValue], _: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield text(request.value.upper())


async def numbers(until: int) -> AsyncIterator[StringValue]:
    for number in range(until):
        yield text(number)


class TestResponses:
    async def test_are_iterated_over(self, served: Any) -> None:
        async with served(unary_stream=count) as probe:
            call = probe.unary_stream(text(100), timeout=5)
            assert [int(response.value) async for response in call] == list(range(100))
            assert await call.code() is grpc.StatusCode.OK
            assert aiter(call) is aiter(call)

    async def test_are_read(self, served: Any) -> None:
        async with served(unary_stream=count) as probe:
            call = probe.unary_stream(text(2), timeout=5)
            assert [(await call.read()).value, (await call.read()).value] == ["0", "1"]
            assert await call.read() is grpc.aio.EOF
            assert await call.read() is grpc.aio.EOF

    async def test_are_not_iterated_over_and_read(self, served: Any) -> None:
        async with served(unary_stream=count) as probe:
            read, iterated = probe.unary_stream(text(2), timeout=5), probe.unary_stream(text(2), timeout=5)
            await read.read()
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                aiter(read)
            await anext(aiter(iterated))
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await iterated.read()
            read.cancel()
            iterated.cancel()

    async def test_can_be_written_by_the_handler(self, served: Any) -> None:
        async def handler(_: StringValue, context: Any) -> None:
            await context.write(text("a"))
            await context.write(text("b"))

        async with served(unary_stream=handler) as probe:
            assert [r.value async for r in probe.unary_stream(text(""), timeout=5)] == ["a", "b"]

    async def test_may_be_none(self, served: Any) -> None:
        async with served(unary_stream=count) as probe:
            assert [r async for r in probe.unary_stream(text(0), timeout=5)] == []

    async def test_come_one_by_one(self, served: Any) -> None:
        go_on = asyncio.Event()

        async def handler(_: StringValue, context: Any) -> AsyncIterator[StringValue]:
            await context.send_initial_metadata((("began", "yes"),))
            yield text("first")
            await go_on.wait()
            yield text("second")

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=5)
            assert (await call.initial_metadata())["began"] == "yes"
            assert (await call.read()).value == "first"
            assert not call.done()
            go_on.set()
            assert (await call.read()).value == "second"

    async def test_before_an_abort_arrive(self, served: Any) -> None:
        async def handler(_: StringValue, context: Any) -> AsyncIterator[StringValue]:
            yield text("one")
            yield text("two")
            await context.abort(grpc.StatusCode.DATA_LOSS, "lost", (("why", "cable"),))

        async with served(unary_stream=handler) as probe:
            arrived = []
            call = probe.unary_stream(text(""), timeout=5)
            with pytest.raises(grpc.aio.AioRpcError, match="lost") as caught:
                async for response in call:
                    arrived.append(response.value)
            assert arrived == ["one", "two"]
            assert caught.value.code() is grpc.StatusCode.DATA_LOSS
            assert dict(caught.value.trailing_metadata() or ())["why"] == "cable"
            assert await call.code() is grpc.StatusCode.DATA_LOSS

    async def test_before_an_exception_arrive(self, served: Any) -> None:
        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            yield text("one")
            raise ValueError("boom")

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=5)
            assert (await call.read()).value == "one"
            with pytest.raises(grpc.aio.AioRpcError, match="internal error"):
                await call.read()

    async def test_are_cut_off_by_the_deadline(self, served: Any) -> None:
        ended = asyncio.Event()

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            try:
                yield text("one")
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=0.2)
            assert (await call.read()).value == "one"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await ended.wait()

    async def test_end_in_the_handler_when_the_client_cancels(self, served: Any) -> None:
        how: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            try:
                yield text("one")
                await asyncio.Event().wait()
            except BaseException as error:
                how.set_result(type(error).__name__)
                raise

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=30)
            async for response in call:
                assert response.value == "one"
                break
            assert call.cancel()
            assert await how == "CancelledError"
            assert await call.code() is grpc.StatusCode.CANCELLED

    async def test_that_nobody_reads_on_are_cancelled(self, served: Any) -> None:
        ended = asyncio.Event()

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            try:
                yield text("one")
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with served(unary_stream=handler) as probe:
            with cancelling(probe.unary_stream(text(""), timeout=30)) as call:
                async for _ in call:
                    break
            await ended.wait()
            with cancelling(probe.unary_stream(text(""), timeout=30)) as call:
                assert (await call.read()).value == "one"
            assert call.cancelled()

    async def test_end_in_the_handlers_own_task_where_it_waits_to_send(self, served: Any) -> None:
        tasks: list[Any] = []
        ended = asyncio.Event()

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            tasks.append(asyncio.current_task())
            try:
                while True:
                    yield text("x" * 65_536)
            finally:
                tasks.append(asyncio.current_task())
                ended.set()

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=30)
            await call.read()
            call.cancel()
            await ended.wait()
            assert tasks[0] is tasks[1]

    async def test_wait_for_a_slow_reader(self, served: Any) -> None:
        sent = 0

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            nonlocal sent
            for _number in range(2_000):
                yield text("x" * 262_144)
                sent += 1

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=30)
            await call.read()
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)  # until the handler stands still
            assert sent < 200, "half a gigabyte was taken from the handler, though nobody reads"
            assert len([None for _ in range(20) if await call.read()]) == 20
            call.cancel()

    async def test_cancelling_whoever_waits_for_one_cancels_the_call(self, served: Any) -> None:
        entered, ended = asyncio.Event(), asyncio.Event()

        async def handler(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            try:
                entered.set()
                await asyncio.Event().wait()
                yield text("")
            finally:
                ended.set()

        async with served(unary_stream=handler) as probe:
            call = probe.unary_stream(text(""), timeout=30)
            reader = asyncio.ensure_future(call.read())
            await entered.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert call.cancelled()
            await ended.wait()


class TestRequests:
    async def test_come_from_an_async_iterator(self, served: Any) -> None:
        async with served(stream_unary=collect) as probe:
            assert (await probe.stream_unary(numbers(5), timeout=5)).value == "0 1 2 3 4"

    async def test_come_from_an_iterable(self, served: Any) -> None:
        async with served(stream_unary=collect) as probe:
            assert (await probe.stream_unary([text("a"), text("b")], timeout=5)).value == "a b"

    async def test_are_written(self, served: Any) -> None:
        async with served(stream_unary=collect) as probe:
            call = probe.stream_unary(timeout=5)
            await call.write(text("a"))
            await call.write(text("b"))
            await call.done_writing()
            await call.done_writing()
            assert (await call).value == "a b"
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(text("c"))

    async def test_are_not_written_beside_an_iterator(self, served: Any) -> None:
        async with served(stream_unary=collect) as probe:
            call = probe.stream_unary(numbers(1), timeout=5)
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await call.write(text("c"))
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await call.done_writing()
            await call

    async def test_are_not_written_after_the_last(self, served: Any) -> None:
        async with served(stream_unary=collect) as probe:
            call = probe.stream_unary(timeout=5)
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(text("c"))
            assert (await call).value == ""

    async def test_can_be_read_by_the_handler(self, served: Any) -> None:
        async def handler(_: Any, context: Any) -> StringValue:
            first = await context.read()
            second = await context.read()
            assert await context.read() is grpc.aio.EOF
            return text(first.value + second.value)

        async with served(stream_unary=handler) as probe:
            assert (await probe.stream_unary([text("a"), text("b")], timeout=5)).value == "ab"

    async def test_left_unread_do_not_delay_the_answer(self, served: Any) -> None:
        async def handler(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
            return await anext(aiter(requests))

        async with served(stream_unary=handler) as probe:
            assert (await probe.stream_unary(numbers(100_000), timeout=10)).value == "0"

    async def test_that_cannot_be_made_cancel_the_call(self, served: Any) -> None:
        ended = asyncio.Event()

        async def handler(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
            try:
                return text([request async for request in requests])
            finally:
                ended.set()

        def broken() -> Iterator[StringValue]:
            yield text("one")
            raise ValueError("no more")

        async with served(stream_unary=handler) as probe:
            call = probe.stream_unary(broken(), timeout=5)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.code() is grpc.StatusCode.CANCELLED
            await ended.wait()

    async def test_wait_for_a_slow_handler(self, served: Any) -> None:
        go_on = asyncio.Event()
        made = 0

        async def handler(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
            await go_on.wait()
            return text(len([None async for _ in requests]))

        async def requests() -> AsyncIterator[StringValue]:
            nonlocal made
            for _number in range(300):
                yield text("x" * 262_144)
                made += 1

        async with served(stream_unary=handler) as probe:
            call = probe.stream_unary(requests(), timeout=30)
            before = -1
            while made != before or made == 0:
                before = made
                await asyncio.sleep(0.1)  # until the client stands still
            assert made < 200
            go_on.set()
            assert (await call).value == "300"


class TestBothWays:
    async def test_a_conversation(self, served: Any) -> None:
        async with served(stream_stream=shout) as probe:
            call = probe.stream_stream(timeout=5)
            for word in ("a", "b", "c"):
                await call.write(text(word))
                assert (await call.read()).value == word.upper()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    async def test_iterators_on_both_sides(self, served: Any) -> None:
        async with served(stream_stream=shout) as probe:
            call = probe.stream_stream(numbers(200), timeout=5)
            assert [int(response.value) async for response in call] == list(range(200))

    async def test_writing_to_a_call_that_failed_fails(self, served: Any) -> None:
        async def handler(_: Any, context: Any) -> AsyncIterator[StringValue]:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            yield text("")

        async with served(stream_stream=handler) as probe:
            call = probe.stream_stream(timeout=5)
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(text("x"))

    async def test_cancelling_reaches_a_handler_that_reads(self, served: Any) -> None:
        entered, ended = asyncio.Event(), asyncio.Event()

        async def handler(requests: AsyncIterator[StringValue], _: Any) -> AsyncIterator[StringValue]:
            try:
                async for request in requests:
                    entered.set()
                    yield request
            finally:
                ended.set()

        async with served(stream_stream=handler) as probe:
            call = probe.stream_stream(timeout=30)
            await call.write(text("x"))
            await entered.wait()
            call.cancel()
            await ended.wait()
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(text("y"))

    async def test_a_thousand_conversations_at_once(self, served: Any) -> None:
        async def converse(probe: Any, number: int) -> bool:
            call = probe.stream_stream([text(f"a{number}"), text(f"b{number}")], timeout=30)
            return [r.value async for r in call] == [f"A{number}", f"B{number}"]

        async with served(stream_stream=shout) as probe:
            assert all(await asyncio.gather(*(converse(probe, number) for number in range(1_000))))
