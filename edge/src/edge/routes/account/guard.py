"""What stands before every route of the account: who is calling and whether its key may, before anything is read; then
the body, within its bounds and without ambiguities.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from edge.auth import Authenticator
from edge.errors import invalid
from edge.exchange import Exchange
from edge.inbound import read_body
from edge.wire.account.base import EVERYWHERE
from edge.wire.strict_json import refuse_ambiguous
from meshkit.errors import MeshError
from tallygate.common.v1 import actor_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 20.0
_BEARER = HTTPBearer(auto_error=False, description="An account key: `Authorization: Bearer tg-...`.")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class AccountCaller:
    """Who manages an account."""

    org_id: str
    key_id: str
    policy: ledger_pb2.KeyPolicy
    actor: actor_pb2.Actor
    """For the audit trail."""
    project_id: str = ""
    """Of the key."""


def _caller(request: Request) -> AccountCaller:
    caller = request.state.account_caller
    assert isinstance(caller, AccountCaller)
    return caller


CallerOf = Annotated[AccountCaller, Depends(_caller)]
"""Parameter of a route: who is calling."""

Limit = Annotated[int, Query(ge=1, le=200, description="Items of a page at most.")]
Cursor = Annotated[str, Query(max_length=400, description="`next_cursor` of the page before; empty: the first page.")]


class _Bounded(Request):
    """A request whose body has been read and checked."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._checked = body

    async def body(self) -> bytes:
        return self._checked


def account_router(authenticator: Authenticator, *tags: str, any_key: bool = False) -> APIRouter:
    """A router whose routes all stand behind the guard. ``any_key``: an inference key may ask, too."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                request.state.account_caller = await _admitted(authenticator, request, any_key=any_key)
                body = await read_body(request, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S)
                if body:
                    _check_json(request, body)
                try:
                    return await handle(_Bounded(request, body))
                except MeshError as error:
                    raise _in_our_words(error) from error

            return guarded

    return APIRouter(route_class=Guarded, tags=list(tags), responses=EVERYWHERE, dependencies=[Security(_BEARER)])


async def _admitted(authenticator: Authenticator, request: Request, *, any_key: bool) -> AccountCaller:
    caller = await (authenticator.authenticate(request) if any_key else authenticator.for_account(request))
    principal, exchange = caller.principal, Exchange.of(request.scope)
    actor = actor_pb2.Actor(
        kind=actor_pb2.ACTOR_KIND_API_KEY,
        id=principal.key_id,
        address=exchange.address,
        trace_id=exchange.trace_id,
    )
    return AccountCaller(principal.org_id, principal.key_id, caller.policy, actor, principal.project_id)


def _check_json(request: Request, body: bytes) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise invalid("Send the body as JSON, with `Content-Type: application/json`.")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}.") from error
    refuse_ambiguous(body)


def _in_our_words(error: MeshError) -> MeshError:
    """A page is asked for by ``cursor`` and ``limit`` here, and shares are decimals, not the contract's numbers."""
    if error.reason != ErrorReason.ERROR_REASON_INVALID_REQUEST:
        return error
    if error.metadata.get("param") == "page_token":
        return invalid("This cursor is not one that a page gave; leave it out to begin with the first.", "cursor")
    if error.metadata.get("param") == "max_error_ppm":
        return invalid(f'{error.message.replace("max_error_ppm", "max_error")}, such as "0.01"', "max_error")
    return error
