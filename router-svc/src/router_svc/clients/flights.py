"""Flights over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog

from meshkit.codec import usage_to_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from router_svc.domain.errors import CacheUnavailable, DeadlineExceeded, RouterError
from router_svc.service.ports import Ending, FlightPass, Landing
from tallygate.cache.v1 import flights_pb2
from tallygate.cache.v1.flights_pb2_grpc import FlightServiceStub
from tallygate.common.v1.errors_pb2 import ErrorReason

_log = structlog.get_logger(__name__)
_ENDINGS = {
    Ending.NOTHING_HELD: flights_pb2.AbandonRequest.ENDING_NOTHING_HELD,
    Ending.RELEASED: flights_pb2.AbandonRequest.ENDING_RELEASED,
    Ending.UNKNOWN: flights_pb2.AbandonRequest.ENDING_UNKNOWN,
}


class GrpcFlights:
    """As the Protocol ``Flights``. Every call has its own deadline: it must not die with the RPC that began it."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = FlightServiceStub(channel)
        self._timeout_s = timeout_s

    async def renew(self, ticket: FlightPass, lease_s: float) -> bool:
        """As Flights.renew."""
        request = flights_pb2.RenewRequest(ticket=_pass(ticket), lease_ms=round(1_000 * lease_s))
        with self._call():
            return (await self._stub.Renew(request, timeout=self._timeout_s)).leads

    async def land(self, ticket: FlightPass, landing: Landing) -> None:
        """As Flights.land."""
        request = flights_pb2.LandRequest(ticket=_pass(ticket), landing=_landing(landing))
        with self._call():
            response = await self._stub.Land(request, timeout=self._timeout_s)
        if response.kept != flights_pb2.LandResponse.KEPT_WHOLE:
            kept = flights_pb2.LandResponse.Kept.Name(response.kept)
            _log.info("flight_not_kept_whole", receipt_id=landing.receipt_id, kept=kept)

    async def abandon(self, ticket: FlightPass, ending: Ending) -> None:
        """As Flights.abandon."""
        request = flights_pb2.AbandonRequest(ticket=_pass(ticket), ending=_ENDINGS[ending])
        with self._call():
            await self._stub.Abandon(request, timeout=self._timeout_s)

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            with deadline(self._timeout_s, detached=True), mesh_errors():
                yield
        except MeshError as error:
            raise CacheUnavailable(error.message) from error


def _pass(ticket: FlightPass) -> flights_pb2.FlightPass:
    return flights_pb2.FlightPass(name=ticket.name, token=ticket.token, run=ticket.run, fingerprint=ticket.fingerprint)


def _landing(landing: Landing) -> flights_pb2.Landing:
    return flights_pb2.Landing(
        request_id=landing.request_id,
        receipt_id=landing.receipt_id,
        openai_body=landing.body,
        chunks=landing.chunks,
        usage_chunk=landing.usage_chunk,
        usage=usage_to_proto(landing.usage) if landing.usage is not None else None,
        charged_nano_usd=landing.charged_nano_usd,
        trace_id=landing.trace_id,
        broken_off=_break_off(landing.broken_off) if landing.broken_off is not None else None,
        answer_gone=landing.answer_gone,
    )


def _break_off(error: RouterError) -> flights_pb2.BreakOff:
    """What a source that has begun can still do wrong; see ``domain.failure.broken_off``."""
    late = isinstance(error, DeadlineExceeded)
    reason = ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED if late else ErrorReason.ERROR_REASON_UPSTREAM_ERROR
    return flights_pb2.BreakOff(reason=reason, message=str(error))
