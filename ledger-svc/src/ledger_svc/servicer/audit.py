"""``tallygate.ledger.v1.AuditService``: decode, call the service, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ledger_svc.domain.cache_actions import CacheAction, CacheDeed
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.repricing import OfferList, PriceChange, Repricing
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.trail import TrailService
from ledger_svc.service.trail_ports import TrailFilter
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import actor_of, decoded
from meshkit import codec
from meshkit.errors import maps_errors
from meshkit.money import PriceSnapshot
from tallygate.common.v1 import money_pb2
from tallygate.ledger.v1 import audit_pb2 as pb
from tallygate.ledger.v1.audit_pb2_grpc import AuditServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class AuditServicer(AuditServiceServicer):
    """The methods of audit.proto."""

    def __init__(self, trail: TrailService) -> None:
        self._trail = trail

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """See audit.proto."""
        wanted = TrailFilter(
            org_id=request.org_id,
            action_prefix=request.action_prefix,
            actor_id=request.actor_id,
            subject=request.subject,
            from_ms=request.from_ms,
            to_ms=request.to_ms,
        )
        found, next_page_token = await self._trail.page(
            wanted, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListAuditEntriesResponse(entries=map(entry_to_proto, found), next_page_token=next_page_token)

    async def GetAuditEntry(self, request: pb.GetAuditEntryRequest, context: Context) -> pb.GetAuditEntryResponse:
        """See audit.proto."""
        found = await self._trail.get(request.org_id, request.entry_id)
        return pb.GetAuditEntryResponse(entry=entry_to_proto(found.entry), jws=found.jws, leaf_index=found.leaf_index)

    async def GetAuditProof(self, request: pb.GetAuditProofRequest, context: Context) -> pb.GetAuditProofResponse:
        """See audit.proto."""
        found = await self._trail.prove(request.org_id, request.entry_id, request.tree_size)
        return pb.GetAuditProofResponse(
            jws=found.entry.jws,
            leaf_index=found.entry.leaf_index,
            tree_size=found.checkpoint.size,
            hashes=found.hashes,
            checkpoint=found.checkpoint.note,
        )

    async def RecordCatalogRevision(
        self, request: pb.RecordCatalogRevisionRequest, context: Context
    ) -> pb.RecordCatalogRevisionResponse:
        """See audit.proto."""
        repricing = Repricing(
            revision=request.revision,
            previous_revision=request.previous_revision,
            price_changes=tuple(map(_price_change, request.price_changes)),
            price_change_count=request.price_change_count,
            added=OfferList(tuple(request.added_offer_ids), request.added_offer_count),
            removed=OfferList(tuple(request.removed_offer_ids), request.removed_offer_count),
            unknown=request.changes_unknown,
        )
        told = await self._trail.record_revision(repricing, actor=actor_of(request))
        return pb.RecordCatalogRevisionResponse(revision=told)

    async def RecordCacheAction(
        self, request: pb.RecordCacheActionRequest, context: Context
    ) -> pb.RecordCacheActionResponse:
        """See audit.proto."""
        if request.action not in _CACHE_ACTIONS:
            raise InvalidRequest("action", f"{request.action} is not known")
        deed = CacheDeed(
            org_id=request.org_id,
            action=_CACHE_ACTIONS[request.action],
            subject=request.subject,
            scope=request.scope,
            from_ms=request.from_ms,
        )
        return pb.RecordCacheActionResponse(entry_id=await self._trail.record_deed(deed, actor=actor_of(request)))


_CACHE_ACTIONS = {
    pb.CACHE_ACTION_PURGED: CacheAction.PURGED,
    pb.CACHE_ACTION_RECORDINGS_EXPORTED: CacheAction.RECORDINGS_EXPORTED,
    pb.CACHE_ACTION_RECORDINGS_FORGOTTEN: CacheAction.RECORDINGS_FORGOTTEN,
}


def entry_to_proto(entry: TrailEntry) -> pb.AuditEntry:
    """Encode an entry."""
    return pb.AuditEntry(
        entry_id=entry.entry_id,
        org_id=entry.org_id,
        created_at_ms=entry.created_at_ms,
        actor=codec.actor_to_proto(entry.actor),
        action=entry.action,
        subject=entry.subject,
        before_json=orjson.dumps(entry.before, option=orjson.OPT_SORT_KEYS).decode(),
        after_json=orjson.dumps(entry.after, option=orjson.OPT_SORT_KEYS).decode(),
    )


def _price_change(message: pb.PriceChange) -> PriceChange:
    return PriceChange(
        message.offer_id,
        _price(message.before) if message.HasField("before") else None,
        _price(message.after) if message.HasField("after") else None,
    )


def _price(message: money_pb2.PriceSnapshot) -> PriceSnapshot:
    price: PriceSnapshot = decoded("price_changes.price", codec.price_from_proto, message)
    return price
