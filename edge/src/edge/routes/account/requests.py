"""``/requests``: what was used, request by request."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from edge.account import Account
from edge.auth import Authenticator
from edge.errors import invalid
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.routes.account.usage import From, Name, To
from edge.wire.account.base import Page
from edge.wire.account.requests import FinishedRequest
from tallygate.ledger.v1 import ledger_pb2, usage_pb2

Mode = Annotated[Literal["fresh", "exact", "canonical", "semantic"] | None, Query()]
Status = Annotated[Literal["ok", "error"] | None, Query()]
Tag = Annotated[str | None, Query(max_length=600, description="Only those with this tag, as NAME=VALUE.")]

MODES = {
    None: ledger_pb2.SERVED_MODE_UNSPECIFIED,
    "fresh": ledger_pb2.SERVED_MODE_FRESH,
    "exact": ledger_pb2.SERVED_MODE_EXACT,
    "canonical": ledger_pb2.SERVED_MODE_CANONICAL,
    "semantic": ledger_pb2.SERVED_MODE_SEMANTIC,
}
STATUSES = {
    None: usage_pb2.REQUEST_STATUS_UNSPECIFIED,
    "ok": usage_pb2.REQUEST_STATUS_OK,
    "error": usage_pb2.REQUEST_STATUS_ERROR,
}


def requests_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Usage")

    @router.get("/requests", summary="List requests")
    async def list_requests(
        caller: CallerOf,
        limit: Limit = 50,
        cursor: Cursor = "",
        from_: From = None,
        to: To = None,
        project_id: Name = "",
        key_id: Name = "",
        model: Name = "",
        source: Name = "",
        served_mode: Mode = None,
        status: Status = None,
        tag: Tag = None,
    ) -> Page[FinishedRequest]:
        """Requests that have ended, newest first: charged, replayed, and refused."""
        tag_key, tag_value = _tag_of(tag)
        request = usage_pb2.ListRequestsRequest(
            org_id=caller.org_id,
            page_size=limit,
            page_token=cursor,
            from_ms=(from_ or 0) * 1_000,
            to_ms=(to or 0) * 1_000,
            project_id=project_id,
            key_id=key_id,
            model=model,
            source_id=source,
            served_mode=MODES[served_mode],
            status=STATUSES[status],
            tag_key=tag_key,
            tag_value=tag_value,
        )
        found = await account.ask(account.usage.ListRequests, request)
        return Page[FinishedRequest].of([FinishedRequest.of(entry) for entry in found.requests], found.next_page_token)

    @router.get("/requests/{request_id}", summary="Get a request")
    async def get_request(request_id: str, caller: CallerOf) -> FinishedRequest:
        """One request."""
        request = usage_pb2.GetRequestRequest(org_id=caller.org_id, request_id=request_id)
        return FinishedRequest.of((await account.ask(account.usage.GetRequest, request)).request)

    return router


def _tag_of(tag: str | None) -> tuple[str, str]:
    if tag is None:
        return "", ""
    key, equals, value = tag.partition("=")
    if not key or not equals:
        raise invalid("`tag` has the form NAME=VALUE.", "tag")
    return key, value
