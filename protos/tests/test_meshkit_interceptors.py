"""Interceptors in the form of ``grpc.aio``: the same objects on every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshkit.incoming import Incoming
from meshkit.telemetry import Telemetry


def text(value: object) -> StringValue:
    return StringValue(value=str(value))


async def greet(request: StringValue, context: Any) -> StringValue:
    metadata = dict(context.invocation_metadata())
    return text(f"{request.value}{metadata.get('who', '')}")


async def repeat(request: StringValue, _: Any) -> AsyncIterator[StringValue]:
    yield request
    yield request


async def collect(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
    return text("".join([request.value async for request in requests]))


async def shout(requests: AsyncIterator[StringValue], _: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield text(request.value.upper())


class AddsWho(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, who: str) -> None:
        self._who = who

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = client_call_details.metadata
        metadata["who"] = (metadata.get("who") or "") + self._who
        return await continuation(client_call_details._replace(metadata=metadata), request)


class Answers(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return text("mine")


class Fails(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        raise grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, details="no way")


class Lingers(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Brackets(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)

        async def bracketed() -> AsyncIterator[StringValue]:
            yield text("(")
            async for response in call:
                yield response
            yield text(")")

        return bracketed()


class Doubles(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        async def doubled() -> AsyncIterator[StringValue]:
            async for request in request_iterator:
                yield text(request.value * 2)

        return await continuation(client_call_details, doubled())


class Passes(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(client_call_details, request_iterator)


class Logs(grpc.aio.ServerInterceptor):
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self._log.append(f"{self._name} {handler_call_details.method}")
        return await continuation(handler_call_details)


class Refuses(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)

        async def refuse(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"not you, {metadata['who']}")

        return grpc.unary_unary_rpc_method_handler(refuse)


class Breaks(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise ValueError("broken")


class Hides(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return None


takes_interceptors = pytest.mark.parametrize("transport", ["local", "unix", "tcp"])
"""The mesh has no client interceptors, so the channel of the exchange takes none."""


@takes_interceptors
async def test_client_interceptors_run_in_order_and_may_change_the_call(bare: Any) -> None:
    async with bare(client_interceptors=[AddsWho("a"), AddsWho("b")], unary_unary=greet) as probe:
        call = probe.unary_unary(text("hi "), timeout=5)
        assert (await call).value == "hi ab"
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        assert not call.cancelled()


@takes_interceptors
async def test_a_client_interceptor_may_answer_itself(bare: Any) -> None:
    async with bare(client_interceptors=[AddsWho("a"), Answers()], unary_unary=greet) as probe:
        call = probe.unary_unary(text("hi "), timeout=5)
        assert (await call).value == "mine"
        assert await call.code() is grpc.StatusCode.OK


@takes_interceptors
async def test_a_client_interceptor_may_fail_the_call(bare: Any) -> None:
    async with bare(client_interceptors=[Fails()], unary_unary=greet) as probe:
        call = probe.unary_unary(text("hi "), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match="no way"):
            await call
        assert await call.code() is grpc.StatusCode.ABORTED
        assert await call.details() == "no way"
        assert call.done()


@takes_interceptors
async def test_cancelling_reaches_a_client_interceptor(bare: Any) -> None:
    lingers = Lingers()
    async with bare(client_interceptors=[lingers], unary_unary=greet) as probe:
        call = probe.unary_unary(text("hi "), timeout=5)
        waiting = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not call.done()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await lingers.cancelled.wait()
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert not call.cancel()


@takes_interceptors
async def test_done_callbacks_of_an_intercepted_call(bare: Any) -> None:
    done: list[Any] = []
    async with bare(client_interceptors=[AddsWho("a")], unary_unary=greet) as probe:
        call = probe.unary_unary(text(""), timeout=5)
        call.add_done_callback(done.append)
        await call
        assert done == [call]


@takes_interceptors
async def test_a_stream_of_responses_may_be_wrapped(bare: Any) -> None:
    async with bare(client_interceptors=[Brackets()], unary_stream=repeat) as probe:
        call = probe.unary_stream(text("x"), timeout=5)
        assert [response.value async for response in call] == ["(", "x", "x", ")"]
        read = probe.unary_stream(text("y"), timeout=5)
        assert [(await read.read()).value for _ in range(4)] == ["(", "y", "y", ")"]
        assert await read.read() is grpc.aio.EOF


@takes_interceptors
async def test_a_stream_of_requests_may_be_wrapped(bare: Any) -> None:
    async with bare(client_interceptors=[Doubles()], stream_unary=collect) as probe:
        assert (await probe.stream_unary(requests("ab"), timeout=5)).value == "aabb"
        call = probe.stream_unary(timeout=5)
        for letter in "cd":
            await call.write(text(letter))
        await call.done_writing()
        assert (await call).value == "ccdd"


async def requests(letters: str) -> AsyncIterator[StringValue]:
    for letter in letters:
        yield text(letter)


@takes_interceptors
async def test_a_conversation_through_an_interceptor(bare: Any) -> None:
    async with bare(client_interceptors=[Passes()], stream_stream=shout) as probe:
        call = probe.stream_stream(timeout=5)
        for letter in "abc":
            await call.write(text(letter))
            assert (await call.read()).value == letter.upper()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_watch_that_is_interrupted_while_it_writes_tells_its_client(bare: Any, writes: int) -> None:
    incoming = Incoming(Telemetry.off().tracer)

    async def watch(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
        for n in range(1, writes + 1):
            if n == writes:  # runs when this handler next waits, which is for the write below
                asyncio.get_running_loop().call_soon(incoming.end_watches)
            yield text(n)
        await asyncio.Event().wait()

    async with bare(server_interceptors=[incoming], WatchThings__unary_stream=watch) as probe, asyncio.timeout(10):
        call = probe.call("WatchThings", "unary_stream")(StringValue(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError, match="going away") as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_server_interceptors_run_in_order(bare: Any) -> None:
    log: list[str] = []
    async with bare(server_interceptors=[Logs("first", log), Logs("second", log)], unary_unary=greet) as probe:
        await probe.unary_unary(text("x"), timeout=5)
    assert log == ["first /test.Probe/unary_unary", "second /test.Probe/unary_unary"]


async def test_a_server_interceptor_may_refuse(bare: Any) -> None:
    async with bare(server_interceptors=[Refuses()], unary_unary=greet) as probe:
        with pytest.raises(grpc.aio.AioRpcError, match="not you, me") as caught:
            await probe.unary_unary(text("x"), timeout=5, metadata=(("who", "me"),))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_interceptor_that_breaks_ends_the_call(bare: Any) -> None:
    async with bare(server_interceptors=[Breaks()], unary_unary=greet) as probe:
        assert await probe.unary_unary(text("x"), timeout=5).code() is grpc.StatusCode.UNKNOWN


async def test_a_server_interceptor_may_hide_a_method(bare: Any) -> None:
    async with bare(server_interceptors=[Hides()], unary_unary=greet) as probe:
        assert await probe.unary_unary(text("x"), timeout=5).code() is grpc.StatusCode.UNIMPLEMENTED
