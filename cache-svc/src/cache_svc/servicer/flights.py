"""``FlightService`` of the contract: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_svc.domain.flight import Ending, Pass, flight_name
from cache_svc.service import BadRequest, FlightService
from cache_svc.service.flights import Landed, Lead, Remembered
from cache_svc.servicer import ERRORS
from cache_svc.servicer.wire import lease_s, require
from meshkit.errors import maps_errors
from tallygate.cache.v1 import flights_pb2, flights_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

_ENDINGS = {
    flights_pb2.AbandonRequest.ENDING_NOTHING_HELD: Ending.NOTHING_HELD,
    flights_pb2.AbandonRequest.ENDING_RELEASED: Ending.RELEASED,
    flights_pb2.AbandonRequest.ENDING_UNKNOWN: Ending.UNKNOWN,
}
_KEPT = {
    Remembered.WHOLE: flights_pb2.LandResponse.KEPT_WHOLE,
    Remembered.WITHOUT_ANSWER: flights_pb2.LandResponse.KEPT_WITHOUT_ANSWER,
    Remembered.NOTHING: flights_pb2.LandResponse.KEPT_NOTHING,
}
_FINGERPRINT_BYTES, _NAME_BYTES, _KEY_CHARS_MAX = 32, 32, 255


@maps_errors(ERRORS)
class FlightServicer(flights_pb2_grpc.FlightServiceServicer):
    """Flights over gRPC. A landing is opaque to the service; only here is it known what of it may be left out."""

    def __init__(self, service: FlightService) -> None:
        self._service = service

    async def Board(
        self,
        request: flights_pb2.BoardRequest,
        context: ServicerContext[flights_pb2.BoardRequest, flights_pb2.BoardResponse],
    ) -> flights_pb2.BoardResponse:
        """Leads, gets the landing, or waits."""
        require(request.token, "token")
        require(len(request.fingerprint) == _FINGERPRINT_BYTES, "fingerprint, a SHA-256,")
        outcome = await self._service.board(
            _name(request),
            token=request.token,
            fingerprint=request.fingerprint,
            lease_s=lease_s(request.lease_ms),
            wait_s=max(0, request.wait_ms) / 1_000,
        )
        if isinstance(outcome, Lead):
            return flights_pb2.BoardResponse(lead=_pass(outcome.ticket))
        if isinstance(outcome, Landed):
            return flights_pb2.BoardResponse(landed=flights_pb2.Landing.FromString(outcome.landing))
        return flights_pb2.BoardResponse(underway=flights_pb2.Underway())

    async def Renew(
        self,
        request: flights_pb2.RenewRequest,
        context: ServicerContext[flights_pb2.RenewRequest, flights_pb2.RenewResponse],
    ) -> flights_pb2.RenewResponse:
        """Prolongs the lease."""
        ticket = _ticket(request.ticket)
        return flights_pb2.RenewResponse(leads=await self._service.renew(ticket, lease_s(request.lease_ms)))

    async def Land(
        self,
        request: flights_pb2.LandRequest,
        context: ServicerContext[flights_pb2.LandRequest, flights_pb2.LandResponse],
    ) -> flights_pb2.LandResponse:
        """Ends the flight with its answer."""
        landing = request.landing
        require(landing.receipt_id, "landing.receipt_id")
        require(landing.request_id, "landing.request_id")
        bare = flights_pb2.Landing(request_id=landing.request_id, receipt_id=landing.receipt_id, answer_gone=True)
        kept = await self._service.land(_ticket(request.ticket), landing.SerializeToString(), bare.SerializeToString())
        return flights_pb2.LandResponse(kept=_KEPT[kept])

    async def Abandon(
        self,
        request: flights_pb2.AbandonRequest,
        context: ServicerContext[flights_pb2.AbandonRequest, flights_pb2.AbandonResponse],
    ) -> flights_pb2.AbandonResponse:
        """Ends the lead without one."""
        if request.ending not in _ENDINGS:
            raise BadRequest(f"ending {request.ending} is not known")
        ended = await self._service.abandon(_ticket(request.ticket), _ENDINGS[request.ending])
        return flights_pb2.AbandonResponse(abandoned=ended)


def _name(request: flights_pb2.BoardRequest) -> bytes:
    """The scope of each kind. Without one of its parts, two callers would share a flight."""
    payer = request.principal
    if request.kind != flights_pb2.FLIGHT_KIND_IDEMPOTENT_REQUEST:
        raise BadRequest(f"flight kind {request.kind} is not known")
    require(payer.org_id, "principal.org_id")
    require(payer.key_id, "principal.key_id")
    if not 1 <= len(request.key) <= _KEY_CHARS_MAX:
        raise BadRequest(f"key has 1 to {_KEY_CHARS_MAX} characters")
    return flight_name("idempotent_request", payer.org_id, payer.key_id, request.key)


def _ticket(message: flights_pb2.FlightPass) -> Pass:
    if len(message.name) != _NAME_BYTES or not message.token or len(message.fingerprint) != _FINGERPRINT_BYTES:
        raise BadRequest("ticket is not one that Board gave")
    return Pass(message.name, message.token, message.run, message.fingerprint)


def _pass(ticket: Pass) -> flights_pb2.FlightPass:
    return flights_pb2.FlightPass(name=ticket.name, token=ticket.token, run=ticket.run, fingerprint=ticket.fingerprint)
