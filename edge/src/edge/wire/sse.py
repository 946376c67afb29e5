"""Server-sent events as OpenAI sends them: ``data: JSON``, a blank line, and ``data: [DONE]`` at the end.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from edge.wire.header_lines import Lines

MEDIA_TYPE = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_BETWEEN = b"\n\ndata: "
_BREAKS = _BETWEEN.count(b"\n")
HEADERS: Lines = [
    (b"cache-control", b"no-cache"),
    # nginx and what follows it buffer a response otherwise, and the stream arrives in one piece at the end.
    (b"x-accel-buffering", b"no"),
]


def frames(payloads: Sequence[bytes]) -> bytes:
    """The frames of several payloads, in one piece."""
    if not payloads:
        return b""
    together = _BETWEEN.join(payloads)
    if b"\r" in together or together.count(b"\n") != _BREAKS * (len(payloads) - 1):
        together = _BETWEEN.join([_one_line(payload) for payload in payloads])
    return b"data: %b\n\n" % together


def _one_line(payload: bytes) -> bytes:
    # A line break would end the event's line. In JSON it can only stand between tokens, where a space means the same.
    return payload.replace(b"\r", b" ").replace(b"\n", b" ")


def error_frame(body: Mapping[str, Any]) -> bytes:
    """The frame of an error that comes after the stream has begun. No ``[DONE]`` follows."""
    return b"event: error\ndata: " + orjson.dumps(body) + b"\n\n"
