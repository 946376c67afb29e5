"""What the mesh adds to a transport: deadlines that travel, traces, health, a graceful end. The same on every
transport."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from meshkit.channels import Dialer
from meshkit.deadlines import deadline, remaining_s
from meshkit.errors import MeshError
from meshkit.local import LocalNetwork
from meshkit.serve import Register, running
from meshkit.telemetry import Telemetry, current_trace_id
from meshkit.testing import SpanCollector, address_on, dialer_on, linked
from tallygate.common.v1.errors_pb2 import ErrorReason

REQUIRED = ErrorReason.ERROR_REASON_DEADLINE_REQUIRED


def text(value: object = "") -> StringValue:
    return StringValue(value=str(value))


async def echo(request: StringValue, _: Any) -> StringValue:
    return request


class Mesh:
    """Services on one transport that dial each other."""

    def __init__(self, transport: str, folder: str, stack: AsyncExitStack) -> None:
        self.network = LocalNetwork()
        self.spans = SpanCollector()
        self.transport = transport
        self._folder = folder
        self._stack = stack

    def address(self, name: str) -> str:
        return address_on(self.transport, name, self._folder)

    async def dialer(self, name: str) -> Dialer:
        return await self._stack.enter_async_context(
            dialer_on(self.transport, self.spans.telemetry(f"{name}-out"), self.network)
        )

    async def serve(self, name: str, register: Register) -> str:
        telemetry = self.spans.telemetry(name)
        service = running(register, self.address(name), telemetry, local=self.network, drain_s=5)
        return await self._stack.enter_async_context(service)


@pytest.fixture
async def mesh(transport: str) -> AsyncIterator[Mesh]:
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        async with AsyncExitStack() as stack:
            yield Mesh(transport, folder, stack)


def unary(channel: grpc.aio.Channel) -> Callable[..., Any]:
    call: Callable[..., Any] = channel.unary_unary(
        "/test.Probe/unary_unary", StringValue.SerializeToString, StringValue.FromString
    )
    return call


def stream(channel: grpc.aio.Channel, method: str = "unary_stream") -> Callable[..., Any]:
    call: Callable[..., Any] = channel.unary_stream(
        f"/test.Probe/{method}", StringValue.SerializeToString, StringValue.FromString
    )
    return call


class TestDeadlines:
    async def test_a_call_without_one_never_leaves(self, served: Any) -> None:
        calls = []

        async def handler(request: StringValue, _: Any) -> StringValue:
            calls.append(request)
            return request

        async with served(unary_unary=handler) as probe:
            with pytest.raises(MeshError, match="without a timeout") as caught:
                await probe.unary_unary(text())
            assert caught.value.reason == REQUIRED
            assert calls == []

    async def test_a_call_that_arrives_without_one_is_refused(self, mesh: Mesh, registering: Any) -> None:
        address = await mesh.serve("a", registering(unary_unary=echo, unary_stream=echo))
        async with plain_channel(mesh, address) as channel:
            for call in (unary(channel)(text()), stream(channel)(text())):
                code = await call.code()
                assert code is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel)(text())
            assert MeshError.of(caught.value).reason == REQUIRED

    async def test_the_nearer_of_timeout_and_surrounding_deadline_counts(self, served: Any) -> None:
        async with served(unary_unary=echo) as probe:
            with deadline(5):
                assert probe.unary_unary(text()).time_remaining() <= 5
                assert probe.unary_unary(text(), timeout=1).time_remaining() <= 1
                call = probe.unary_unary(text(), timeout=60)
                assert call.time_remaining() <= 5
                with deadline(60, detached=True):
                    assert probe.unary_unary(text()).time_remaining() > 50
                await call

    async def test_the_servers_call_bounds_what_the_handler_calls(self, mesh: Mesh, registering: Any) -> None:
        seen: dict[str, float | None] = {}

        async def last(request: StringValue, context: Any) -> StringValue:
            seen["last"] = context.time_remaining()
            return request

        async def first(request: StringValue, _: Any) -> StringValue:
            seen["first"] = remaining_s()
            response: StringValue = await unary(dial(last_address))(request)
            return response

        last_address = await mesh.serve("last", registering(unary_unary=last))
        first_address = await mesh.serve("first", registering(unary_unary=first))
        dial = await mesh.dialer("first")
        await unary((await mesh.dialer("client"))(first_address))(text(), timeout=30)
        assert seen["first"] is not None
        assert seen["last"] is not None
        assert 25 < seen["first"] < 31
        assert 25 < seen["last"] < 31

    async def test_an_expired_call_cancels_the_whole_chain(self, mesh: Mesh, registering: Any) -> None:
        ended = asyncio.Event()

        async def last(request: StringValue, _: Any) -> StringValue:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return request

        async def first(request: StringValue, _: Any) -> StringValue:
            response: StringValue = await unary(dial(last_address))(request)
            return response

        last_address = await mesh.serve("last", registering(unary_unary=last))
        first_address = await mesh.serve("first", registering(unary_unary=first))
        dial = await mesh.dialer("first")
        call = unary((await mesh.dialer("client"))(first_address))(text(), timeout=0.2)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended.wait()

    async def test_a_servers_own_surroundings_do_not_bound_its_handlers(self, transport: str, registering: Any) -> None:
        async def handler(_: StringValue, __: Any) -> StringValue:
            return text(remaining_s())

        with deadline(1):
            async with linked(registering(unary_unary=handler), transport) as channel:
                with deadline(60, detached=True):
                    assert float((await unary(channel)(text())).value) > 50


class TestTraces:
    async def test_go_through_two_hops_and_a_stream(self, mesh: Mesh, registering: Any) -> None:
        async def last(request: StringValue, _: Any) -> StringValue:
            return text(f"{request.value} {current_trace_id()}")

        async def first(request: StringValue, _: Any) -> AsyncIterator[StringValue]:
            yield text(current_trace_id())
            yield await unary(dial(last_address))(request, timeout=5)
            with tracer.start_as_current_span("inside"):
                yield text("between")
                yield await unary(dial(last_address))(request, timeout=5)
            yield text(current_trace_id())

        last_address = await mesh.serve("last", registering(unary_unary=last))
        first_address = await mesh.serve("first", registering(unary_stream=first))
        dial = await mesh.dialer("first")
        tracer = mesh.spans.telemetry("first-inside").tracer
        client = mesh.spans.telemetry("client")
        async with dialer_on(mesh.transport, client, mesh.network) as client_dial:
            with client.tracer.start_as_current_span("root") as root:
                answers = [r.value async for r in stream(client_dial(first_address))(text("x"), timeout=5)]
        trace_id = format(root.get_span_context().trace_id, "032x")
        assert answers == [trace_id, f"x {trace_id}", "between", f"x {trace_id}", trace_id]

        await ended_spans(mesh, 8)
        assert family(mesh) == {
            ("root", "INTERNAL", "client", None),
            ("test.Probe/unary_stream", "CLIENT", "client", "root INTERNAL"),
            ("test.Probe/unary_stream", "SERVER", "first", "test.Probe/unary_stream CLIENT"),
            ("inside", "INTERNAL", "first-inside", "test.Probe/unary_stream SERVER"),
            ("test.Probe/unary_unary", "CLIENT", "first-out", "test.Probe/unary_stream SERVER"),
            ("test.Probe/unary_unary", "CLIENT", "first-out", "inside INTERNAL"),
            ("test.Probe/unary_unary", "SERVER", "last", "test.Probe/unary_unary CLIENT"),
        }
        assert {span.context.trace_id for span in mesh.spans.finished() if span.context} == {
            root.get_span_context().trace_id
        }

    @pytest.mark.parametrize(
        ("code", "is_fault"), [(grpc.StatusCode.NOT_FOUND, False), (grpc.StatusCode.DATA_LOSS, True)]
    )
    async def test_record_how_an_aborted_call_ended(
        self, mesh: Mesh, registering: Any, code: grpc.StatusCode, is_fault: bool
    ) -> None:
        async def handler(_: StringValue, context: Any) -> StringValue:
            await context.abort(code, "why")
            raise AssertionError("unreachable")

        address = await mesh.serve("server", registering(unary_unary=handler))
        dial = await mesh.dialer("client")
        assert await unary(dial(address))(text(), timeout=5).code() is code
        client, server = await ended_spans(mesh, 2)
        for span in (client, server):
            assert dict(span.attributes or {}) == {
                "rpc.system.name": "grpc",
                "rpc.method": "test.Probe/unary_unary",
                "rpc.response.status_code": code.name,
            }
        assert (client.status.status_code, client.status.description) == (StatusCode.ERROR, "why")
        assert server.status.status_code is (StatusCode.ERROR if is_fault else StatusCode.UNSET)

    async def test_record_exceptions_and_cancellation(self, mesh: Mesh, registering: Any) -> None:
        entered = asyncio.Event()

        async def fails(_: StringValue, __: Any) -> StringValue:
            raise ValueError("boom")

        async def hangs(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
            yield text()
            entered.set()
            await asyncio.Event().wait()

        address = await mesh.serve("server", registering(unary_unary=fails, unary_stream=hangs))
        channel = (await mesh.dialer("client"))(address)
        assert await unary(channel)(text(), timeout=5).code() is grpc.StatusCode.INTERNAL
        call = stream(channel)(text(), timeout=5)
        await call.read()
        await entered.wait()
        call.cancel()
        spans = await ended_spans(mesh, 4)
        recorded = {
            (s.name[-6:], s.kind.name, a["rpc.response.status_code"], a.get("error.type"))
            for s in spans
            if (a := s.attributes)
        }
        assert recorded == {
            ("_unary", "CLIENT", "INTERNAL", None),
            ("_unary", "SERVER", "INTERNAL", "ValueError"),
            ("stream", "CLIENT", "CANCELLED", None),
            ("stream", "SERVER", "CANCELLED", "CancelledError"),
        }

    async def test_go_on_where_nothing_is_recorded(self, transport: str, registering: Any) -> None:
        async def handler(_: StringValue, __: Any) -> StringValue:
            return text(current_trace_id())

        off = Telemetry.off()
        async with linked(registering(unary_unary=handler), transport, telemetry=off) as channel:
            with off.tracer.start_as_current_span("root"):
                here = current_trace_id()
                assert (await unary(channel)(text(), timeout=5)).value == here
            alone = (await unary(channel)(text(), timeout=5)).value
            assert len(here) == 32
            assert len(alone) == 32
            assert here != alone
            assert current_trace_id() == ""

    async def test_keep_the_callers_decision_to_sample(self, transport: str, registering: Any) -> None:
        sampled: list[bool] = []

        async def handler(request: StringValue, _: Any) -> StringValue:
            sampled.append(trace.get_current_span().get_span_context().trace_flags.sampled)
            return request

        async with linked(registering(unary_unary=handler), transport, telemetry=Telemetry.off()) as channel:
            collector = SpanCollector()
            with collector.telemetry("x").tracer.start_as_current_span("sampled"):
                await unary(channel)(text(), timeout=5)
            await unary(channel)(text(), timeout=5)
        assert sampled == [True, False]


class TestInfrastructure:
    async def test_probes_need_no_deadline_and_leave_no_span(self, mesh: Mesh, registering: Any) -> None:
        address = await mesh.serve("server", registering(unary_unary=echo))
        async with plain_channel(mesh, address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs know no methods
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert mesh.spans.finished() == []


@asynccontextmanager
async def plain_channel(mesh: Mesh, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of someone who knows nothing of the mesh."""
    scheme, _, rest = address.partition("://")
    channel: grpc.aio.Channel
    if scheme == "local":
        channel = mesh.network.channel(rest)
    else:
        channel = grpc.aio.insecure_channel(f"unix:{rest}" if scheme == "unix" else rest)
    async with channel:
        yield channel


async def ended_spans(mesh: Mesh, number: int) -> list[Any]:
    """The spans, by start, once so many have ended: the server's may end after its client has the answer."""
    while len(mesh.spans.finished()) < number:  # noqa: ASYNC110 - an exporter has no event to wait for
        await asyncio.sleep(0.005)
    assert len(mesh.spans.finished()) == number
    return mesh.spans.finished()


def family(mesh: Mesh) -> set[tuple[str, str, str, str | None]]:
    """Name, kind, service and parent of each span."""
    spans = mesh.spans.finished()
    names = {span.context.span_id: f"{span.name} {SpanKind(span.kind).name}" for span in spans if span.context}
    return {
        (
            span.name,
            SpanKind(span.kind).name,
            str(span.resource.attributes["service.name"]),
            None if span.parent is None else names[span.parent.span_id],
        )
        for span in spans
    }
