"""The ASGI application: which path leads where, and what surrounds every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from edge import openapi
from edge.account import Account
from edge.admission import Admission
from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.errors import invalid, refusal
from edge.failures import Failures
from edge.front import Endpoint, Front, Routed, StraightRoute, refused
from edge.idempotency import Idempotency
from edge.limits import RateLimits
from edge.mesh import Mesh
from edge.observe import Observe
from edge.openapi import Described
from edge.routes.account import account_routers
from edge.routes.chat import ChatCompletions
from edge.routes.health import RATE_LIMITS, Health
from edge.routes.log import Log
from edge.routes.models import Models
from edge.routes.receipts import Receipts
from edge.settings import EdgeSettings
from edge.watch import Watch
from meshkit.clock import Clock
from meshkit.digests import NewSalt
from meshkit.errors import MeshError
from meshkit.ids import MakeId
from meshkit.telemetry import Telemetry
from tallygate.common.v1.errors_pb2 import ErrorReason

PREFIXES = ("/v1", "/api/v1")


def create_app(
    mesh: Mesh,
    account: Account,
    limits: RateLimits,
    settings: EdgeSettings,
    telemetry: Telemetry,
    *,
    clock: Clock,
    make_id: MakeId,
    new_salt: NewSalt,
) -> Front:
    """The application over the clients of ``mesh``, and of ``account`` for the routes that manage one. Its lifespan
    holds the watches of catalog and revocations.
    """
    authenticator = _authenticator(mesh, limits, settings, clock)
    catalog = CatalogView(mesh.catalog)
    failures = Failures(account, clock, interval_s=settings.failure_interval_s, max_waiting=settings.failures_waiting)
    tasks = [
        Watch("catalog", catalog.changes, catalog.take).run,
        Watch("revocations", mesh.ledger.revocations, authenticator.note_change).run,
        failures.run,
    ]
    routed = Routed(
        title="Tallygate",
        lifespan=lambda _: _running(tasks, failures, catalog.arrived(settings.catalog_wait_s)),
        exception_handlers={
            MeshError: _refused,
            HTTPException: _not_routed,
            RequestValidationError: _not_valid,
        },
        redirect_slashes=False,
        version=version("tallygate-edge"),
        openapi_url=None,  # see ``edge.openapi``
        # Spans are made by Observe, from this service's own telemetry and not the process's.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    idempotency = Idempotency(mesh.flights, mesh.ledger, settings, clock=clock, make_id=make_id)
    chat = ChatCompletions(mesh, authenticator, limits, catalog, idempotency, settings, clock=clock, new_salt=new_salt)
    probes = {**mesh.probes, **({RATE_LIMITS: limits.backend} if limits.backend else {})}
    log, health = Log(mesh.ledger), Health(probes, catalog, version("tallygate-edge"))
    for prefix in PREFIXES:
        _route(routed, "POST", f"{prefix}/chat/completions", chat.create, openapi.CHAT)
        _route_reading(routed, prefix, Models(authenticator, catalog), Receipts(authenticator, mesh.ledger), log)
        for router in account_routers(account, authenticator, catalog, clock):
            routed.include_router(router, prefix=prefix, include_in_schema=prefix == openapi.SHOWN_PREFIX)
    _route(routed, "GET", "/.well-known/jwks.json", log.keys, openapi.SIGNING_KEYS)
    _route(routed, "GET", "/api/health", health.live, openapi.LIVE)
    _route(routed, "GET", "/readyz", health.ready, openapi.READY)
    routed.add_route("/openapi.json", _describe, include_in_schema=False)

    def around(route: ASGIApp) -> ASGIApp:
        admitted = Admission(route, max_inflight=settings.max_inflight)
        return Observe(admitted, telemetry=telemetry, clock=clock, make_id=make_id, note_end=failures.note_end)

    return Front(routed, around=around)


@asynccontextmanager
async def _running(
    tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], failures: Failures, first: Awaitable[None]
) -> AsyncIterator[None]:
    """Runs what goes on beside the requests, which are let in after ``first``; at the end no failure is left untold."""
    begun = [asyncio.create_task(task()) for task in tasks]
    try:
        await first
        yield
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        await failures.flush()


def _authenticator(mesh: Mesh, limits: RateLimits, settings: EdgeSettings, clock: Clock) -> Authenticator:
    return Authenticator(
        mesh.ledger, limits, clock, max_entries=settings.auth_entries, trusted_proxies=settings.trusted_proxies
    )


def _route_reading(app: FastAPI, prefix: str, models: Models, receipts: Receipts, log: Log) -> None:
    """What any key may read, and the log, which anyone may."""
    _route(app, "GET", f"{prefix}/models", models.list, openapi.MODELS)
    _route(app, "GET", f"{prefix}/models/{{model_id:path}}", models.retrieve, openapi.ONE_MODEL)
    _route(app, "GET", f"{prefix}/receipts/{{receipt_id}}", receipts.retrieve, openapi.ONE_RECEIPT)
    _route(app, "GET", f"{prefix}/receipts/{{receipt_id}}/proof", receipts.prove, openapi.RECEIPT_PROOF)
    _route(app, "GET", f"{prefix}/log/checkpoint", log.checkpoint, openapi.CHECKPOINT)
    _route(app, "GET", f"{prefix}/log/consistency", log.consistency, openapi.LOG_CONSISTENCY)


def _route(app: FastAPI, method: str, path: str, endpoint: Endpoint, described: Described) -> None:
    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=None,
        include_in_schema=not path.startswith("/api/v1"),
        route_class_override=StraightRoute,
        **described.arguments(),
    )


async def _describe(request: Request) -> Response:
    return JSONResponse(openapi.describe(request.app))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, MeshError)
    return refused(request.scope, error)


async def _not_valid(request: Request, error: Exception) -> Response:
    """What FastAPI refuses of a request to the account: the first thing that is wrong with it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    message = f"`{'.'.join(place)}`: {first['msg']}." if place else f"The request body: {first['msg']}."
    return refused(request.scope, invalid(message, ".".join(place) or None))


async def _not_routed(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        reason, message = (
            ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED,
            f"{path} does not take {request.method}, only {allowed}.",
        )
    else:
        reason, message = ErrorReason.ERROR_REASON_NOT_FOUND, f"There is nothing at {request.method} {path}."
    response = refused(request.scope, refusal(reason, message))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
