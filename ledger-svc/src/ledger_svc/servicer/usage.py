"""``tallygate.ledger.v1.UsageService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.journal import TransferKind
from ledger_svc.domain.latency import percentiles_ms
from ledger_svc.domain.usage import COUNTS, Dimension, Question, Sums, Values, tier_of
from ledger_svc.service.usage import UsageService
from ledger_svc.service.usage_ports import Failure, FinishedRequest, Movement, RequestFilter
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import MODES, known, receipt_to_proto
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import ledger_pb2
from tallygate.ledger.v1 import usage_pb2 as pb
from tallygate.ledger.v1.usage_pb2_grpc import UsageServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

_DIMENSIONS = {
    pb.USAGE_DIMENSION_DAY: Dimension.DAY,
    pb.USAGE_DIMENSION_HOUR: Dimension.HOUR,
    pb.USAGE_DIMENSION_KEY: Dimension.KEY,
    pb.USAGE_DIMENSION_PROJECT: Dimension.PROJECT,
    pb.USAGE_DIMENSION_MODEL: Dimension.MODEL,
    pb.USAGE_DIMENSION_SOURCE: Dimension.SOURCE,
    pb.USAGE_DIMENSION_TIER: Dimension.TIER,
    pb.USAGE_DIMENSION_SERVED_MODE: Dimension.SERVED_MODE,
    pb.USAGE_DIMENSION_TAG: Dimension.TAG,
}
_STATUSES = {pb.REQUEST_STATUS_UNSPECIFIED: None, pb.REQUEST_STATUS_OK: True, pb.REQUEST_STATUS_ERROR: False}
_KINDS = {
    TransferKind.CREDIT: pb.MOVEMENT_KIND_CREDIT,
    TransferKind.SETTLEMENT: pb.MOVEMENT_KIND_CHARGE,
    TransferKind.EXPIRY: pb.MOVEMENT_KIND_EXPIRY,
    TransferKind.REFUND: pb.MOVEMENT_KIND_REFUND,
    TransferKind.CORRECTION: pb.MOVEMENT_KIND_CORRECTION,
}
_CREDIT_KINDS = {
    CreditKind.PAID: ledger_pb2.CREDIT_KIND_PAID,
    CreditKind.PROMOTIONAL: ledger_pb2.CREDIT_KIND_PROMOTIONAL,
}
_FAILURE_FIELDS = [name for name in Failure.__dataclass_fields__ if name != "tags"]


@maps_errors(ERRORS)
class UsageServicer(UsageServiceServicer):
    """The methods of usage.proto."""

    def __init__(self, usage: UsageService) -> None:
        self._usage = usage

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        """See usage.proto."""
        question, found = await self._usage.usage(
            Question(
                org_id=request.org_id,
                from_ms=request.from_ms,
                to_ms=request.to_ms,
                dimensions=tuple(known("group_by", _DIMENSIONS, number) for number in request.group_by),
                tag_key=request.tag_key,
                project_id=request.project_id,
                key_id=request.key_id,
                model=request.model,
            )
        )
        total = Sums()
        for sums in found.groups.values():
            total.add(sums.counts, sums.latencies)
        corrected = found.corrected_nano_usd
        return pb.QueryUsageResponse(
            from_ms=question.from_ms,
            to_ms=question.to_ms,
            groups=[
                pb.UsageGroup(
                    values=["" if value is None else str(value) for value in values],
                    untagged=None in values,
                    sums=_sums_to_proto(found.groups[values], corrected.get(values, 0)),
                )
                for values in sorted(found.groups, key=_in_order)
            ],
            total=_sums_to_proto(total, sum(corrected.values())),
        )

    async def ListRequests(self, request: pb.ListRequestsRequest, context: Context) -> pb.ListRequestsResponse:
        """See usage.proto."""
        any_mode = request.served_mode == ledger_pb2.SERVED_MODE_UNSPECIFIED
        asked = RequestFilter(
            org_id=request.org_id,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
            project_id=request.project_id,
            key_id=request.key_id,
            model=request.model,
            source_id=request.source_id,
            served_mode=None if any_mode else known("served_mode", MODES, request.served_mode),
            ok=_STATUSES.get(request.status),
            tag=(request.tag_key, request.tag_value) if request.tag_key else None,
        )
        found, token = await self._usage.page(asked, page_size=request.page_size, page_token=request.page_token)
        return pb.ListRequestsResponse(requests=map(_request_to_proto, found), next_page_token=token)

    async def GetRequest(self, request: pb.GetRequestRequest, context: Context) -> pb.GetRequestResponse:
        """See usage.proto."""
        found = await self._usage.request(request.org_id, request.request_id)
        return pb.GetRequestResponse(request=_request_to_proto(found))

    async def RecordFailures(self, request: pb.RecordFailuresRequest, context: Context) -> pb.RecordFailuresResponse:
        """See usage.proto."""
        failures = [
            Failure(
                **{name: getattr(failed, name) for name in _FAILURE_FIELDS}, tags=tuple(sorted(failed.tags.items()))
            )
            for failed in request.failures
        ]
        return pb.RecordFailuresResponse(recorded=await self._usage.record(failures))

    async def ListMovements(self, request: pb.ListMovementsRequest, context: Context) -> pb.ListMovementsResponse:
        """See usage.proto."""
        found, token, span = await self._usage.movements(
            request.org_id,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListMovementsResponse(
            movements=map(_movement_to_proto, found),
            next_page_token=token,
            opening_nano_usd=span.opening_nano_usd,
            closing_nano_usd=span.closing_nano_usd,
        )

    async def RebuildUsage(self, request: pb.RebuildUsageRequest, context: Context) -> pb.RebuildUsageResponse:
        """See usage.proto."""
        return pb.RebuildUsageResponse(receipts=await self._usage.rebuild())


def _in_order(values: Values) -> list[tuple[int, int, str]]:
    """Times by number, names by alphabet, what has no tag last."""
    return [
        (1, 0, "") if value is None else (0, value, "") if isinstance(value, int) else (0, 0, value) for value in values
    ]


def _sums_to_proto(sums: Sums, corrected_nano_usd: int) -> pb.UsageSums:
    percentiles = percentiles_ms(sums.latencies, 50, 90, 99)
    return pb.UsageSums(
        **dict(zip(COUNTS, sums.counts, strict=True)),
        corrected_nano_usd=corrected_nano_usd,
        latency=None
        if percentiles is None
        else pb.Latency(p50_ms=percentiles[0], p90_ms=percentiles[1], p99_ms=percentiles[2]),
    )


def _request_to_proto(request: FinishedRequest) -> pb.RequestEntry:
    receipt, failure = request.receipt, request.failure
    entry = pb.RequestEntry(
        at_ms=request.at_ms,
        latency_ms=request.latency_ms,
        status=pb.REQUEST_STATUS_OK if failure is None else pb.REQUEST_STATUS_ERROR,
        http_status=200 if failure is None else failure.http_status,
        error_code="" if failure is None else failure.error_code,
    )
    said = failure if receipt is None else receipt
    assert said is not None
    facts = failure if receipt is None else receipt.facts
    assert facts is not None
    for name in ("request_id", "project_id", "key_id"):
        setattr(entry, name, getattr(said, name))
    for name in ("requested_model", "model", "trace_id"):
        setattr(entry, name, getattr(facts, name))
    entry.tags.update(facts.tags)
    if receipt is not None:
        entry.receipt.CopyFrom(receipt_to_proto(receipt))
        entry.tier = tier_of(receipt.facts.price.tier.name.lower(), receipt.facts.requested_model)
    return entry


def _movement_to_proto(movement: Movement) -> pb.Movement:
    return pb.Movement(
        transfer_id=movement.transfer_id,
        at_ms=movement.at_ms,
        kind=_KINDS[movement.kind],
        credit_kind=_CREDIT_KINDS[movement.credit_kind],
        amount_nano_usd=movement.amount_nano_usd,
        receipt_id=movement.receipt_id,
    )
