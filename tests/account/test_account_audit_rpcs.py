"""Every RPC that changes an account is told in the audit trail: once, with who did it, and without a secret.

A new RPC fails ``test_every_rpc_is_here`` until it stands in ``CHANGES``, or in ``MONEY`` if it is of a request, whose
record is the receipt.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import ANY

import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import MethodOptions

from meshkit.money import NANO_PER_USD
from tallygate.common.v1 import actor_pb2
from tallygate.ledger.v1 import account_pb2, account_pb2_grpc, audit_pb2, audit_pb2_grpc, ledger_pb2
from tests.account.installation import TIMEOUT_S, Installation, Tenant

ACTOR = actor_pb2.Actor(kind=actor_pb2.ACTOR_KIND_API_KEY, id="key_ada", address="2001:db8::7", trace_id="ab" * 16)

MONEY = {"Reserve", "ExtendHold", "Settle", "Release", "Charge"}
"""What a request costs: told by its receipt, in the same log."""


@dataclass
class Stage:
    """An organisation to change, and the secrets that came of it."""

    installation: Installation
    tenant: Tenant
    audit: audit_pb2_grpc.AuditServiceAsyncStub
    accounts: account_pb2_grpc.AccountServiceAsyncStub
    secrets: list[str] = field(default_factory=list)
    org_id: str = ""

    async def receipt_id(self) -> str:
        return (await self.tenant.chat()).headers["x-receipt-id"]

    async def entries(self, org_id: str) -> list[audit_pb2.AuditEntry]:
        request = audit_pb2.ListAuditEntriesRequest(org_id=org_id, page_size=1_000)
        return list((await self.audit.ListAuditEntries(request, timeout=TIMEOUT_S)).entries)


Change = Callable[[Stage], Awaitable[Any]]
Expected = tuple[str, dict[str, Any], dict[str, Any]]
"""(action, some of before, some of after)."""

CHANGES: dict[str, tuple[Change, Expected]] = {}


def changes(method: str, action: str, before: dict[str, Any], after: dict[str, Any]) -> Callable[[Change], Change]:
    """Registers what calls an RPC with ``ACTOR``, and what is to be told."""

    def register(change: Change) -> Change:
        CHANGES[method] = (change, (action, before, after))
        return change

    return register


@changes("CreateOrganization", "organization.created", {}, {"name": "New"})
async def create_organization(stage: Stage) -> None:
    request = ledger_pb2.CreateOrganizationRequest(name="New", actor=ACTOR)
    stage.org_id = (await stage.installation.ledger.CreateOrganization(request, timeout=TIMEOUT_S)).org_id


@changes("CreateProject", "project.created", {}, {"name": "new"})
async def create_project(stage: Stage) -> None:
    request = ledger_pb2.CreateProjectRequest(org_id=stage.tenant.org_id, name="new", actor=ACTOR)
    await stage.installation.ledger.CreateProject(request, timeout=TIMEOUT_S)


@changes("CreateKey", "key.created", {}, {"name": "new", "scope": "inference"})
async def create_key(stage: Stage) -> None:
    request = ledger_pb2.CreateKeyRequest(
        org_id=stage.tenant.org_id, project_id=stage.tenant.project_id, name="new", actor=ACTOR
    )
    stage.secrets.append((await stage.installation.ledger.CreateKey(request, timeout=TIMEOUT_S)).secret)


@changes("UpdateProject", "project.updated", {"name": "default"}, {"name": "renamed"})
async def update_project(stage: Stage) -> None:
    request = account_pb2.UpdateProjectRequest(
        org_id=stage.tenant.org_id, project_id=stage.tenant.project_id, name="renamed", actor=ACTOR
    )
    for _ in range(2):
        await stage.accounts.UpdateProject(request, timeout=TIMEOUT_S)


@changes("UpdateKey", "key.updated", {"name": "chat", "read_only": False}, {"name": "talk", "read_only": True})
async def update_key(stage: Stage) -> None:
    request = account_pb2.UpdateKeyRequest(
        org_id=stage.tenant.org_id, key_id=stage.tenant.inference_key, name="talk", read_only=True, actor=ACTOR
    )
    for _ in range(2):
        await stage.accounts.UpdateKey(request, timeout=TIMEOUT_S)


@changes("UpdateCachePolicy", "organization.updated", {"cache_ttl_s": None}, {"cache_ttl_s": 60})
async def update_cache_policy(stage: Stage) -> None:
    request = account_pb2.UpdateCachePolicyRequest(org_id=stage.tenant.org_id, actor=ACTOR)
    request.change.values.ttl_s = 60
    request.change.fields.paths.append("ttl_s")
    for _ in range(2):
        await stage.accounts.UpdateCachePolicy(request, timeout=TIMEOUT_S)


@changes("RotateKey", "key.rotated", {"prefix": ANY}, {"prefix": ANY})
async def rotate_key(stage: Stage) -> None:
    request = account_pb2.RotateKeyRequest(
        org_id=stage.tenant.org_id, key_id=stage.tenant.inference_key, overlap_ms=60_000, actor=ACTOR
    )
    stage.secrets.append((await stage.accounts.RotateKey(request, timeout=TIMEOUT_S)).secret)


@changes("RevokeKey", "key.revoked", {"name": "chat"}, {})
async def revoke_key(stage: Stage) -> None:
    request = ledger_pb2.RevokeKeyRequest(org_id=stage.tenant.org_id, key_id=stage.tenant.inference_key, actor=ACTOR)
    for _ in range(2):
        await stage.installation.ledger.RevokeKey(request, timeout=TIMEOUT_S)


@changes("AddCredit", "credit.added", {"posted_usd": "1000"}, {"posted_usd": "1001.5", "amount_usd": "1.5"})
async def add_credit(stage: Stage) -> None:
    request = ledger_pb2.AddCreditRequest(
        org_id=stage.tenant.org_id,
        amount_nano_usd=3 * NANO_PER_USD // 2,
        idempotency_key="more",
        kind=ledger_pb2.CREDIT_KIND_PAID,
        actor=ACTOR,
    )
    for _ in range(2):
        await stage.installation.ledger.AddCredit(request, timeout=TIMEOUT_S)


@changes("RefundCredit", "credit.refunded", {"posted_usd": "1000"}, {"posted_usd": "999", "reason": "sorry"})
async def refund_credit(stage: Stage) -> None:
    request = ledger_pb2.RefundCreditRequest(
        org_id=stage.tenant.org_id,
        amount_nano_usd=NANO_PER_USD,
        reason="sorry",
        idempotency_key="back",
        actor=ACTOR,
    )
    for _ in range(2):
        await stage.installation.ledger.RefundCredit(request, timeout=TIMEOUT_S)


@changes("CorrectCharge", "charge.corrected", {"corrected_usd": "0"}, {"corrected_usd": "0.000000001"})
async def correct_charge(stage: Stage) -> None:
    request = ledger_pb2.CorrectChargeRequest(
        org_id=stage.tenant.org_id,
        receipt_id=await stage.receipt_id(),
        amount_nano_usd=1,
        reason="late",
        idempotency_key="late",
        actor=ACTOR,
    )
    for _ in range(2):
        await stage.installation.ledger.CorrectCharge(request, timeout=TIMEOUT_S)


@changes("SetCap", "cap.set", {}, {"scope": "project", "period": "month", "limit_usd": "2"})
async def set_cap(stage: Stage) -> None:
    request = ledger_pb2.SetCapRequest(
        org_id=stage.tenant.org_id,
        scope=ledger_pb2.CAP_SCOPE_PROJECT,
        scope_id=stage.tenant.project_id,
        period=ledger_pb2.CAP_PERIOD_MONTH,
        unit=ledger_pb2.CAP_UNIT_NANO_USD,
        limit=2 * NANO_PER_USD,
        actor=ACTOR,
    )
    for _ in range(2):
        await stage.installation.ledger.SetCap(request, timeout=TIMEOUT_S)


@changes("SetCaps", "cap.set", {}, {"scope": "project", "period": "day", "limit_usd": "3"})
async def set_caps(stage: Stage) -> None:
    request = ledger_pb2.SetCapsRequest(
        org_id=stage.tenant.org_id,
        scope=ledger_pb2.CAP_SCOPE_PROJECT,
        scope_id=stage.tenant.project_id,
        limits=[
            ledger_pb2.CapLimit(
                period=ledger_pb2.CAP_PERIOD_DAY, unit=ledger_pb2.CAP_UNIT_NANO_USD, limit=3 * NANO_PER_USD
            )
        ],
        actor=ACTOR,
    )
    for _ in range(2):
        await stage.installation.ledger.SetCaps(request, timeout=TIMEOUT_S)


@changes("RecordCatalogRevision", "catalog.revised", {"prices": []}, {"revision": "next", "added_offers": ["a/m"]})
async def record_catalog_revision(stage: Stage) -> None:
    last = (await _told_by_the_router(stage)).subject
    request = audit_pb2.RecordCatalogRevisionRequest(
        revision="next", previous_revision=last, added_offer_ids=["a/m"], added_offer_count=1, actor=ACTOR
    )
    for _ in range(2):
        await stage.audit.RecordCatalogRevision(request, timeout=TIMEOUT_S)


@changes("RecordCacheAction", "cache.purged", {}, {"scope": "project"})
async def record_cache_action(stage: Stage) -> None:
    request = audit_pb2.RecordCacheActionRequest(
        org_id=stage.tenant.org_id,
        action=audit_pb2.CACHE_ACTION_PURGED,
        scope="project",
        subject=stage.tenant.project_id,
        actor=ACTOR,
    )
    await stage.audit.RecordCacheAction(request, timeout=TIMEOUT_S)


async def _told_by_the_router(stage: Stage) -> audit_pb2.AuditEntry:
    while True:
        for entry in await stage.entries(stage.tenant.org_id):
            if entry.action == "catalog.revised":
                return entry


@pytest_asyncio.fixture(loop_scope="module")
async def stage(installation: Installation, tenant: Tenant) -> Stage:
    channel = installation.ledger_channel
    made = Stage(
        installation, tenant, audit_pb2_grpc.AuditServiceStub(channel), account_pb2_grpc.AccountServiceStub(channel)
    )
    made.org_id = tenant.org_id
    await _told_by_the_router(made)  # so that it does not come in between
    return made


@pytest.mark.parametrize("method", sorted(CHANGES))
@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_leaves_exactly_one_entry_with_its_actor(stage: Stage, method: str) -> None:
    change, (action, before, after) = CHANGES[method]
    known = {entry.entry_id for entry in await stage.entries("")}
    await change(stage)
    (entry,) = [entry for entry in await stage.entries("") if entry.entry_id not in known]
    assert (entry.action, entry.actor) == (action, ACTOR)
    assert entry.org_id == ("" if action == "catalog.revised" else stage.org_id)
    for told, expected in ((json.loads(entry.before_json), before), (json.loads(entry.after_json), after)):
        assert {name: told[name] for name in expected} == expected
        assert bool(told) == bool(expected)
    for text in map(str, await stage.entries("")):
        for secret in stage.secrets:
            assert secret[9:] not in text


def test_every_rpc_is_here() -> None:
    methods = [
        method
        for module in (ledger_pb2, account_pb2, audit_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    reading = {
        method.name for method in methods if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    assert {method.name for method in methods} - reading == set(CHANGES) | MONEY
