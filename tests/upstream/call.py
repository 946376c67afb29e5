"""What the scripted upstream remembers of a request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Call:
    """One request for a chat completion. Written by the server's loop, read by tests of any thread."""

    source: str
    """The source that the request was sent to: "scripted" or "scripted2"."""

    raw: bytes
    """The body as it came."""

    headers: dict[str, str]
    """Names in lower case."""

    attempt: int
    """Which call of its model this is since the last reset, over all sources; the first is 1."""

    body: dict[str, Any] = field(init=False)
    status: int = 0
    """Of the answer; 0 until its headers are sent."""

    chunks_sent: int = 0
    """SSE events with choices that were written."""

    completed: bool = False
    """All that the script had to say was written, [DONE] included."""

    disconnected: bool = False
    """The client went away before that."""

    ended: bool = False
    """The server is done with it, one way or the other."""

    def __post_init__(self) -> None:
        self.body = json.loads(self.raw)

    @property
    def model(self) -> str:
        """The model that the source was asked for."""
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        """A stream was asked for."""
        return bool(self.body.get("stream"))

    @property
    def api_key(self) -> str:
        """What stood after "Bearer"; empty without."""
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip()

    @property
    def trace_id(self) -> str:
        """The trace id of the ``traceparent`` header, 32 hex digits; empty without."""
        parts = self.headers.get("traceparent", "").split("-")
        return parts[1] if len(parts) == 4 else ""

    @property
    def parent_span_id(self) -> str:
        """The span id of the ``traceparent`` header: the caller's client span."""
        parts = self.headers.get("traceparent", "").split("-")
        return parts[2] if len(parts) == 4 else ""
