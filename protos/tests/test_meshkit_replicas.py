"""A channel to replicas: which of them a call reaches, and what its caller notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from meshkit import addresses
from meshkit.channels import Dialer
from meshkit.errors import MeshError, maps_errors, mesh_errors
from meshkit.replicas import may_be_sent_again
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import account_pb2, ledger_pb2_grpc, webhooks_pb2
from tallygate.ledger.v1 import ledger_pb2 as pb

OFF = Telemetry.off()
UNAVAILABLE = ErrorReason.ERROR_REASON_UNAVAILABLE
HOLD = pb.ReserveRequest(request_id="r")


@maps_errors({})
class Replica(ledger_pb2_grpc.LedgerServiceServicer):
    """Says its name in what it answers, if it leads."""

    def __init__(self, name: str, *, leads: bool) -> None:
        self.name = name
        self.leads = leads
        self.full = False
        self.asked = 0
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def _lead(self) -> None:
        self.asked += 1
        self.entered.set()
        await self.go_on.wait()
        if self.full:
            raise MeshError(UNAVAILABLE, "too many calls wait", metadata={"queue": "full"})
        if not self.leads:
            raise MeshError(UNAVAILABLE, "stands by", metadata={"role": "standby"})

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        await self._lead()
        return pb.ReserveResponse(hold_id=self.name)

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        await self._lead()
        return pb.CreateKeyResponse(secret=self.name)

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Any) -> pb.GetBalanceResponse:
        return pb.GetBalanceResponse(balance=pb.Balance(org_id=self.name))

    async def WatchRevocations(self, request: Any, context: Any) -> AsyncIterator[pb.WatchRevocationsResponse]:
        yield pb.WatchRevocationsResponse(key_id=self.name)
        await asyncio.Event().wait()


class Pair:
    """Two replicas, and a stub for both."""

    def __init__(self, a: Replica, b: Replica, stub: Any, ends: dict[str, AsyncExitStack]) -> None:
        self.a, self.b, self.stub = a, b, stub
        self._ends = ends

    async def end(self, name: str) -> None:
        """The replica is gone at once, with whatever it works on."""
        await self._ends[name].aclose()


@pytest.fixture(params=[True, False], ids=["exchange", "plain"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with paired(exchange=request.param) as made:
        yield made


@asynccontextmanager
async def paired(*, exchange: bool) -> AsyncIterator[Pair]:
    a = Replica("a", leads=False)  # type: ignore[abstract] # only what the tests call
    b = Replica("b", leads=True)  # type: ignore[abstract]
    ends: dict[str, AsyncExitStack] = {}
    bound = []
    async with AsyncExitStack() as stack:
        for replica in (a, b):
            end = ends[replica.name] = await stack.enter_async_context(AsyncExitStack())
            service = running(
                lambda server, r=replica: ledger_pb2_grpc.add_LedgerServiceServicer_to_server(r, server),  # type: ignore[misc]
                "grpc://127.0.0.1:0",
                OFF,
                drain_s=0.05,
            )
            bound.append(await end.enter_async_context(service))
        dial = await stack.enter_async_context(Dialer(OFF, exchange=exchange))
        yield Pair(a, b, ledger_pb2_grpc.LedgerServiceStub(dial(",".join(bound))), ends)


async def refusal(call: Any) -> MeshError:
    with pytest.raises(MeshError) as caught, mesh_errors():
        await call
    return caught.value


async def test_a_call_finds_the_replica_that_leads_and_the_next_one_knows(pair: Pair) -> None:
    for _ in range(3):
        assert (await pair.stub.Reserve(HOLD, timeout=5)).hold_id == "b"
    assert (pair.a.asked, pair.b.asked) == (1, 3)
    pair.a.leads, pair.b.leads = True, False
    assert (await pair.stub.Reserve(HOLD, timeout=5)).hold_id == "a"
    assert (await pair.stub.GetBalance(pb.GetBalanceRequest(), timeout=5)).balance.org_id == "a"


async def test_what_a_standby_refused_was_not_done_and_goes_on_whatever_it_is(pair: Pair) -> None:
    assert not may_be_sent_again("/tallygate.ledger.v1.LedgerService/CreateKey")
    assert (await pair.stub.CreateKey(pb.CreateKeyRequest(), timeout=5)).secret == "b"


async def test_a_read_is_answered_by_whoever_is_there(pair: Pair) -> None:
    assert (await pair.stub.GetBalance(pb.GetBalanceRequest(), timeout=5)).balance.org_id == "a"
    await pair.end("a")
    assert (await pair.stub.GetBalance(pb.GetBalanceRequest(), timeout=5)).balance.org_id == "b"


async def test_a_command_survives_the_end_of_the_replica_that_works_on_it(pair: Pair) -> None:
    await pair.stub.Reserve(HOLD, timeout=5)
    pair.b.go_on.clear()
    pair.b.entered.clear()
    call = pair.stub.Reserve(HOLD, timeout=10)
    await pair.b.entered.wait()
    pair.a.leads = True
    await pair.end("b")
    assert (await call).hold_id == "a"


async def test_what_may_not_be_sent_twice_is_not(pair: Pair) -> None:
    await pair.stub.Reserve(HOLD, timeout=5)
    pair.b.go_on.clear()
    pair.b.entered.clear()
    call = pair.stub.CreateKey(pb.CreateKeyRequest(), timeout=10)
    await pair.b.entered.wait()
    pair.a.leads = True
    await pair.end("b")
    assert (await refusal(call)).reason == UNAVAILABLE
    assert pair.a.asked == 1
    assert (await pair.stub.CreateKey(pb.CreateKeyRequest(), timeout=5)).secret == "a"


async def test_a_command_waits_until_one_leads(pair: Pair) -> None:
    pair.b.leads = False
    calls = [pair.stub.Reserve(HOLD, timeout=10) for _ in range(20)]
    await pair.b.entered.wait()
    pair.b.leads = True
    assert {(await call).hold_id for call in calls} == {"b"}


async def test_a_search_ends_in_time_and_says_why(pair: Pair) -> None:
    pair.b.leads = False
    error = await refusal(pair.stub.Reserve(HOLD, timeout=0.5))
    assert (error.reason, error.metadata) == (UNAVAILABLE, {"role": "standby"})
    assert 2 <= pair.a.asked <= 10


async def test_a_full_queue_is_an_answer(pair: Pair) -> None:
    await pair.stub.Reserve(HOLD, timeout=5)
    pair.b.full = True
    assert (await refusal(pair.stub.Reserve(HOLD, timeout=5))).metadata == {"queue": "full"}
    assert pair.a.asked == 1


async def test_a_caller_that_goes_ends_its_search(pair: Pair) -> None:
    pair.b.go_on.clear()
    call = pair.stub.Reserve(HOLD, timeout=5)
    await pair.b.entered.wait()
    assert call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    pair.a.leads = pair.b.leads = False
    pair.b.go_on.set()
    pausing = pair.stub.Reserve(HOLD, timeout=0.2)
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing


async def test_a_watch_turns_to_another_replica_when_it_is_begun_again(pair: Pair) -> None:
    request = pb.WatchRevocationsRequest()
    watch = pair.stub.WatchRevocations(request, timeout=10)
    assert (await watch.read()).key_id == "a"
    await pair.end("a")
    with pytest.raises(grpc.aio.AioRpcError):
        await watch.read()
    assert (await pair.stub.WatchRevocations(request, timeout=10).read()).key_id == "b"


def test_the_ledger_says_which_calls_may_be_sent_again() -> None:
    service = pb.DESCRIPTOR.services_by_name["LedgerService"]
    once = {method.name for method in service.methods if not may_be_sent_again(f"/{service.full_name}/{method.name}")}
    assert once == {"CreateOrganization", "CreateProject", "CreateKey"}
    service = account_pb2.DESCRIPTOR.services_by_name["AccountService"]
    once = {method.name for method in service.methods if not may_be_sent_again(f"/{service.full_name}/{method.name}")}
    assert once == {"RotateKey"}


def test_the_webhook_service_says_which_calls_may_be_sent_again() -> None:
    service = webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"]
    once = {method.name for method in service.methods if not may_be_sent_again(f"/{service.full_name}/{method.name}")}
    assert once == {"CreateWebhook", "DeleteWebhook", "RotateWebhookSecret", "SetKeyWebhook", "TestWebhook"}


@pytest.mark.parametrize("address", ["grpc://a:1,grpc://a:1", "grpc://a:1,local://b", "grpc://a:1,", "grpc://a:1 b:2"])
def test_what_is_no_list_of_replicas(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        addresses.parse_all(address)
