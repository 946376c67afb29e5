"""Webhooks are told of keys that are made, changed, rotated and revoked: once, and in the transaction of the change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger_trail import told
from ledger_webhooks import Hooks

from ledger_svc.domain.key_changes import KeyChange
from ledger_svc.service.keys import KeyService
from ledger_svc.service.trail import TrailService
from ledger_svc.store.database import Database
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
ADA = Actor(ActorKind.API_KEY, "key_ada", "192.0.2.1")


@pytest.fixture
def hooks(database: Database, writer: Writer, clock: FakeClock, make_id: MakeId) -> Hooks:
    return Hooks(database, writer, clock, make_id)


async def events(hooks: Hooks) -> list[dict[str, Any]]:
    """What was sent since the last look."""
    await hooks.deliver()
    sent = [json.loads(message.body) for message in hooks.carrier.carried]
    hooks.carrier.carried.clear()
    return sent


async def test_each_change_of_a_key_is_told(
    hooks: Hooks, keys: KeyService, trail: TrailService, new_payer: NewPayer, clock: FakeClock
) -> None:
    payer = await new_payer()
    await hooks.make(payer.org_id)
    key, secret = await keys.create_key(payer.org_id, payer.project_id, "web", actor=ADA)
    await keys.update_key(key.key_id, payer.org_id, KeyChange(name="site"), actor=ADA)
    await keys.update_key(key.key_id, payer.org_id, KeyChange(name="site"), actor=ADA)
    rotated, another, _ = await keys.rotate_key(key.key_id, payer.org_id, overlap_ms=60_000, actor=ADA)
    for _ in range(2):
        await keys.revoke_key(key.key_id, payer.org_id, actor=ADA)
    sent = {event["type"]: event["data"] for event in await events(hooks)}
    entries = {entry.action: entry for entry in await told(trail, payer.org_id, "key.") if entry.subject == key.key_id}
    assert set(sent) == set(entries) == {"key.created", "key.updated", "key.rotated", "key.revoked"}
    assert sent["key.created"] == {
        "organization_id": payer.org_id,
        "project_id": payer.project_id,
        "key_id": key.key_id,
        "name": "web",
        "prefix": key.prefix,
        "actor": {"kind": "api_key", "id": "key_ada"},
        "audit_entry_id": entries["key.created"].entry_id,
    }
    assert (sent["key.updated"]["name"], sent["key.updated"]["changed"]) == ("site", ["name"])
    assert sent["key.rotated"]["former_secret_expires_at"] == (clock.now_ms() + 60_000) // 1_000
    assert sent["key.rotated"]["prefix"] == rotated.prefix
    assert not any(one in repr(sent) for one in (secret, another))
    assert await events(hooks) == [], "and each once"


async def test_a_webhook_of_another_key_or_organisation_or_of_other_types_is_not_told(
    hooks: Hooks, keys: KeyService, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    await hooks.make(other.org_id)
    await hooks.make(payer.org_id, key_id=payer.key_id)
    key, _ = await keys.create_key(payer.org_id, payer.project_id, "web")
    assert await events(hooks) == []
    await keys.revoke_key(payer.key_id, payer.org_id)
    assert [event["data"]["key_id"] for event in await events(hooks)] == [payer.key_id]
    await keys.revoke_key(key.key_id, payer.org_id)
    assert await events(hooks) == []


@pytest.mark.parametrize("death", ["before", "after"])
async def test_a_change_whose_commit_is_in_doubt_is_told_once(
    death: str, deaths: list[str], hooks: Hooks, keys: KeyService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    await hooks.make(payer.org_id)
    deaths[:] = [death]
    key, _ = await keys.create_key(payer.org_id, payer.project_id, "web")
    deaths[:] = [death]
    await keys.revoke_key(key.key_id, payer.org_id)
    assert not deaths
    assert sorted(event["type"] for event in await events(hooks)) == ["key.created", "key.revoked"]
