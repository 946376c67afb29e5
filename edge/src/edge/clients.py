"""The other services over gRPC. Every call has a deadline, every failure is a ``MeshError``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge.errors import refusal
from edge.mesh import Mesh
from edge.settings import EdgeSettings
from meshkit.channels import Dial
from meshkit.deadlines import deadline, remaining_s
from meshkit.errors import MeshError, mesh_errors
from tallygate.cache.v1 import cache_pb2, cache_pb2_grpc, fills_pb2, fills_pb2_grpc, flights_pb2, flights_pb2_grpc
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate.router.v1 import router_pb2, router_pb2_grpc

_log = structlog.get_logger(__name__)
_UNCERTAIN = {ErrorReason.ERROR_REASON_UNAVAILABLE, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class GrpcLedger:
    """``edge.mesh.Ledger``."""

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_s: float, watch_timeout_s: float, charge_patience_s: float
    ) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._timeout_s = timeout_s
        self._watch_timeout_s = watch_timeout_s
        self._charge_patience_s = charge_patience_s
        self._charges: set[asyncio.Task[ledger_pb2.Receipt]] = set()

    async def authenticate(self, secret: str) -> ledger_pb2.AuthenticateResponse:
        """Who holds ``secret``."""
        with mesh_errors():
            return await self._stub.Authenticate(ledger_pb2.AuthenticateRequest(secret=secret), timeout=self._timeout_s)

    async def charge(self, request: ledger_pb2.ChargeRequest) -> ledger_pb2.Receipt:
        """Charges for a replay.

        A client that is refused asks again under a request id of its own, and pays for it. So a charge of which nobody
        knows whether it arrived is sent again, and its request id makes all of them one, until the ledger has said what
        became of it; also where the client does not wait for that.
        """
        return await self._patiently(request.request_id, lambda: self._charge(request))

    async def settle(self, request: ledger_pb2.SettleRequest) -> ledger_pb2.Receipt:
        """Charges for a replay that was held for; as ``charge``."""
        return await self._patiently(request.request_id, lambda: self._settle(request))

    async def _patiently(
        self, request_id: str, charge: Callable[[], Awaitable[ledger_pb2.Receipt]]
    ) -> ledger_pb2.Receipt:
        task = asyncio.create_task(self._until_known(request_id, charge))
        self._charges.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._charges.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: _log_unawaited(request_id, done))
            raise

    async def _until_known(
        self, request_id: str, charge: Callable[[], Awaitable[ledger_pb2.Receipt]]
    ) -> ledger_pb2.Receipt:
        pause_s = _FIRST_PAUSE_S
        with deadline(self._charge_patience_s, detached=True):
            while True:
                try:
                    return await charge()
                except MeshError as error:
                    if error.reason not in _UNCERTAIN:
                        raise
                    if (remaining_s() or 0.0) <= pause_s:
                        _log.error("charge_fate_unknown", request_id=request_id, reason=error.message)
                        raise refusal(ErrorReason.ERROR_REASON_UNAVAILABLE, error.message) from error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _charge(self, request: ledger_pb2.ChargeRequest) -> ledger_pb2.Receipt:
        try:
            with mesh_errors():
                answer = await self._stub.Charge(request, timeout=self._timeout_s)
        except MeshError as error:
            if error.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST:
                # The edge wrote this request, not the client: what is wrong with it is no fault of theirs.
                _log.error("charge_refused", request_id=request.request_id, reason=error.message)
                raise refusal(ErrorReason.ERROR_REASON_INTERNAL, error.message) from error
            raise
        return answer.receipt

    async def _settle(self, request: ledger_pb2.SettleRequest) -> ledger_pb2.Receipt:
        with mesh_errors():
            return (await self._stub.Settle(request, timeout=self._timeout_s)).receipt

    async def reserve(self, request: ledger_pb2.ReserveRequest) -> None:
        """Holds what a replay may cost that is not whole yet."""
        with mesh_errors():
            await self._stub.Reserve(request, timeout=self._timeout_s)

    async def release(self, request: ledger_pb2.ReleaseRequest) -> None:
        """Gives such a hold back, whoever has gone."""
        with deadline(self._timeout_s, detached=True), mesh_errors():
            await self._stub.Release(request, timeout=self._timeout_s)

    async def receipt(self, org_id: str, receipt_id: str) -> ledger_pb2.GetReceiptResponse:
        """One receipt of the organisation, and as signed."""
        _require_org(org_id)
        request = ledger_pb2.GetReceiptRequest(org_id=org_id, receipt_id=receipt_id)
        with mesh_errors():
            return await self._stub.GetReceipt(request, timeout=self._timeout_s)

    async def inclusion_proof(
        self, org_id: str, receipt_id: str, tree_size: int
    ) -> ledger_pb2.GetInclusionProofResponse:
        """Proves that a receipt of the organisation stands in the log."""
        _require_org(org_id)
        request = ledger_pb2.GetInclusionProofRequest(org_id=org_id, receipt_id=receipt_id, tree_size=tree_size)
        with mesh_errors():
            return await self._stub.GetInclusionProof(request, timeout=self._timeout_s)

    async def checkpoint(self, tree_size: int) -> ledger_pb2.GetCheckpointResponse:
        """A signed state of the log."""
        request = ledger_pb2.GetCheckpointRequest(tree_size=tree_size)
        with mesh_errors():
            return await self._stub.GetCheckpoint(request, timeout=self._timeout_s)

    async def consistency_proof(self, first_size: int, second_size: int) -> ledger_pb2.GetConsistencyProofResponse:
        """Proves that the log only grew."""
        request = ledger_pb2.GetConsistencyProofRequest(first_size=first_size, second_size=second_size)
        with mesh_errors():
            return await self._stub.GetConsistencyProof(request, timeout=self._timeout_s)

    async def signing_keys(self) -> ledger_pb2.ListSigningKeysResponse:
        """The public keys of the log."""
        with mesh_errors():
            return await self._stub.ListSigningKeys(ledger_pb2.ListSigningKeysRequest(), timeout=self._timeout_s)

    async def revocations(self) -> AsyncGenerator[ledger_pb2.WatchRevocationsResponse]:
        """Keys as they are revoked or changed; first an empty message."""
        with mesh_errors():
            call = self._stub.WatchRevocations(ledger_pb2.WatchRevocationsRequest(), timeout=self._watch_timeout_s)
            try:
                async for message in call:
                    yield message
            finally:
                call.cancel()


class GrpcCache:
    """``edge.mesh.Cache``."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = cache_pb2_grpc.CacheServiceStub(channel)
        self._timeout_s = timeout_s

    async def lookup(self, request: cache_pb2.LookupRequest) -> cache_pb2.LookupResponse:
        """A stored answer, or leave to store one."""
        with mesh_errors():
            return await self._stub.Lookup(request, timeout=self._timeout_s)


class GrpcFlights:
    """``edge.mesh.Flights``. Ends of a lead have deadlines of their own: they are told whoever has gone."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = flights_pb2_grpc.FlightServiceStub(channel)
        self._timeout_s = timeout_s

    async def board(self, request: flights_pb2.BoardRequest) -> flights_pb2.BoardResponse:
        """Lead, or get what the flight landed with, or wait for that."""
        with mesh_errors():
            return await self._stub.Board(request, timeout=self._timeout_s + request.wait_ms / 1_000)

    async def renew(self, ticket: flights_pb2.FlightPass, lease_s: float) -> bool:
        """Prolong the lead; False: another leads."""
        request = flights_pb2.RenewRequest(ticket=ticket, lease_ms=round(1_000 * lease_s))
        with mesh_errors():
            return (await self._stub.Renew(request, timeout=self._timeout_s)).leads

    async def land(self, ticket: flights_pb2.FlightPass, landing: flights_pb2.Landing) -> None:
        """End the flight with an answer that was charged."""
        request = flights_pb2.LandRequest(ticket=ticket, landing=landing)
        with deadline(self._timeout_s, detached=True), mesh_errors():
            await self._stub.Land(request, timeout=self._timeout_s)

    async def abandon(
        self, ticket: flights_pb2.FlightPass, ending: flights_pb2.AbandonRequest.Ending.ValueType
    ) -> None:
        """End the lead without one."""
        request = flights_pb2.AbandonRequest(ticket=ticket, ending=ending)
        with deadline(self._timeout_s, detached=True), mesh_errors():
            await self._stub.Abandon(request, timeout=self._timeout_s)


class GrpcFills:
    """``edge.mesh.Fills``. ``timeout_s``: of a whole answer."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = fills_pb2_grpc.FillServiceStub(channel)
        self._timeout_s = timeout_s

    async def follow(self, request: fills_pb2.FollowRequest) -> AsyncGenerator[fills_pb2.FollowResponse]:
        """What the leader says; closing the generator cancels it."""
        with mesh_errors():
            call = self._stub.Follow(request, timeout=self._timeout_s)
            try:
                async for event in call:
                    yield event
            finally:
                call.cancel()


class GrpcRouter:
    """``edge.mesh.Router``."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = router_pb2_grpc.RouterServiceStub(channel)
        self._timeout_s = timeout_s

    def complete(self, request: router_pb2.CompleteRequest) -> RouterEvents:
        """The events of a fresh call; closing them cancels it."""
        with mesh_errors():
            return RouterEvents(self._stub.Complete(request, timeout=self._timeout_s))


class RouterEvents:
    """``edge.mesh.Events``: those of one call. No generator, which each event would have to pass through."""

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    def __aiter__(self) -> RouterEvents:
        return self

    async def __anext__(self) -> router_pb2.CompleteResponse:
        try:
            event = await self._call.read()
        except grpc.RpcError as error:
            raise MeshError.of(error) from error
        except asyncio.CancelledError:
            self._call.cancel()
            raise
        if event is grpc.aio.EOF:
            raise StopAsyncIteration
        found: router_pb2.CompleteResponse = event
        return found

    async def aclose(self) -> None:
        """Cancels the call, unless it is over."""
        self._call.cancel()


class GrpcCatalog:
    """``edge.mesh.Catalog``."""

    def __init__(self, channel: grpc.aio.Channel, *, watch_timeout_s: float) -> None:
        self._stub = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._watch_timeout_s = watch_timeout_s

    async def snapshots(self, known_revision: str) -> AsyncGenerator[catalog_pb2.Snapshot]:
        """The current revision, unless it is known, and each new one."""
        request = catalog_pb2.WatchSnapshotRequest(known_revision=known_revision)
        with mesh_errors():
            call = self._stub.WatchSnapshot(request, timeout=self._watch_timeout_s)
            try:
                async for message in call:
                    yield message.snapshot
            finally:
                call.cancel()


class GrpcProbe:
    """``edge.mesh.Probe``: the health check of https://github.com/grpc/grpc/blob/master/doc/health-checking.md."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs do not know the methods
        self._timeout_s = timeout_s

    async def serving(self) -> bool:
        """Whether the server answers that it serves."""
        try:
            answer = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _require_org(org_id: str) -> None:
    if not org_id:
        raise ValueError("an empty organisation is the operator's, and reads every receipt")


def _log_unawaited(request_id: str, charge: asyncio.Task[ledger_pb2.Receipt]) -> None:
    """Says what became of a charge when whoever began it is gone."""
    if charge.cancelled():
        _log.error("charge_cancelled", request_id=request_id)
    elif isinstance(error := charge.exception(), MeshError):
        _log.warning("charge_failed", request_id=request_id, reason=error.message)
    elif error is not None:
        _log.error("unexpected_error", request_id=request_id, exc_info=error)
    else:
        _log.info("charged_without_client", request_id=request_id, receipt_id=charge.result().receipt_id)


def dial_mesh(settings: EdgeSettings, dial: Dial) -> Mesh:
    """Clients of all services at the addresses of the settings."""
    channels = {
        "catalog": dial(settings.catalog_addr),
        "ledger": dial(settings.ledger_addr),
        "router": dial(settings.router_addr),
        "cache": dial(settings.cache_addr),
    }
    return Mesh(
        ledger=GrpcLedger(
            channels["ledger"],
            timeout_s=settings.rpc_timeout_s,
            watch_timeout_s=settings.watch_timeout_s,
            charge_patience_s=settings.charge_patience_s,
        ),
        cache=GrpcCache(channels["cache"], timeout_s=settings.lookup_timeout_s),
        flights=GrpcFlights(channels["cache"], timeout_s=settings.rpc_timeout_s),
        fills=GrpcFills(channels["cache"], timeout_s=settings.request_timeout_s),
        router=GrpcRouter(channels["router"], timeout_s=settings.request_timeout_s),
        catalog=GrpcCatalog(channels["catalog"], watch_timeout_s=settings.watch_timeout_s),
        probes={name: GrpcProbe(channel, timeout_s=settings.probe_timeout_s) for name, channel in channels.items()},
    )
