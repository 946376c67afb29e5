"""The cache over gRPC."""

from __future__ import annotations

import grpc
import structlog

from meshkit.codec import price_to_proto, principal_to_proto, usage_to_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.principal import Principal
from router_svc.domain.errors import CacheUnavailable
from router_svc.service.ports import CacheTicket, FillLead, FreshAnswer
from tallygate.cache.v1 import cache_pb2
from tallygate.cache.v1.cache_pb2_grpc import CacheServiceStub

_log = structlog.get_logger(__name__)


class GrpcCache:
    """As the Protocol ``Cache``."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = CacheServiceStub(channel)
        self._timeout_s = timeout_s

    async def store(
        self,
        principal: Principal,
        ticket: CacheTicket,
        request_body: bytes,
        answer: FreshAnswer,
        fill: FillLead | None = None,
    ) -> None:
        """As Cache.store."""
        request = cache_pb2.StoreRequest(
            principal=principal_to_proto(principal),
            ticket=cache_pb2.Ticket.FromString(ticket.whole),
            openai_body=request_body,
            answer_body=answer.body,
            answer_chunks=answer.chunks,
            usage=usage_to_proto(answer.usage),
            price=price_to_proto(answer.price),
            receipt_id=answer.receipt_id,
            source_id=answer.source_id,
            upstream_model=answer.upstream_model,
            lead=cache_pb2.FillLead(name=fill.name, token=fill.token) if fill else None,
            payloads=answer.payloads,
        )
        try:
            with deadline(self._timeout_s, detached=True), mesh_errors():
                response = await self._stub.Store(request, timeout=self._timeout_s)
        except MeshError as error:
            raise CacheUnavailable(error.message) from error
        if not response.stored:
            _log.debug("answer_not_kept", receipt_id=answer.receipt_id, reason=response.reason)
