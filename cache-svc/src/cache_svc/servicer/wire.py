"""What the servicers share: required fields, and flights of identical requests as messages."""

from __future__ import annotations

from cache_svc.domain.fill import Lead
from cache_svc.service import BadRequest
from tallygate.cache.v1 import cache_pb2, fills_pb2


def lead_of(message: cache_pb2.FillLead) -> Lead:
    """Raises:
    BadRequest: no lookup gave it.
    """
    if len(message.name) < 32 or len(message.token) < 2:
        raise BadRequest("lead is not one that Lookup gave")
    return Lead(message.name, message.token)


def lead_to(lead: Lead, lease_ms: int = 0) -> cache_pb2.FillLead:
    """As a message."""
    return cache_pb2.FillLead(name=lead.name, token=lead.token, lease_ms=lease_ms)


def ended_with(request: cache_pb2.StoreRequest, *, stored: bool) -> bytes:
    """The end of a flight whose answer was offered for keeping."""
    usage_chunks = request.answer_chunks[request.payloads :]
    ended = fills_pb2.FillEnded(
        outcome=fills_pb2.FillEnded.OUTCOME_STORED if stored else fills_pb2.FillEnded.OUTCOME_NOT_STORED,
        payloads=request.payloads,
        usage_chunk=usage_chunks[0] if usage_chunks else b"",
        usage=request.usage,
        price=request.price,
        receipt_id=request.receipt_id,
        source_id=request.source_id,
        upstream_model=request.upstream_model,
    )
    return fills_pb2.FollowResponse(ended=ended).SerializeToString()


def require(present: object, name: str) -> None:
    """Raises:
    BadRequest: the field is missing.
    """
    if not present:
        raise BadRequest(f"{name} is missing")


def lease_s(lease_ms: int) -> float:
    """A lease in seconds.

    Raises:
        BadRequest: it is none.
    """
    if lease_ms <= 0:
        raise BadRequest("lease_ms must be above 0")
    return lease_ms / 1_000
