"""``/exports/requests`` and ``/exports/ledger``: all of it, in one stream with a checksum at its end.

Each page of the ledger is sent before the next is asked for, so memory does not grow with the export. What fails after
the first page breaks the connection: an export without its last line is not whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from edge.account import Account
from edge.auth import Authenticator
from edge.errors import invalid
from edge.export import checked_csv, checked_jsonl
from edge.routes.account.guard import CallerOf, account_router
from edge.routes.account.usage import From, To
from edge.wire.account.requests import (
    MOVEMENT_COLUMNS,
    FinishedRequest,
    balance_json,
    movement_json,
    request_json,
)
from meshkit.clock import Clock
from tallygate.ledger.v1 import usage_pb2

PAGE_ROWS = 500

Format = Annotated[Literal["csv", "jsonl"], Query(description="Comma-separated values, or a JSON object on each line.")]
Rows = AsyncIterator[dict[str, Any]]

_MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
_SENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The rows, then a last line with their number and the SHA-256 of all bytes before it.",
        "content": {name: {"schema": {"type": "string"}} for name in ("application/jsonl", "text/csv")},
    }
}
_REQUEST_COLUMNS = tuple(FinishedRequest.model_fields)
_CLIENTS_OWN = {"requested_model", "tags", "error_code", "model", "source"}
"""Columns with texts of others."""


def exports_router(account: Account, authenticator: Authenticator, clock: Clock) -> APIRouter:
    """The resources."""
    router = account_router(authenticator, "Exports")

    @router.get("/exports/requests", summary="Export requests", response_class=StreamingResponse, responses=_SENT)
    async def export_requests(
        caller: CallerOf, format: Format = "jsonl", from_: From = None, to: To = None
    ) -> StreamingResponse:
        """Every request that has ended, newest first; fields as in `/requests`."""
        from_ms, to_ms = _bounds_ms(from_, to, clock)
        first = await _requests(account, caller.org_id, from_ms, to_ms, "")
        rows = _request_rows(account, caller.org_id, from_ms, to_ms, first)
        return _sent("requests", format, _REQUEST_COLUMNS, rows)

    @router.get("/exports/ledger", summary="Export the ledger", response_class=StreamingResponse, responses=_SENT)
    async def export_ledger(
        caller: CallerOf, format: Format = "jsonl", from_: From = None, to: To = None
    ) -> StreamingResponse:
        """Every movement of the balance, oldest first, between the balance before the first and after the last. The row
        `closing` has the balance that the account says, and in `amount_usd` by how much it is not what the movements
        add up to: always 0.
        """
        from_ms, to_ms = (from_ or 0) * 1_000, (to or 0) * 1_000
        first = await _movements(account, caller.org_id, from_ms, to_ms, "")
        rows = _movement_rows(account, caller.org_id, from_ms, to_ms, first)
        return _sent("ledger", format, MOVEMENT_COLUMNS, rows)

    return router


def _bounds_ms(from_s: int | None, to_s: int | None, clock: Clock) -> tuple[int, int]:
    """What ends after the export has begun is not in it."""
    from_ms, to_ms = (from_s or 0) * 1_000, clock.now_ms() + 1 if to_s is None else to_s * 1_000
    if to_ms < from_ms:
        raise invalid("`to` must not be before `from`.", "to")
    return from_ms, to_ms


async def _requests(
    account: Account, org_id: str, from_ms: int, to_ms: int, page_token: str
) -> usage_pb2.ListRequestsResponse:
    request = usage_pb2.ListRequestsRequest(
        org_id=org_id, page_size=PAGE_ROWS, page_token=page_token, from_ms=from_ms, to_ms=to_ms
    )
    return await account.ask(account.usage.ListRequests, request)


async def _request_rows(
    account: Account, org_id: str, from_ms: int, to_ms: int, page: usage_pb2.ListRequestsResponse
) -> Rows:
    while True:
        for entry in page.requests:
            yield request_json(entry)
        if not page.next_page_token:
            return
        page = await _requests(account, org_id, from_ms, to_ms, page.next_page_token)


async def _movements(
    account: Account, org_id: str, from_ms: int, to_ms: int, page_token: str
) -> usage_pb2.ListMovementsResponse:
    request = usage_pb2.ListMovementsRequest(
        org_id=org_id, page_size=PAGE_ROWS, page_token=page_token, from_ms=from_ms, to_ms=to_ms
    )
    return await account.ask(account.usage.ListMovements, request)


async def _movement_rows(
    account: Account, org_id: str, from_ms: int, to_ms: int, page: usage_pb2.ListMovementsResponse
) -> Rows:
    balance_nano_usd, closing_nano_usd = page.opening_nano_usd, page.closing_nano_usd
    yield balance_json("opening", balance_nano_usd, 0)
    while True:
        for movement in page.movements:
            balance_nano_usd += movement.amount_nano_usd
            yield movement_json(movement, balance_nano_usd)
        if not page.next_page_token:
            break
        page = await _movements(account, org_id, from_ms, to_ms, page.next_page_token)
    yield balance_json("closing", closing_nano_usd, closing_nano_usd - balance_nano_usd)


def _sent(name: str, form: Literal["csv", "jsonl"], columns: Sequence[str], rows: Rows) -> StreamingResponse:
    pieces = checked_csv(columns, _without_formulas(rows)) if form == "csv" else checked_jsonl(rows)
    return StreamingResponse(
        pieces,
        media_type=_MEDIA_TYPES[form],
        headers={"content-disposition": f'attachment; filename="{name}.{form}"', "cache-control": "no-store"},
    )


async def _without_formulas(rows: Rows) -> AsyncIterator[Mapping[str, Any]]:
    """A spreadsheet takes a cell that begins like one for a formula, and runs it: a text of a client's gets an
    apostrophe before it (https://owasp.org/www-community/attacks/CSV_Injection). Numbers, and what we write, stay.
    """
    async for row in rows:
        yield {name: _cell(value) if name in _CLIENTS_OWN else value for name, value in row.items()}


def _cell(value: Any) -> Any:
    text = value if isinstance(value, str) or value is None else orjson.dumps(value).decode()
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text
