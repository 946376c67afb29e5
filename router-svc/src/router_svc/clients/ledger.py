"""The ledger over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from meshkit.codec import price_to_proto, principal_to_proto, usage_to_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError
from meshkit.principal import Principal
from router_svc.domain.answer import Attempt
from router_svc.domain.errors import HoldClosed, HoldUnknown, LedgerRefused, LedgerUnavailable
from router_svc.service.ports import Charge, Hold, SettleFacts
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub

_AWAY = frozenset({ErrorReason.ERROR_REASON_UNAVAILABLE, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED})
_NO_HOLD = frozenset({ErrorReason.ERROR_REASON_NOT_FOUND, ErrorReason.ERROR_REASON_HOLD_CLOSED})


class GrpcLedger:
    """As the Protocol ``Ledger``. Every call has its own deadline: it must not die with the RPC that began it."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = LedgerServiceStub(channel)
        self._timeout_s = timeout_s

    async def reserve(
        self,
        principal: Principal,
        request_id: str,
        *,
        amount_nano_usd: int,
        amount_tokens: int,
        ttl_ms: int,
        model: str,
    ) -> Hold:
        """As Ledger.reserve."""
        request = ledger_pb2.ReserveRequest(
            principal=principal_to_proto(principal),
            request_id=request_id,
            amount_nano_usd=amount_nano_usd,
            amount_tokens=amount_tokens,
            ttl_ms=ttl_ms,
            model=model,
        )
        try:
            with self._call():
                response = await self._stub.Reserve(request, timeout=self._timeout_s)
        except LedgerRefused as error:
            raise _closed(error) or error from error
        return Hold(response.hold_id, response.amount_nano_usd)

    async def extend(self, org_id: str, request_id: str, *, ttl_ms: int) -> None:
        """As Ledger.extend."""
        request = ledger_pb2.ExtendHoldRequest(org_id=org_id, request_id=request_id, ttl_ms=ttl_ms)
        with _unknown_hold(), self._call():
            await self._stub.ExtendHold(request, timeout=self._timeout_s)

    async def settle(self, org_id: str, request_id: str, facts: SettleFacts, attempts: Sequence[Attempt]) -> Charge:
        """As Ledger.settle."""
        request = ledger_pb2.SettleRequest(
            org_id=org_id, request_id=request_id, facts=_facts(facts), attempts=[_attempt(a) for a in attempts]
        )
        with self._call():
            response = await self._stub.Settle(request, timeout=self._timeout_s)
        return Charge(response.receipt.receipt_id, response.receipt.charged_nano_usd)

    async def release(self, org_id: str, request_id: str, *, reason: str, attempts: Sequence[Attempt]) -> None:
        """As Ledger.release."""
        request = ledger_pb2.ReleaseRequest(
            org_id=org_id, request_id=request_id, reason=reason, attempts=[_attempt(a) for a in attempts]
        )
        with _unknown_hold(), self._call():
            await self._stub.Release(request, timeout=self._timeout_s)

    def _call(self) -> _Call:
        return _Call(self._timeout_s, detached=True)


class _Call(deadline):
    """One call's own deadline, and its refusals as the router's errors."""

    __slots__ = ()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        error = exc_info[1]
        if isinstance(error, grpc.RpcError):
            error = MeshError.of(error)
        if isinstance(error, MeshError):
            if error.reason in _AWAY:
                raise LedgerUnavailable("the ledger is not available") from error
            raise LedgerRefused(error) from error


@contextmanager
def _unknown_hold() -> Iterator[None]:
    try:
        yield
    except LedgerRefused as error:
        if isinstance(error.refusal, MeshError) and error.refusal.reason in _NO_HOLD:
            raise HoldUnknown(error.refusal) from error
        raise


def _closed(error: LedgerRefused) -> HoldClosed | None:
    """The refusal as one of a hold that is closed; None where it is another."""
    refusal = error.refusal
    if not isinstance(refusal, MeshError) or refusal.reason != ErrorReason.ERROR_REASON_HOLD_CLOSED:
        return None
    facts = refusal.metadata
    return HoldClosed(refusal, state=facts.get("state", ""), receipt_id=facts.get("receipt_id", ""))


def _facts(facts: SettleFacts) -> ledger_pb2.ChargeFacts:
    return ledger_pb2.ChargeFacts(
        usage=usage_to_proto(facts.usage),
        price=price_to_proto(facts.price),
        served_mode=ledger_pb2.SERVED_MODE_FRESH,
        outcome=ledger_pb2.Outcome.ValueType(facts.outcome.value),
        requested_model=facts.requested_model,
        model=facts.model,
        source_id=facts.source_id,
        upstream_model=facts.upstream_model,
        trace_id=facts.trace_id,
        request_digest=facts.request_digest,
        answer_digest=facts.answer_digest,
        tags=facts.tags,
        started_at_ms=facts.started_at_ms,
    )


def _attempt(attempt: Attempt) -> ledger_pb2.Attempt:
    return ledger_pb2.Attempt(
        offer_id=attempt.offer_id,
        started_at_ms=attempt.started_at_ms,
        duration_ms=attempt.duration_ms,
        http_status=attempt.http_status,
        won=attempt.won,
        failure=attempt.failure,
    )
