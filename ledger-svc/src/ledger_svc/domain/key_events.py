"""What webhooks are told of API keys: the same that the audit trail is told, without what a key may do."""

from __future__ import annotations

from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import KEY_CHANGES, KEY_ROTATED, KEY_UPDATED, Event, event
from meshkit.ids import id_of


def key_event(entry: TrailEntry, key: ApiKey) -> Event:
    """The event of a change of a key, as it is after it. Its id follows from the entry's."""
    assert entry.action in KEY_CHANGES, entry.action
    data = {
        "organization_id": key.org_id,
        "project_id": key.project_id,
        "key_id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "actor": {"kind": entry.actor.kind.value, "id": entry.actor.id},
        "audit_entry_id": entry.entry_id,
    }
    if entry.action == KEY_UPDATED:
        data["changed"] = sorted({*entry.before, *entry.after})
    if entry.action == KEY_ROTATED:
        data["former_secret_expires_at"] = entry.after["former_secret_expires_at_ms"] // 1_000
    return event(id_of("evt", entry.entry_id), key.org_id, entry.action, entry.created_at_ms, data, key_id=key.key_id)
