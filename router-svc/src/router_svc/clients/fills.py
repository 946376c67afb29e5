"""The cache's flights of identical requests over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from router_svc.domain.errors import CacheUnavailable, DeadlineExceeded, RouterError
from router_svc.service.ports import Attended, FillBegan, FillLead
from tallygate.cache.v1 import cache_pb2, fills_pb2
from tallygate.cache.v1.fills_pb2_grpc import FillServiceStub
from tallygate.common.v1.errors_pb2 import ErrorReason


class GrpcFills:
    """As the Protocol ``Fills``. Every call has its own deadline: it must not die with the RPC that began it."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = FillServiceStub(channel)
        self._timeout_s = timeout_s

    async def attend(self, lead: FillLead, lease_s: float, *, wait_s: float) -> Attended:
        """As Fills.attend."""
        request = fills_pb2.AttendRequest(
            lead=_lead(lead), lease_ms=round(1_000 * lease_s), wait_ms=round(1_000 * wait_s)
        )
        with self._call(wait_s) as timeout_s:
            answer = await self._stub.Attend(request, timeout=timeout_s)
        return Attended(answer.leads, answer.followed, answer.live)

    async def publish(self, lead: FillLead, began: FillBegan | None, payloads: Sequence[bytes]) -> bool:
        """As Fills.publish."""
        request = fills_pb2.PublishRequest(lead=_lead(lead), began=_began(began) if began else None, payloads=payloads)
        with self._call() as timeout_s:
            return (await self._stub.Publish(request, timeout=timeout_s)).leads

    async def quit(self, lead: FillLead, error: RouterError) -> None:
        """As Fills.quit."""
        late = isinstance(error, DeadlineExceeded)
        reason = ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED if late else ErrorReason.ERROR_REASON_UPSTREAM_ERROR
        request = fills_pb2.QuitRequest(lead=_lead(lead), reason=reason, message=str(error))
        with self._call() as timeout_s:
            await self._stub.Quit(request, timeout=timeout_s)

    @contextmanager
    def _call(self, wait_s: float = 0.0) -> Iterator[float]:
        timeout_s = self._timeout_s + wait_s
        try:
            with deadline(timeout_s, detached=True), mesh_errors():
                yield timeout_s
        except MeshError as error:
            raise CacheUnavailable(error.message) from error


def _lead(lead: FillLead) -> cache_pb2.FillLead:
    return cache_pb2.FillLead(name=lead.name, token=lead.token)


def _began(began: FillBegan) -> fills_pb2.FillBegan:
    return fills_pb2.FillBegan(
        source_id=began.source_id, held_nano_usd=began.held_nano_usd, replay_bps=began.replay_bps
    )
