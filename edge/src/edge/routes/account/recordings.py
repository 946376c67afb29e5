"""``/cache/recordings``: an organisation's own requests, recorded where it opted in; read, described and forgotten.

They are what its clients asked and what they were told. Only an account key of the organisation gets them, and nothing
of them stands in a log or a trace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from edge.account import Account
from edge.auth import Authenticator
from edge.export import checked_jsonl
from edge.routes.account.guard import CallerOf, account_router
from edge.wire.account.recordings import ForgottenRecordings, RecordingStatus, recording_json
from meshkit.clock import Clock
from tallygate.cache.v1 import recordings_pb2
from tallygate.ledger.v1 import audit_pb2

PAGE_RECORDS = 200
_MS_PER_DAY = 86_400_000
_SENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The records, then a last line with their number and the SHA-256 of all bytes before it.",
        "content": {"application/jsonl": {"schema": {"type": "string"}}},
    }
}

Days = Annotated[int, Query(ge=0, le=366, description="Only those of so many days; 0: all.")]

_log = structlog.get_logger(__name__)


def recordings_router(account: Account, authenticator: Authenticator, clock: Clock) -> APIRouter:
    """The resource."""
    router = account_router(authenticator, "Cache")

    async def page(org_id: str, from_ms: int, token: str) -> recordings_pb2.ListRecordingsResponse:
        request = recordings_pb2.ListRecordingsRequest(
            org_id=org_id, page_size=PAGE_RECORDS, page_token=token, from_ms=from_ms
        )
        return await account.ask(account.recordings.ListRecordings, request)

    async def rows(
        org_id: str, from_ms: int, found: recordings_pb2.ListRecordingsResponse
    ) -> AsyncIterator[dict[str, Any]]:
        while True:
            for recording in found.recordings:
                yield recording_json(recording)
            if not found.next_page_token:
                return
            found = await page(org_id, from_ms, found.next_page_token)

    @router.get(
        "/cache/recordings", summary="Export recorded requests", response_class=StreamingResponse, responses=_SENT
    )
    async def export_recordings(caller: CallerOf, days: Days = 0) -> StreamingResponse:
        """Recorded requests with their answers, oldest first, as JSON lines. `tallygate cache-safety --from-log` reads
        them. Nothing is recorded unless the organisation's cache policy has `record_requests`.
        """
        from_ms = clock.now_ms() - days * _MS_PER_DAY if days else 0
        first = await page(caller.org_id, from_ms, "")  # what is refused is refused before it begins
        told = audit_pb2.RecordCacheActionRequest(
            org_id=caller.org_id,
            action=audit_pb2.CACHE_ACTION_RECORDINGS_EXPORTED,
            subject=caller.org_id,
            from_ms=from_ms,
        )
        await account.tell(caller.actor, told)
        _log.info("recordings_exported", org_id=caller.org_id, key_id=caller.key_id)
        headers = {"content-disposition": 'attachment; filename="recordings.jsonl"', "cache-control": "no-store"}
        pieces = checked_jsonl(rows(caller.org_id, from_ms, first))
        return StreamingResponse(pieces, headers=headers, media_type="application/jsonl")

    @router.delete("/cache/recordings", summary="Forget recorded requests")
    async def forget_recordings(caller: CallerOf) -> ForgottenRecordings:
        """Forgets all of them, also those of requests that are under way. Recording goes on while the policy has it."""
        told = audit_pb2.RecordCacheActionRequest(
            org_id=caller.org_id, action=audit_pb2.CACHE_ACTION_RECORDINGS_FORGOTTEN, subject=caller.org_id
        )
        await account.tell(caller.actor, told)
        request = recordings_pb2.ForgetRecordingsRequest(org_id=caller.org_id)
        forgotten = await account.ask(account.recordings.ForgetRecordings, request)
        return ForgottenRecordings(forgotten=forgotten.forgotten)

    @router.get("/cache/recordings/status", summary="Get what is recorded")
    async def get_status(caller: CallerOf) -> RecordingStatus:
        """How many requests are recorded, since when, within which bounds, and how many could not be."""
        request = recordings_pb2.DescribeRecordingsRequest(org_id=caller.org_id)
        return RecordingStatus.of(await account.ask(account.recordings.DescribeRecordings, request))

    return router
