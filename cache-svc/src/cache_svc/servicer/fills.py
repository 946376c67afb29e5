"""``FillService`` of the contract. What a leader says is serialised events of ``Follow``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from cache_svc.domain.answer import renew_payload
from cache_svc.service import BadRequest, FillService
from cache_svc.servicer import ERRORS
from cache_svc.servicer.wire import lead_of
from meshkit.clock import Clock
from meshkit.errors import maps_errors
from tallygate.cache.v1 import fills_pb2, fills_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from grpc.aio import ServicerContext

_ENDED = fills_pb2.FillEnded


@maps_errors(ERRORS)
class FillServicer(fills_pb2_grpc.FillServiceServicer):
    """Flights of identical requests over gRPC."""

    def __init__(self, service: FillService, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    async def Follow(
        self,
        request: fills_pb2.FollowRequest,
        context: ServicerContext[fills_pb2.FollowRequest, fills_pb2.FollowResponse],
    ) -> AsyncIterator[fills_pb2.FollowResponse]:
        """What the leader says, under the follower's id."""
        lead = lead_of(request.lead)
        if request.live and not request.completion_id:
            raise BadRequest("completion_id is missing")
        created_s = self._clock.now_ms() // 1_000

        def renewed(payload: bytes) -> bytes:
            return renew_payload(payload, completion_id=request.completion_id, created_s=created_s)

        events = cast("AsyncGenerator[bytes]", self._service.follow(lead, live=request.live))
        async with aclosing(events):
            async for said in events:
                event = fills_pb2.FollowResponse.FromString(said)
                if event.HasField("chunks"):
                    event = fills_pb2.FollowResponse(
                        chunks=fills_pb2.FillChunks(payloads=map(renewed, event.chunks.payloads))
                    )
                elif event.HasField("ended"):
                    if event.ended.usage_chunk:
                        event.ended.usage_chunk = renewed(event.ended.usage_chunk)
                    yield event
                    return
                yield event
        yield fills_pb2.FollowResponse(ended=_ENDED(outcome=_ENDED.OUTCOME_LOST))

    async def Attend(
        self,
        request: fills_pb2.AttendRequest,
        context: ServicerContext[fills_pb2.AttendRequest, fills_pb2.AttendResponse],
    ) -> fills_pb2.AttendResponse:
        """Prolongs the lease, and says who follows."""
        if request.lease_ms <= 0:
            raise BadRequest("lease_ms must be above 0")
        attended = await self._service.attend(
            lead_of(request.lead), lease_s=request.lease_ms / 1_000, wait_s=max(0, request.wait_ms) / 1_000
        )
        return fills_pb2.AttendResponse(leads=attended.leads, followed=attended.followed, live=attended.live)

    async def Publish(
        self,
        request: fills_pb2.PublishRequest,
        context: ServicerContext[fills_pb2.PublishRequest, fills_pb2.PublishResponse],
    ) -> fills_pb2.PublishResponse:
        """Hands chunks on."""
        events = []
        if request.HasField("began"):
            events.append(fills_pb2.FollowResponse(began=request.began).SerializeToString())
        if request.payloads:
            chunks = fills_pb2.FillChunks(payloads=request.payloads)
            events.append(fills_pb2.FollowResponse(chunks=chunks).SerializeToString())
        if not events:
            raise BadRequest("began and payloads are missing")
        return fills_pb2.PublishResponse(leads=await self._service.publish(lead_of(request.lead), events))

    async def Quit(
        self,
        request: fills_pb2.QuitRequest,
        context: ServicerContext[fills_pb2.QuitRequest, fills_pb2.QuitResponse],
    ) -> fills_pb2.QuitResponse:
        """Ends the lead without an answer."""
        ended = _ENDED(outcome=_ENDED.OUTCOME_FAILED, reason=request.reason, message=request.message)
        event = fills_pb2.FollowResponse(ended=ended).SerializeToString()
        await self._service.end(lead_of(request.lead), event)
        return fills_pb2.QuitResponse()
