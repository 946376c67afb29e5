"""The audit trail in the database: writing."""

from __future__ import annotations

from sqlalchemy import Connection

from ledger_svc.domain.trail import TrailEntry
from ledger_svc.store import rows
from ledger_svc.store.bulk import insert_into, write_all
from ledger_svc.store.sealing import Sealer, documents_of
from ledger_svc.store.tables import AUDIT_LOG

_INSERT_ENTRIES = insert_into(AUDIT_LOG)


class Trail:
    """Writes entries, signed and with their leaves in the log, in the transaction of the change that they tell of."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def record(self, connection: Connection, entry: TrailEntry) -> None:
        """Writes one. Called once for a change, after whoever changes has looked for traces of its own and has taken
        every lock that it needs: from here to the COMMIT the head of the log is locked.
        """
        leaves = self._sealer.leaves_of(connection, documents_of((), [entry]))
        write_all(connection, (_INSERT_ENTRIES, [rows.entry_record(entry)]), *leaves)
