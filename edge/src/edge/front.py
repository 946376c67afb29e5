"""The ASGI application: a request goes to its route by as few steps as there can be.

FastAPI holds the table of routes, describes them, and finds those that have parameters in their path. For the others,
those that call models among them, its way from the middleware to the route is a dozen layers, through which every
step of a request and every message of its answer passes; they are looked up here instead, in an index of that table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.errors import code_of, error_response
from edge.exchange import Exchange
from meshkit.errors import MeshError

Endpoint = Callable[[Request], Awaitable[ASGIApp]]
"""Takes a request and gives its answer."""


class Front:
    """Serves the routes of ``routed``. ``around`` puts its argument, which serves one HTTP request, inside of what
    surrounds every request.
    """

    def __init__(self, routed: FastAPI, *, around: Callable[[ASGIApp], ASGIApp]) -> None:
        self.routed = routed
        straight = [route for route in routed.routes if isinstance(route, StraightRoute)]
        exact = [route for route in straight if not route.param_convertors]
        self._exact = {(method, route.path): route for route in exact for method in route.methods or ()}
        self._surrounded = around(self._lead)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the lifespan."""
        await (self._surrounded if scope["type"] == "http" else self.routed)(scope, receive, send)

    async def _lead(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._exact.get((scope["method"], scope["path"]))
        if route is None:
            await self.routed(scope, receive, send)
            return
        scope["route"] = route
        await route.app(scope, receive, send)


class StraightRoute(APIRoute):
    """A route whose endpoint takes the request and gives the answer. FastAPI describes it, and does nothing for it when
    it is called, whichever way it was found.
    """

    def __init__(self, path: str, endpoint: Endpoint, **kwargs: Any) -> None:
        super().__init__(path, endpoint, **kwargs)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                answer = await endpoint(Request(scope, receive, send))
            except MeshError as error:
                answer = refused(scope, error)
            await answer(scope, receive, send)

        self.app = app


class Routed(FastAPI):
    """FastAPI without what it puts outside of everything: an answer to what nobody expected is given by
    ``edge.observe``, whichever way a request went, and bodies are bounded where they are read.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """See ``FastAPI``."""
        return ExceptionMiddleware(AsyncExitStackMiddleware(self.router), handlers=self.exception_handlers)


def refused(scope: Scope, error: MeshError) -> Response:
    """The answer to a refused request."""
    Exchange.of(scope).error_code = code_of(error)
    return error_response(error)
