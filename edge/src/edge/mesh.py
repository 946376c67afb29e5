"""What the edge needs of the other services. ``edge.clients`` has it over gRPC; a batching client may come instead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from tallygate.cache.v1 import cache_pb2, fills_pb2, flights_pb2
from tallygate.catalog.v1 import catalog_pb2
from tallygate.ledger.v1 import ledger_pb2
from tallygate.router.v1 import router_pb2


class Ledger(Protocol):
    """Keys, charges, receipts. Every method raises ``MeshError``."""

    async def authenticate(self, secret: str) -> ledger_pb2.AuthenticateResponse:
        """Who holds ``secret``."""

    async def charge(self, request: ledger_pb2.ChargeRequest) -> ledger_pb2.Receipt:
        """Charges for a replay; sent again with the same request id it charges nothing more."""

    async def reserve(self, request: ledger_pb2.ReserveRequest) -> None:
        """Holds what a replay may cost that is not whole yet."""

    async def settle(self, request: ledger_pb2.SettleRequest) -> ledger_pb2.Receipt:
        """Charges for such a replay; sent again, it charges nothing more."""

    async def release(self, request: ledger_pb2.ReleaseRequest) -> None:
        """Gives such a hold back."""

    async def receipt(self, org_id: str, receipt_id: str) -> ledger_pb2.GetReceiptResponse:
        """One receipt of the organisation, and as signed."""

    async def inclusion_proof(
        self, org_id: str, receipt_id: str, tree_size: int
    ) -> ledger_pb2.GetInclusionProofResponse:
        """Proves that a receipt of the organisation stands in the log; ``tree_size`` 0: now."""

    async def checkpoint(self, tree_size: int) -> ledger_pb2.GetCheckpointResponse:
        """A signed state of the log; ``tree_size`` 0: the newest."""

    async def consistency_proof(self, first_size: int, second_size: int) -> ledger_pb2.GetConsistencyProofResponse:
        """Proves that the log only grew; ``second_size`` 0: up to the newest checkpoint."""

    async def signing_keys(self) -> ledger_pb2.ListSigningKeysResponse:
        """The public keys of the log."""

    def revocations(self) -> AsyncGenerator[ledger_pb2.WatchRevocationsResponse]:
        """Keys as they are revoked or changed; first an empty message, when the watch stands."""


class Cache(Protocol):
    """Verified replay."""

    async def lookup(self, request: cache_pb2.LookupRequest) -> cache_pb2.LookupResponse:
        """A stored answer, or leave to store one.

        Raises:
            MeshError: INVALID_REQUEST, or the cache is away.
        """


class Flights(Protocol):
    """Who answers, of several requests with the same Idempotency-Key. Every method raises ``MeshError``."""

    async def board(self, request: flights_pb2.BoardRequest) -> flights_pb2.BoardResponse:
        """Lead, or get what the flight landed with, or wait for that. Sent again, it is the same lead."""

    async def renew(self, ticket: flights_pb2.FlightPass, lease_s: float) -> bool:
        """Prolong the lead; False: another leads."""

    async def land(self, ticket: flights_pb2.FlightPass, landing: flights_pb2.Landing) -> None:
        """End the flight with an answer that was charged."""

    async def abandon(
        self, ticket: flights_pb2.FlightPass, ending: flights_pb2.AbandonRequest.Ending.ValueType
    ) -> None:
        """End the lead without one."""


class Fills(Protocol):
    """Those who have the same answered."""

    def follow(self, request: fills_pb2.FollowRequest) -> AsyncGenerator[fills_pb2.FollowResponse]:
        """What the leader says. Closing the generator ends the call.

        Raises:
            MeshError.
        """


class Events(Protocol):
    """What becomes of a fresh call, as it comes."""

    def __aiter__(self) -> Self:
        """Itself."""

    async def __anext__(self) -> router_pb2.CompleteResponse:
        """The next event.

        Raises:
            MeshError: refused or failed.
        """

    async def aclose(self) -> None:
        """Cancels the call; the router settles on its own."""


class Router(Protocol):
    """Fresh answers."""

    def complete(self, request: router_pb2.CompleteRequest) -> Events:
        """Begins a fresh call."""


class Catalog(Protocol):
    """Models and aliases."""

    def snapshots(self, known_revision: str) -> AsyncGenerator[catalog_pb2.Snapshot]:
        """The current revision, unless it is ``known_revision``, and each new one."""


class Probe(Protocol):
    """Whether a service can be reached and says that it serves."""

    async def serving(self) -> bool:
        """One health check; never raises for a service that is away."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The other services."""

    ledger: Ledger
    cache: Cache
    flights: Flights
    fills: Fills
    router: Router
    catalog: Catalog
    probes: Mapping[str, Probe]
    """By the name of the service: catalog, ledger, router, cache."""
