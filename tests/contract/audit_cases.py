"""Cases of the ledger's audit service."""

from __future__ import annotations

import json
from typing import Any

from ledger_svc.domain.checkpoints import verify_checkpoint
from ledger_svc.domain.merkle import leaf_hash, verify_inclusion
from ledger_svc.domain.signing import JwsKind, verify_jws
from tallygate.common.v1 import actor_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import audit_pb2
from tests.contract.cases import TIMEOUT_S, covers, refused
from tests.contract.ledger_cases import public_keys
from tests.contract.world import World


async def first_entry(world: World) -> audit_pb2.AuditEntry:
    request = audit_pb2.ListAuditEntriesRequest(org_id=world.org_id, action_prefix="organization.")
    (entry,) = (await world.audit.ListAuditEntries(request, timeout=TIMEOUT_S)).entries
    return entry


@covers("AuditService/ListAuditEntries")
async def list_audit_entries(world: World) -> None:
    entry = await first_entry(world)
    assert (entry.org_id, entry.subject, entry.action) == (world.org_id, world.org_id, "organization.created")
    assert (entry.actor.kind, json.loads(entry.after_json)) == (
        actor_pb2.ACTOR_KIND_OPERATOR,
        {"name": "contract"},
    )
    request = audit_pb2.ListAuditEntriesRequest(org_id=world.org_id, page_size=2)
    first = await world.audit.ListAuditEntries(request, timeout=TIMEOUT_S)
    request.page_token = first.next_page_token
    second = await world.audit.ListAuditEntries(request, timeout=TIMEOUT_S)
    times = [entry.created_at_ms for entry in (*first.entries, *second.entries)]
    assert times == sorted(times, reverse=True)
    assert len({entry.entry_id for entry in (*first.entries, *second.entries)}) == 4
    request.page_token = "x"
    await refused(world.audit.ListAuditEntries(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AuditService/GetAuditEntry")
async def get_audit_entry(world: World) -> None:
    entry = await first_entry(world)
    request = audit_pb2.GetAuditEntryRequest(org_id=world.org_id, entry_id=entry.entry_id)
    found = await world.audit.GetAuditEntry(request, timeout=TIMEOUT_S)
    assert found.entry == entry
    _, document = verify_jws(found.jws, await public_keys(world), JwsKind.AUDIT_ENTRY)
    assert json.loads(document)["entry_id"] == entry.entry_id
    request.org_id = "org_other"
    await refused(world.audit.GetAuditEntry(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AuditService/GetAuditProof")
async def get_audit_proof(world: World) -> None:
    entry, keys = await first_entry(world), await public_keys(world)
    request = audit_pb2.GetAuditProofRequest(org_id=world.org_id, entry_id=entry.entry_id)
    found = await world.audit.GetAuditProof(request, timeout=TIMEOUT_S)
    _, said = verify_checkpoint(found.checkpoint, keys)
    assert said.size == found.tree_size
    leaf = leaf_hash(found.jws.encode())
    assert verify_inclusion(leaf, found.leaf_index, said.size, found.hashes, said.root_hash)
    request.org_id = "org_other"
    await refused(world.audit.GetAuditProof(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("AuditService/RecordCatalogRevision")
async def record_catalog_revision(world: World) -> None:
    wanted = audit_pb2.ListAuditEntriesRequest(org_id=world.org_id, action_prefix="catalog.revised")

    async def told() -> list[audit_pb2.AuditEntry]:
        return list((await world.audit.ListAuditEntries(wanted, timeout=TIMEOUT_S)).entries)

    before = await told()
    while not before:  # the router tells of the revision that it began with
        before = await told()
    last = before[0].subject
    request = audit_pb2.RecordCatalogRevisionRequest(revision="next", previous_revision="another")
    assert (await world.audit.RecordCatalogRevision(request, timeout=TIMEOUT_S)).revision == last
    assert await told() == before
    request.previous_revision = last
    for _ in range(2):
        assert (await world.audit.RecordCatalogRevision(request, timeout=TIMEOUT_S)).revision == "next"
    (entry, *rest) = await told()
    assert rest == before
    assert (entry.org_id, json.loads(entry.before_json)["revision"], entry.subject) == ("", last, "next")
    request = audit_pb2.RecordCatalogRevisionRequest(revision="", previous_revision="next")
    refusal = world.audit.RecordCatalogRevision(request, timeout=TIMEOUT_S)
    await refused(refusal, ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("AuditService/RecordCacheAction")
async def record_cache_action(world: World) -> None:
    request = audit_pb2.RecordCacheActionRequest(
        org_id=world.org_id, action=audit_pb2.CACHE_ACTION_RECORDINGS_EXPORTED, subject=world.org_id, from_ms=7
    )
    told = await world.audit.RecordCacheAction(request, timeout=TIMEOUT_S)
    wanted = audit_pb2.GetAuditEntryRequest(org_id=world.org_id, entry_id=told.entry_id)
    entry = (await world.audit.GetAuditEntry(wanted, timeout=TIMEOUT_S)).entry
    assert (entry.action, entry.subject, entry.after_json) == ("recordings.exported", world.org_id, '{"from_ms":7}')
    for changed in (
        {"action": audit_pb2.CACHE_ACTION_UNSPECIFIED},
        {"action": audit_pb2.CACHE_ACTION_PURGED, "scope": "everything"},
        {"org_id": ""},
        {"from_ms": -1},
    ):
        bad = audit_pb2.RecordCacheActionRequest(**{**fields_of(request), **changed})
        await refused(world.audit.RecordCacheAction(bad, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)


def fields_of(request: audit_pb2.RecordCacheActionRequest) -> dict[str, Any]:
    """What is set of it."""
    return {field.name: value for field, value in request.ListFields()}
