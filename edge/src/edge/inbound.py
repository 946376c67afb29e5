"""Reading a request body: within a size and a time, whatever its headers claim."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from edge.errors import invalid, refusal
from edge.exchange import ClientGone
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

_MAX_LENGTH_DIGITS = 18


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        MeshError: REQUEST_TOO_LARGE, INVALID_REQUEST when it does not arrive in time.
        ClientGone: the client went before it had sent it all.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise invalid(f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is.")
    declared = request.headers.get("content-length", "0")
    if len(declared) > _MAX_LENGTH_DIGITS or (declared.isdecimal() and int(declared) > max_bytes):
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes)
    except TimeoutError as error:
        raise invalid(f"The request body did not arrive within {timeout_s:g} seconds.") from error
    except ClientDisconnect as error:
        raise ClientGone from error


async def _read(request: Request, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(max_bytes: int) -> MeshError:
    return refusal(
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
        f"The request body is larger than the {max_bytes} bytes that are allowed. Send a smaller one.",
    )
