"""An answer that is there as a whole."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from edge.wire.header_lines import Lines

JSON = b"application/json"


class Answer:
    """Status 200, ``body``, and ``headers`` as they are sent. Starlette's response makes its own of a dict, at five
    times the cost.
    """

    __slots__ = ("_body", "_headers")

    def __init__(self, body: bytes, headers: Lines, media_type: bytes = JSON) -> None:
        self._body = body
        self._headers = [*headers, (b"content-length", b"%d" % len(body)), (b"content-type", media_type)]

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Sends it."""
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})
