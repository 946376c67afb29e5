"""Reading a request body: within a size and a time, whatever its headers claim."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import Receive

from edge.begun import Begun
from edge.errors import invalid, refusal
from edge.exchange import ClientGone
from edge.wire.header_lines import HeaderLines
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason

_MAX_LENGTH_DIGITS = 18


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        MeshError: REQUEST_TOO_LARGE, INVALID_REQUEST when it does not arrive in time.
        ClientGone: the client went before it had sent it all.
    """
    lines = HeaderLines.of(request.scope)
    encoding = lines.first(b"content-encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise invalid(f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is.")
    declared = lines.first(b"content-length") or "0"
    if len(declared) > _MAX_LENGTH_DIGITS or (declared.isdecimal() and int(declared) > max_bytes):
        raise _too_large(max_bytes)
    reading = Begun(_read(request.receive, max_bytes))
    if reading.done:  # most often it came with the headers
        return reading.result
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except TimeoutError as error:
        raise invalid(f"The request body did not arrive within {timeout_s:g} seconds.") from error


async def _read(receive: Receive, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(max_bytes: int) -> MeshError:
    return refusal(
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
        f"The request body is larger than the {max_bytes} bytes that are allowed. Send a smaller one.",
    )
