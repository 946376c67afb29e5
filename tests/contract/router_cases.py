"""Cases of the router."""

from __future__ import annotations

from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.router.v1 import router_pb2
from tests.contract.cases import (
    MODEL,
    TIMEOUT_S,
    body,
    covers,
    refused,
)
from tests.contract.world import World


def complete(world: World, *, stream: bool) -> router_pb2.CompleteRequest:
    return router_pb2.CompleteRequest(
        principal=world.principal,
        request_id=world.request_id(),
        endpoint="chat/completions",
        model=MODEL,
        openai_body=body(stream=stream),
        stream=stream,
        requested_model=MODEL,
    )


@covers("RouterService/Complete")
async def router_complete(world: World) -> None:
    for stream in (False, True):
        call = world.router.Complete(complete(world, stream=stream), timeout=TIMEOUT_S)
        events = [event async for event in call]
        kinds = [event.WhichOneof("event") for event in events]
        assert (kinds[0], kinds[-1], "chunks" in kinds) == ("route", "final", stream)
        final = events[-1].final
        assert final.charged_nano_usd > 0
        request = ledger_pb2.GetReceiptRequest(org_id=world.org_id, receipt_id=final.receipt_id)
        receipt = (await world.ledger.GetReceipt(request, timeout=TIMEOUT_S)).receipt
        assert receipt.charged_nano_usd == final.charged_nano_usd
    unknown = complete(world, stream=False)
    unknown.model = "no/such-model"
    await refused(_drained(world, unknown), ErrorReason.ERROR_REASON_MODEL_NOT_FOUND)


async def _drained(world: World, request: router_pb2.CompleteRequest) -> None:
    async for _ in world.router.Complete(request, timeout=TIMEOUT_S):
        pass


@covers("RouterService/Plan")
async def router_plan(world: World) -> None:
    calls_before = len(world.upstream.calls)
    request = router_pb2.PlanRequest(
        principal=world.principal, endpoint="chat/completions", model=MODEL, openai_body=body()
    )
    plan = await world.router.Plan(request, timeout=TIMEOUT_S)
    assert plan.hold_nano_usd == max(candidate.worst_case_nano_usd for candidate in plan.candidates) > 0
    assert len(world.upstream.calls) == calls_before
