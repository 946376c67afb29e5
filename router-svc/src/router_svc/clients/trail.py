"""The ledger's audit trail over gRPC."""

from __future__ import annotations

import grpc

from meshkit.codec import actor_to_proto, price_to_proto
from meshkit.deadlines import deadline
from meshkit.errors import MeshError, mesh_errors
from meshkit.money import PriceSnapshot
from meshkit.principal import Actor, ActorKind
from router_svc.domain.errors import LedgerRefused, LedgerUnavailable
from router_svc.domain.repricing import Repricing
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import audit_pb2
from tallygate.ledger.v1.audit_pb2_grpc import AuditServiceStub

MAX_LISTED = 50
"""Offers of each sort that an entry names; see audit.proto."""
_CATALOG = Actor(ActorKind.SYSTEM, id="catalog")
_AWAY = frozenset({ErrorReason.ERROR_REASON_UNAVAILABLE, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED})


class GrpcPriceTrail:
    """As the Protocol ``PriceTrail``."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._stub = AuditServiceStub(channel)
        self._timeout_s = timeout_s

    async def record(self, change: Repricing) -> str:
        """As PriceTrail.record."""
        request = audit_pb2.RecordCatalogRevisionRequest(
            revision=change.revision,
            previous_revision=change.previous_revision,
            price_changes=[
                audit_pb2.PriceChange(offer_id=one.offer_id, before=_price(one.before), after=_price(one.after))
                for one in change.price_changes[:MAX_LISTED]
            ],
            price_change_count=len(change.price_changes),
            added_offer_ids=change.added[:MAX_LISTED],
            added_offer_count=len(change.added),
            removed_offer_ids=change.removed[:MAX_LISTED],
            removed_offer_count=len(change.removed),
            changes_unknown=not change.known,
            actor=actor_to_proto(_CATALOG),
        )
        try:
            with deadline(self._timeout_s, detached=True), mesh_errors():
                response = await self._stub.RecordCatalogRevision(request, timeout=self._timeout_s)
        except MeshError as error:
            if error.reason in _AWAY:
                raise LedgerUnavailable("the ledger is not available") from error
            raise LedgerRefused(error) from error
        return response.revision


def _price(price: PriceSnapshot | None) -> money_pb2.PriceSnapshot | None:
    return None if price is None else price_to_proto(price)
