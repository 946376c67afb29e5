"""The audit trail in the database."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from ledger_svc.domain.trail import TrailEntry
from ledger_svc.store.tables import AUDIT_LOG


class Trail:
    """Writes entries in the transaction of the change that they tell of."""

    def record(self, connection: Connection, entry: TrailEntry) -> None:
        """Writes one. Called once for a change, after whoever changes has looked for traces of its own."""
        connection.execute(
            insert(AUDIT_LOG).values(
                entry_id=entry.entry_id,
                org_id=entry.org_id,
                created_at_ms=entry.created_at_ms,
                actor_kind=entry.actor.kind.value,
                actor_id=entry.actor.id,
                action=entry.action,
                subject=entry.subject,
                document=entry.document(),
            )
        )
