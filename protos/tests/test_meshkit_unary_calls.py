"""A call with one request and one response: the same on every transport."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.transport import MAX_MESSAGE_BYTES

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def echo(request: StringValue, _: Any) -> StringValue:
    return text(request.value)


async def test_a_call_gives_its_response_and_its_end(served: Any) -> None:
    async with served(unary_unary=echo) as probe:
        call = probe.unary_unary(text("hello"), timeout=5)
        assert not call.done()
        assert (await call).value == "hello"
        assert await call is await call
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()


async def test_a_call_runs_without_being_awaited(served: Any) -> None:
    reached = asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        reached.set()
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=5)
        await reached.wait()
        assert await call.code() is grpc.StatusCode.OK


async def test_metadata_travels_both_ways(served: Any) -> None:
    seen: dict[str, Any] = {}

    async def handler(request: StringValue, context: Any) -> StringValue:
        seen.update(dict(context.invocation_metadata()))
        await context.send_initial_metadata((("began", "yes"), ("raw-bin", b"\x00\xff")))
        context.set_trailing_metadata((("ended", "yes"), ("digest-bin", b"\x01")))
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=5, metadata=(("request-id", "r1"), ("blob-bin", b"\x00\x80")))
        await call
        assert seen["request-id"] == "r1"
        assert seen["blob-bin"] == b"\x00\x80"
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        assert (initial["began"], initial["raw-bin"]) == ("yes", b"\x00\xff")
        assert (trailing["ended"], trailing["digest-bin"]) == ("yes", b"\x01")


async def test_abort_ends_the_call_with_its_status(served: Any) -> None:
    async def handler(_: StringValue, context: Any) -> StringValue:
        context.set_trailing_metadata((("replaced", "yes"),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", (("why-bin", b"\x07"),))
        raise AssertionError("unreachable")

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "not now"
        assert dict(caught.value.trailing_metadata() or ()) == {"why-bin": b"\x07"}
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert await call.details() == "not now"
        assert (await call.trailing_metadata())["why-bin"] == b"\x07"
        assert call.done()
        assert not call.cancelled()


async def test_abort_without_metadata_sends_what_was_set(served: Any) -> None:
    async def handler(_: StringValue, context: Any) -> StringValue:
        context.set_trailing_metadata((("kept", "yes"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        raise AssertionError("unreachable")

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=5)
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert (await call.trailing_metadata())["kept"] == "yes"


async def test_a_status_can_be_set_and_returned(served: Any) -> None:
    async def handler(request: StringValue, context: Any) -> StringValue:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("too far")
        return request

    async with served(unary_unary=handler) as probe:
        with pytest.raises(grpc.aio.AioRpcError, match="too far") as caught:
            await probe.unary_unary(text("x"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_an_exception_of_the_handler_is_unknown_to_the_transport(bare: Any) -> None:
    async def handler(_: StringValue, __: Any) -> StringValue:
        raise ValueError("boom")

    async with bare(unary_unary=handler) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe.unary_unary(text("x"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == "Unexpected <class 'ValueError'>: boom"


async def test_an_exception_of_the_handler_is_internal_in_the_mesh_and_keeps_its_text(
    served: Any, captured_logs: list[Any]
) -> None:
    async def handler(_: StringValue, __: Any) -> StringValue:
        raise ValueError("a secret")

    async with served(unary_unary=handler) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe.unary_unary(text("x"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error"
        assert [log["event"] for log in captured_logs if log["log_level"] == "error"] == ["unexpected_error"]


async def test_a_method_that_nobody_serves_is_unimplemented(served: Any) -> None:
    async with served(unary_unary=echo) as probe:
        with pytest.raises(grpc.aio.AioRpcError, match="Method not found!") as caught:
            await probe.call("Missing")(text("x"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_ends_both_sides(served: Any) -> None:
    cancelled = asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=0.1)
        with pytest.raises(grpc.aio.AioRpcError, match="Deadline Exceeded") as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.done()
        assert not call.cancelled()
        await cancelled.wait()


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_deadline_in_the_past_ends_the_call_at_once(served: Any, timeout: float) -> None:
    async with served(unary_unary=echo) as probe:
        assert await probe.unary_unary(text("x"), timeout=timeout).code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_both_sides_know_the_time_that_remains(served: Any) -> None:
    remaining: list[float] = []

    async def handler(request: StringValue, context: Any) -> StringValue:
        remaining.append(context.time_remaining())
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=30)
        assert 29 < call.time_remaining() <= 30
        await call
        assert 29 < remaining[0] < 31  # on the wire a timeout is rounded up


async def test_cancelling_reaches_the_handler(served: Any) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=30)
        await entered.wait()
        assert call.cancel()
        assert call.cancelled()
        assert call.done()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        assert not call.cancel()
        await cancelled.wait()


async def test_cancelling_whoever_waits_cancels_the_call(served: Any) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return request

    async with served(unary_unary=handler) as probe:
        call = probe.unary_unary(text("x"), timeout=30)
        waiting = asyncio.ensure_future(call)
        await entered.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        await cancelled.wait()


async def test_a_call_cancelled_before_it_began_never_hangs(served: Any) -> None:
    async with served(unary_unary=echo) as probe:
        call = probe.unary_unary(text("x"), timeout=30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await probe.unary_unary(text("y"), timeout=5)).value == "y"


async def test_done_callbacks_are_called_once_with_the_call(served: Any) -> None:
    done: list[Any] = []
    async with served(unary_unary=echo) as probe:
        call = probe.unary_unary(text("x"), timeout=5)
        call.add_done_callback(done.append)
        await call
        assert done == [call]
        call.add_done_callback(done.append)
        assert done == [call, call]


async def test_the_handler_hears_of_the_end(served: Any) -> None:
    ended = asyncio.Event()

    async def handler(request: StringValue, context: Any) -> StringValue:
        context.add_done_callback(lambda _: ended.set())
        return request

    async with served(unary_unary=handler) as probe:
        await probe.unary_unary(text("x"), timeout=5)
        await ended.wait()


async def test_messages_are_not_shared(served: Any) -> None:
    kept: list[StringValue] = []

    async def handler(request: StringValue, _: Any) -> StringValue:
        kept.append(request)
        request.value += " changed"
        return request

    async with served(unary_unary=handler) as probe:
        request = text("original")
        response = await probe.unary_unary(request, timeout=5)
        assert request.value == "original"
        response.value = "mine"
        assert kept[0].value == "original changed"


async def test_a_handler_does_not_see_its_callers_context_variables(served: Any) -> None:
    async def handler(_: StringValue, __: Any) -> StringValue:
        return text(COLOUR.get())

    async with served(unary_unary=handler) as probe:
        COLOUR.set("red")
        assert (await probe.unary_unary(text("x"), timeout=5)).value == "none"


@pytest.mark.parametrize("large", ["request", "response"])
async def test_messages_are_bounded(served: Any, large: str) -> None:
    async def handler(_: StringValue, __: Any) -> StringValue:
        return text("x" * (MAX_MESSAGE_BYTES + 1) if large == "response" else "")

    async with served(unary_unary=handler) as probe:
        request = text("x" * (MAX_MESSAGE_BYTES + 1) if large == "request" else "")
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await probe.unary_unary(request, timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_of_twenty_megabytes_fits(served: Any) -> None:
    async with served(unary_unary=echo) as probe:
        body = "x" * 20_000_000
        assert (await probe.unary_unary(text(body), timeout=20)).value == body


@pytest.mark.parametrize("metadata", [(("Upper", "x"),), (("text", "\n"),), (("raw-bin", "text"),)])
async def test_metadata_that_grpc_does_not_carry_is_refused(served: Any, metadata: Any) -> None:
    async with served(unary_unary=echo) as probe:
        with pytest.raises(Exception, match=r".+") as caught:
            await probe.unary_unary(text("x"), timeout=5, metadata=metadata)
        assert not isinstance(caught.value, TimeoutError)


async def test_thousands_of_calls_at_once(served: Any) -> None:
    async with served(unary_unary=echo) as probe:
        call = probe.unary_unary
        answers = await asyncio.gather(*(call(text(str(number)), timeout=30) for number in range(3_200)))
        assert [int(answer.value) for answer in answers] == list(range(3_200))


async def test_more_than_the_server_works_on_are_refused(bare: Any) -> None:
    go_on, entered = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, _: Any) -> StringValue:
        entered.set()
        await go_on.wait()
        return request

    async with bare(maximum_concurrent_rpcs=1, unary_unary=handler) as probe:
        first = probe.unary_unary(text("1"), timeout=5)
        await entered.wait()
        with pytest.raises(grpc.aio.AioRpcError, match="Concurrent RPC limit exceeded!") as caught:
            await probe.unary_unary(text("2"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        assert (await first).value == "1"
