"""``RecordingService`` of the contract: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_svc.domain.recording import Recording
from cache_svc.service import Drop, Recordings
from cache_svc.servicer import ERRORS
from cache_svc.servicer.drafts import controls_of
from meshkit.codec import usage_to_proto
from meshkit.errors import maps_errors
from tallygate.cache.v1 import cache_pb2, recordings_pb2, recordings_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


@maps_errors(ERRORS)
class RecordingServicer(recordings_pb2_grpc.RecordingServiceServicer):
    """The records over gRPC."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    async def ListRecordings(
        self,
        request: recordings_pb2.ListRecordingsRequest,
        context: ServicerContext[recordings_pb2.ListRecordingsRequest, recordings_pb2.ListRecordingsResponse],
    ) -> recordings_pb2.ListRecordingsResponse:
        """A page of them."""
        found, after = await self._recordings.page(
            request.org_id, after=request.page_token, from_ms=request.from_ms, limit=request.page_size
        )
        return recordings_pb2.ListRecordingsResponse(recordings=map(_recording, found), next_page_token=after)

    async def DescribeRecordings(
        self,
        request: recordings_pb2.DescribeRecordingsRequest,
        context: ServicerContext[recordings_pb2.DescribeRecordingsRequest, recordings_pb2.DescribeRecordingsResponse],
    ) -> recordings_pb2.DescribeRecordingsResponse:
        """How much there is."""
        held, drops = await self._recordings.held(request.org_id)
        bounds = self._recordings.bounds
        return recordings_pb2.DescribeRecordingsResponse(
            records=held.records,
            bytes=held.held_bytes,
            oldest_at_ms=held.oldest_at_ms,
            newest_at_ms=held.newest_at_ms,
            max_records=bounds.max_records,
            max_bytes=bounds.max_bytes,
            ttl_s=bounds.ttl_s,
            dropped_busy=drops[Drop.BUSY],
            dropped_away=drops[Drop.AWAY],
            dropped_unfit=drops[Drop.UNFIT],
        )

    async def ForgetRecordings(
        self,
        request: recordings_pb2.ForgetRecordingsRequest,
        context: ServicerContext[recordings_pb2.ForgetRecordingsRequest, recordings_pb2.ForgetRecordingsResponse],
    ) -> recordings_pb2.ForgetRecordingsResponse:
        """Forgets them."""
        forgotten = await self._recordings.forget(request.org_id, grace_ms=request.grace_ms)
        return recordings_pb2.ForgetRecordingsResponse(forgotten=forgotten)


def _recording(recording: Recording) -> recordings_pb2.Recording:
    tier = recording.tier
    return recordings_pb2.Recording(
        asked_at_ms=recording.asked_at_ms,
        project_id=recording.project_id,
        endpoint=recording.endpoint,
        model=recording.model,
        policy_epoch=recording.policy_epoch,
        openai_body=recording.body,
        controls=controls_of(recording.controls),
        tier=cache_pb2.REPLAY_TIER_UNSPECIFIED if tier is None else cache_pb2.ReplayTier.ValueType(tier.value),
        why_not_stored=recording.why_not_stored,
        usage=usage_to_proto(recording.usage),
        fresh_nano_usd=recording.fresh_nano_usd,
        replay_nano_usd=recording.replay_nano_usd,
        answer=recording.answer,
        receipt_id=recording.receipt_id,
        origin_receipt_id=recording.origin_receipt_id,
        age_ms=recording.age_ms,
        source_id=recording.source_id,
    )
