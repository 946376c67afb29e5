"""One path for errors, from a domain exception to what the caller of the service catches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import MAX_MESSAGE_CHARS, STATUS_OF_REASON, ErrorTable, MeshError, maps_errors, mesh_errors, refuse
from meshkit.testing import linked
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason

INVALID = ErrorReason.ERROR_REASON_INVALID_REQUEST
INTERNAL = ErrorReason.ERROR_REASON_INTERNAL


class TooLittleError(Exception):
    def __init__(self, missing: str) -> None:
        super().__init__(f"{missing} is missing")
        self.metadata = {"missing_usd": missing}


class FarTooLittleError(TooLittleError):
    pass


class RefusedError(Exception):
    pass


TABLE: ErrorTable = {
    TooLittleError: (grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE),
    RefusedError: (grpc.StatusCode.INVALID_ARGUMENT, INVALID),
}


class Servicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Raises what the request names."""

    raised: ClassVar[dict[str, Exception]] = {
        "mapped": TooLittleError("0.5"),
        "subclass": FarTooLittleError("1"),
        "plain": RefusedError("no"),
        "mesh": MeshError(ErrorReason.ERROR_REASON_CACHE_MISS, "none stored", metadata={"tier": "exact"}),
        "unknown": KeyError("a secret"),
        "long": RefusedError("é" * 100_000),
        "timeout": TimeoutError("mine"),
        "peer": grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, details="ipv4:10.0.0.7:7003 refused"),
    }

    async def GetSnapshot(self, request: Any, context: Any) -> catalog_pb2.GetSnapshotResponse:
        if request.revision in self.raised:
            raise self.raised[request.revision]
        if request.revision == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "as it is")
        if request.revision == "refuse":
            await refuse(context, MeshError(INVALID, "refused"))
        return catalog_pb2.GetSnapshotResponse()

    async def WatchSnapshot(self, request: Any, context: Any) -> AsyncIterator[catalog_pb2.WatchSnapshotResponse]:
        yield catalog_pb2.WatchSnapshotResponse()
        raise self.raised[request.known_revision]


@maps_errors(TABLE)
class Mapped(Servicer):
    """Its methods are inherited, and covered all the same."""


@pytest.fixture
async def stub(transport: str) -> AsyncIterator[Any]:
    def register(server: grpc.aio.Server) -> None:
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(Mapped(), server)

    async with linked(register, transport) as channel:
        yield catalog_pb2_grpc.CatalogServiceStub(channel)


CASES = {
    "mapped": (
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
        "0.5 is missing",
        {"missing_usd": "0.5"},
    ),
    "subclass": (
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
        "1 is missing",
        {"missing_usd": "1"},
    ),
    "plain": (grpc.StatusCode.INVALID_ARGUMENT, INVALID, "no", {}),
    "mesh": (grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_CACHE_MISS, "none stored", {"tier": "exact"}),
    "unknown": (grpc.StatusCode.INTERNAL, INTERNAL, "internal error", {}),
    "long": (grpc.StatusCode.INVALID_ARGUMENT, INVALID, "é" * MAX_MESSAGE_CHARS, {}),
    "timeout": (grpc.StatusCode.INTERNAL, INTERNAL, "internal error", {}),
    "peer": (
        grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_UNAVAILABLE,
        "a service that this needs is not available",
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_exception_arrives_with_its_reason(stub: Any, case: str) -> None:
    with pytest.raises(MeshError) as caught, mesh_errors():
        await stub.GetSnapshot(catalog_pb2.GetSnapshotRequest(revision=case), timeout=5)
    error = caught.value
    assert (error.status, error.reason, error.message, error.metadata) == CASES[case]


@pytest.mark.parametrize("case", CASES)
async def test_and_so_it_does_from_the_middle_of_a_stream(stub: Any, case: str) -> None:
    call = stub.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(known_revision=case), timeout=5)
    arrived = 0
    with pytest.raises(MeshError) as caught, mesh_errors():
        async for _ in call:
            arrived += 1
    error = caught.value
    assert arrived == 1
    assert (error.status, error.reason, error.message, error.metadata) == CASES[case]


async def test_an_unexpected_exception_is_logged_once(stub: Any, captured_logs: list[Any]) -> None:
    await stub.GetSnapshot(catalog_pb2.GetSnapshotRequest(revision="unknown"), timeout=5).code()
    errors = [log for log in captured_logs if log["log_level"] == "error"]
    assert [(log["event"], type(log["exc_info"])) for log in errors] == [("unexpected_error", KeyError)]


async def test_an_abort_stays_as_it_is(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="as it is") as caught:
        await stub.GetSnapshot(catalog_pb2.GetSnapshotRequest(revision="abort"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(MeshError, match="refused"), mesh_errors():
        await stub.GetSnapshot(catalog_pb2.GetSnapshotRequest(revision="refuse"), timeout=5)


async def test_a_method_that_was_not_written_is_unimplemented(transport: str) -> None:
    @maps_errors(TABLE)
    class Empty(catalog_pb2_grpc.CatalogServiceServicer):
        pass

    empty: Any = Empty

    def register(server: grpc.aio.Server) -> None:
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(empty(), server)

    async with linked(register, transport) as channel:
        stub: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        unary = stub.GetSnapshot(catalog_pb2.GetSnapshotRequest(), timeout=5)
        stream = stub.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(), timeout=5)
        assert await unary.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_cancellation_is_no_error() -> None:
    @maps_errors(TABLE)
    class Cancelled(Servicer):
        async def GetSnapshot(self, request: Any, context: Any) -> catalog_pb2.GetSnapshotResponse:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Cancelled().GetSnapshot(None, None)


def test_an_rpc_that_is_not_async_is_refused() -> None:
    with pytest.raises(TypeError, match="GetSnapshot is not async"):

        @maps_errors(TABLE)
        class Wrong(catalog_pb2_grpc.CatalogServiceServicer):
            def GetSnapshot(self, request: Any, context: Any) -> Any:
                return None


def test_every_reason_has_a_status() -> None:
    assert set(STATUS_OF_REASON) == set(ErrorReason.values())


class _Aborted(Exception):
    pass


class _Context:
    """Keeps what a call was ended with."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        metadata = grpc.aio.Metadata(*trailing_metadata)
        self.error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)
        raise _Aborted


reasons = st.sampled_from(sorted(set(ErrorReason.values()) - {0}))


@given(
    reasons,
    st.text(max_size=MAX_MESSAGE_CHARS),
    st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=3),
)
async def test_a_refusal_survives_the_wire(
    reason: ErrorReason.ValueType, message: str, status: grpc.StatusCode, metadata: dict[str, str]
) -> None:
    context = _Context()
    sent = MeshError(reason, message, status=status, metadata=metadata)
    with pytest.raises(_Aborted):
        await refuse(context, sent)
    received = MeshError.of(context.error)
    assert (received.reason, received.message, received.status, received.metadata) == (
        reason,
        message,
        status,
        metadata,
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
        (grpc.StatusCode.UNIMPLEMENTED, INTERNAL),
        (grpc.StatusCode.UNKNOWN, INTERNAL),
    ],
)
def test_an_error_of_the_transport_keeps_its_text_to_itself(
    code: grpc.StatusCode, reason: ErrorReason.ValueType
) -> None:
    raw = grpc.aio.AioRpcError(code, details="ipv4:10.0.0.7:7003")
    error = MeshError.of(raw)
    assert (error.reason, error.status) == (reason, code)
    assert "10.0.0.7" not in error.message


@pytest.mark.parametrize("details", [b"\xff\xff\xff", b""])
def test_details_that_are_not_ours_are_passed_over(details: bytes) -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", details))
    raw = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, "x")
    assert MeshError.of(raw).reason == INTERNAL


async def test_other_exceptions_pass_through_mesh_errors() -> None:
    with pytest.raises(KeyError), mesh_errors():
        raise KeyError("x")
    with mesh_errors():
        assert StringValue(value="fine").value == "fine"
