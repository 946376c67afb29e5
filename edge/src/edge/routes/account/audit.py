"""``/audit-log``: who changed what, page by page, with proofs, and as an export."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from edge.account import Account
from edge.auth import Authenticator
from edge.export import ExportRow, checked_csv, checked_jsonl
from edge.routes.account.guard import CallerOf, Cursor, Limit, account_router
from edge.wire.account.audit import COLUMNS, AuditEntry, AuditProof, SignedAuditEntry, entry_fields, entry_row
from edge.wire.account.base import Page
from edge.wire.log import audit_proof_json
from tallygate.ledger.v1 import audit_pb2, ledger_pb2

MAX_TIME_S = 253_402_300_799
"""The end of the year 9999."""
MAX_SIZE = 2**53 - 1
_EXPORT_PAGE_SIZE = 500

_From = Annotated[int, Query(alias="from", ge=0, le=MAX_TIME_S, description="Not before: Unix time in seconds.")]
_To = Annotated[
    int, Query(alias="to", ge=0, le=MAX_TIME_S, description="Before: Unix time in seconds; 0: there is no end.")
]
_TreeSize = Annotated[int, Query(ge=0, le=MAX_SIZE, description="Prove it in this checkpoint; 0: in the newest.")]
_Since = Annotated[
    int | None,
    Query(ge=0, le=MAX_SIZE, description="Prove also that the log only grew since the checkpoint of this size."),
]


class _Filter(BaseModel):
    action: str = ""
    actor: str = ""
    subject: str = ""
    from_s: int = 0
    to_s: int = 0

    def request(self, org_id: str, page_size: int, page_token: str) -> audit_pb2.ListAuditEntriesRequest:
        return audit_pb2.ListAuditEntriesRequest(
            org_id=org_id,
            page_size=page_size,
            page_token=page_token,
            action_prefix=self.action,
            actor_id=self.actor,
            subject=self.subject,
            from_ms=1_000 * self.from_s,
            to_ms=1_000 * self.to_s,
        )


def _filter(
    action: Annotated[str, Query(max_length=200, description="Actions that begin so: `key.`, `cap.set`.")] = "",
    actor: Annotated[str, Query(max_length=200, description="Changes by this actor, such as `key_...`.")] = "",
    subject: Annotated[str, Query(max_length=200, description="Changes of the thing with this id.")] = "",
    from_s: _From = 0,
    to_s: _To = 0,
) -> _Filter:
    return _Filter(action=action, actor=actor, subject=subject, from_s=from_s, to_s=to_s)


_Page = Callable[[_Filter, str, int, str], Awaitable[audit_pb2.ListAuditEntriesResponse]]
"""Of an organisation: so many entries, from a token on."""

FilterOf = Annotated[_Filter, Depends(_filter)]


def audit_router(account: Account, authenticator: Authenticator) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Audit log")

    async def page(wanted: _Filter, org_id: str, size: int, token: str) -> audit_pb2.ListAuditEntriesResponse:
        return await account.ask(account.audit.ListAuditEntries, wanted.request(org_id, size, token))

    @router.get("/audit-log", summary="List audit entries")
    async def list_entries(
        caller: CallerOf, wanted: FilterOf, limit: Limit = 50, cursor: Cursor = ""
    ) -> Page[AuditEntry]:
        """What was changed in the organisation, and in the whole installation, newest first."""
        found = await page(wanted, caller.org_id, limit, cursor)
        return Page[AuditEntry].of([AuditEntry.of(entry) for entry in found.entries], found.next_page_token)

    @router.get("/audit-log/{entry_id}", summary="Get an audit entry")
    async def get_entry(entry_id: str, caller: CallerOf) -> SignedAuditEntry:
        """One entry, with its signed form and its place in the log."""
        request = audit_pb2.GetAuditEntryRequest(org_id=caller.org_id, entry_id=entry_id)
        return SignedAuditEntry.found(await account.ask(account.audit.GetAuditEntry, request))

    @router.get("/audit-log/{entry_id}/proof", summary="Prove an audit entry", response_model_exclude_none=True)
    async def prove_entry(
        entry_id: str, caller: CallerOf, tree_size: _TreeSize = 0, since: _Since = None
    ) -> AuditProof:
        """Proves to anyone that the entry stands in the log; `tallygate verify` checks it offline."""
        request = audit_pb2.GetAuditProofRequest(org_id=caller.org_id, entry_id=entry_id, tree_size=tree_size)
        found = await account.ask(account.audit.GetAuditProof, request)
        consistency = None
        if since is not None:
            first, second = sorted((since, found.tree_size))
            between = ledger_pb2.GetConsistencyProofRequest(first_size=first, second_size=second)
            consistency = await account.ask(account.ledger.GetConsistencyProof, between)
        keys = await account.ask(account.ledger.ListSigningKeys, ledger_pb2.ListSigningKeysRequest())
        return AuditProof.model_validate(audit_proof_json(entry_id, found, keys, consistency))

    _export(router, page)
    return router


def _export(router: APIRouter, page: _Page) -> None:
    @router.get(
        "/exports/audit-log",
        summary="Export audit entries",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}, "description": "The export."}},
    )
    async def export_entries(
        caller: CallerOf,
        wanted: FilterOf,
        format: Literal["jsonl", "csv"] = "jsonl",
    ) -> Response:
        """All entries that a list would show, newest first. The last line has their number and the SHA-256 of all lines
        before it; an export without it was cut off.
        """
        first = await page(wanted, caller.org_id, _EXPORT_PAGE_SIZE, "")  # what is refused is refused before it begins

        async def entries() -> AsyncIterator[audit_pb2.AuditEntry]:
            found = first
            while True:
                for entry in found.entries:
                    yield entry
                if not found.next_page_token:
                    return
                found = await page(wanted, caller.org_id, _EXPORT_PAGE_SIZE, found.next_page_token)

        return _download(entries(), format)


def _download(entries: AsyncIterator[audit_pb2.AuditEntry], form: Literal["jsonl", "csv"]) -> Response:
    async def rows() -> AsyncIterator[ExportRow]:
        async for entry in entries:
            yield entry_fields(entry) if form == "jsonl" else entry_row(entry)

    if form == "jsonl":
        body, media_type = checked_jsonl(rows()), "application/x-ndjson"
    else:
        body, media_type = checked_csv(COLUMNS, rows()), "text/csv; charset=utf-8"
    headers = {"content-disposition": f'attachment; filename="audit-log.{form}"', "cache-control": "no-store"}
    return StreamingResponse(body, headers=headers, media_type=media_type)
