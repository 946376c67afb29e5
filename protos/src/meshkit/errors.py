"""One path for errors: a domain exception becomes (status, ErrorReason) in the servicer's table, travels as
``google.rpc.ErrorInfo`` and arrives at the caller as a ``MeshError`` with the same reason.

Server side: decorate the servicer class with ``maps_errors(TABLE)``. Client side: ``with mesh_errors():`` round a
call, or ``MeshError.of(exc)`` on a caught ``grpc.aio.AioRpcError``. Source of the form: https://google.aip.dev/193.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tallygate.common.v1.errors_pb2 import ErrorReason

ErrorTable = Mapping[type[Exception], tuple[grpc.StatusCode, "ErrorReason.ValueType"]]
"""For each domain exception the status and the reason that callers see."""

DOMAIN = "tallygate"
_PREFIX = "ERROR_REASON_"
_DETAILS_KEY = "grpc-status-details-bin"

ROLE = "role"
"""Key in the metadata of an UNAVAILABLE: this replica is not the one that serves such calls. "standby": nothing was
done, another replica leads. "leaving": it ends, and what became of the call is not known."""

MAX_MESSAGE_CHARS = 4_000
"""A message travels twice, escaped, in metadata that the transport bounds (see transport.MAX_METADATA_BYTES)."""

STATUS_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
"""Statuses by the numbers that travel."""

_log = structlog.get_logger(__name__)

C = TypeVar("C", bound=type)


class MeshError(Exception):
    """A refusal as it crosses services.

    ``message`` is meant for the caller; ``metadata`` carries facts of it (``param``, amounts as decimal strings).
    ``status`` is the one that belongs to the reason, unless given.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        status: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.status = STATUS_OF_REASON.get(reason, grpc.StatusCode.UNKNOWN) if status is None else status
        self.metadata = dict(metadata or {})

    @classmethod
    def of(cls, error: grpc.RpcError) -> MeshError:
        """The refusal that a failed call carries.

        Without ErrorInfo, the nearest reason for its status; the text is then a transport's, names hosts, and is not
        taken over.
        """
        failed: Any = error  # the stubs give RpcError the metadata of the threaded API
        code: grpc.StatusCode = failed.code()
        info = error_info(failed.trailing_metadata() or ())
        if info is not None:
            name = _PREFIX + info.reason
            known = name in dict(ErrorReason.items())
            reason = ErrorReason.Value(name) if known else ErrorReason.ERROR_REASON_INTERNAL
            return cls(reason, failed.details() or "", status=code, metadata=info.metadata)
        reason, message = _WITHOUT_INFO.get(code, (ErrorReason.ERROR_REASON_INTERNAL, "internal error"))
        return cls(reason, message, status=code)


_UNREACHABLE = (ErrorReason.ERROR_REASON_UNAVAILABLE, "a service that this needs is not available")
_WITHOUT_INFO = {
    grpc.StatusCode.UNAVAILABLE: _UNREACHABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _UNREACHABLE,
    grpc.StatusCode.CANCELLED: _UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
        "the deadline passed before the answer",
    ),
}

STATUS_OF_REASON: Mapping[ErrorReason.ValueType, grpc.StatusCode] = {
    ErrorReason.ERROR_REASON_UNSPECIFIED: grpc.StatusCode.UNKNOWN,
    ErrorReason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    ErrorReason.ERROR_REASON_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_DEADLINE_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorReason.ERROR_REASON_INVALID_API_KEY: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_API_KEY_REVOKED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_MODEL_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorReason.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorReason.ERROR_REASON_PRICE_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_NO_SOURCE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_BUDGET_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_HOLD_CLOSED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_UPSTREAM_ERROR: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_UPSTREAM_REJECTED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_CACHE_MISS: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE: grpc.StatusCode.ABORTED,
    ErrorReason.ERROR_REASON_ANSWER_GONE: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_UPSTREAM_KEY_REJECTED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_PAYMENTS_NOT_CONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
}
"""The status that goes with a reason where nobody chose another. Callers decide by the reason; the status is for
tools."""


class mesh_errors:
    """Raises the ``MeshError`` of a call that fails inside. A context manager, sync."""

    # A class, because it is entered on every call, where a generator costs three times as much.
    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.RpcError):
            raise MeshError.of(error) from error


def maps_errors(table: ErrorTable) -> Callable[[C], C]:
    """Class decorator: every RPC of the servicer turns exceptions of ``table`` (or subclasses) into a status with
    ErrorInfo.

    ``str(exception)`` is the message sent; an attribute ``metadata: Mapping[str, str]`` is sent along. ``MeshError``
    passes as it is, and so does the refusal of a service called by this one. Anything else is INTERNAL: logged with
    its traceback, its text never sent. RPCs that a base class brings are covered too, those that nobody wrote stay
    UNIMPLEMENTED.

    Raises:
        TypeError: an RPC of the class is not async.
    """

    def decorate(cls: C) -> C:
        for name in dir(cls):
            method = getattr(cls, name)
            if not name[:1].isupper() or not inspect.isfunction(method):
                continue
            if inspect.isasyncgenfunction(method):
                setattr(cls, name, _wrap_stream(method, table))
            elif inspect.iscoroutinefunction(method):
                setattr(cls, name, _wrap_unary(method, table))
            elif name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name} is not async")
        return cls

    return decorate


def _wrap_unary(method: Callable[..., Any], table: ErrorTable) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary where all of them become a status
            await abort(context, error, table)

    return call


def _wrap_stream(method: Callable[..., Any], table: ErrorTable) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(method(self, request, context)) as responses:
                async for response in responses:
                    yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary where all of them become a status
            await abort(context, error, table)

    return call


async def abort(context: Any, error: Exception, table: ErrorTable) -> NoReturn:
    """Ends the call with the status, reason and metadata of ``error``."""
    refusal = _refusal(error, table)
    if refusal is None:
        _log.error("unexpected_error", exc_info=error)
        refusal = MeshError(ErrorReason.ERROR_REASON_INTERNAL, "internal error")
    await refuse(context, refusal)


async def refuse(context: Any, refusal: MeshError) -> NoReturn:
    """Ends the call with ``refusal``."""
    message = refusal.message[:MAX_MESSAGE_CHARS]
    details = _status_details(refusal.status, refusal.reason, message, refusal.metadata)
    await context.abort(refusal.status, message, details)
    raise AssertionError("abort returned")


def _refusal(error: Exception, table: ErrorTable) -> MeshError | None:
    """What callers are told of ``error``; None where it is nothing that they should know."""
    if isinstance(error, MeshError):
        return error
    for kind in type(error).__mro__:
        if kind in table:
            status, reason = table[kind]
            return MeshError(reason, str(error), status=status, metadata=getattr(error, "metadata", None))
    return MeshError.of(error) if isinstance(error, grpc.aio.AioRpcError) else None


def _status_details(
    status: grpc.StatusCode, reason: ErrorReason.ValueType, message: str, metadata: Mapping[str, str]
) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries ``google.rpc.Status`` with ErrorInfo."""
    info = error_details_pb2.ErrorInfo(
        reason=ErrorReason.Name(reason).removeprefix(_PREFIX), domain=DOMAIN, metadata=metadata
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    rich = status_pb2.Status(code=code_pb2.Code.Value(status.name), message=message, details=[detail])
    return ((_DETAILS_KEY, rich.SerializeToString()),)


def error_info(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> error_details_pb2.ErrorInfo | None:
    """What the service itself says of its refusal; None where the transport ended the call."""
    for key, value in trailing_metadata:
        info = _decoded_info(value) if key == _DETAILS_KEY else None
        if info is not None:
            return info
    return None


def _decoded_info(value: str | bytes) -> error_details_pb2.ErrorInfo | None:
    try:
        rich = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode("latin-1"))
    except DecodeError:
        return None
    for detail in rich.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
