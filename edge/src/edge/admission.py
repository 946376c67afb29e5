"""ASGI middleware: a bound on what is under way at once."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.errors import error_response, refusal
from edge.exchange import Exchange
from tallygate.common.v1.errors_pb2 import ErrorReason

_log = structlog.get_logger(__name__)


class Admission:
    """Refuses a POST beyond ``max_inflight`` as ``unavailable``, before anything is read of it.

    Only what costs money is bounded; the health checks must answer under any load.
    """

    def __init__(self, app: ASGIApp, *, max_inflight: int) -> None:
        self._app = app
        self._max_inflight = max_inflight
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it."""
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._inflight >= self._max_inflight:
            _log.warning("full", inflight=self._inflight)
            Exchange.of(scope).error_code = "unavailable"
            await error_response(refusal(ErrorReason.ERROR_REASON_UNAVAILABLE))(scope, receive, send)
            return
        self._inflight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inflight -= 1
