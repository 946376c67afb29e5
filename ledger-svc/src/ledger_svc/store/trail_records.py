"""The audit trail in the database: reading, and the revisions of the catalog."""

from __future__ import annotations

from heapq import merge
from itertools import islice

from sqlalchemy import Connection, Select, func, select, tuple_

from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.repricing import REVISED
from ledger_svc.domain.signing import JwsKind, compact
from ledger_svc.domain.trail import TrailEntry, decode
from ledger_svc.service.paging import Position
from ledger_svc.service.trail_ports import LoggedEntry, TrailFilter
from ledger_svc.store.database import Database
from ledger_svc.store.tables import AUDIT_LOG, LOG_LEAF
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer

_ORDER = (AUDIT_LOG.c.created_at_ms, AUDIT_LOG.c.entry_id)
_INSTALLATION = ""

# By its place in the log, since clocks may go back.
_LAST_REVISION = (
    select(AUDIT_LOG.c.subject)
    .join(LOG_LEAF, LOG_LEAF.c.entry_id == AUDIT_LOG.c.entry_id)
    .where(AUDIT_LOG.c.org_id == _INSTALLATION, AUDIT_LOG.c.action == REVISED)
    .order_by(LOG_LEAF.c.leaf_index.desc())
    .limit(1)
)


class TrailRecords:
    """Implements ``trail_ports.TrailRecords``."""

    def __init__(self, database: Database, writer: Writer, trail: Trail) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail

    async def entries(self, wanted: TrailFilter, *, limit: int, before: Position | None) -> list[TrailEntry]:
        """At most ``limit`` entries, newest first; ``before``: those older than this (created_at_ms, entry_id)."""
        query = _filtered(wanted, before).order_by(*(column.desc() for column in _ORDER)).limit(limit)
        parts = [query]
        if wanted.org_id:  # each is a range of an index; both in one query would be sorted as a whole
            parts = [query.where(AUDIT_LOG.c.org_id == org_id) for org_id in (wanted.org_id, _INSTALLATION)]
        found = await self._database.read(
            lambda connection: [[decode(row.document) for row in connection.execute(part)] for part in parts]
        )
        newest_first = merge(
            *found,
            key=lambda entry: (entry.created_at_ms, entry.entry_id),
            reverse=True,
        )
        return list(islice(newest_first, limit))

    async def entry(self, org_id: str, entry_id: str) -> LoggedEntry:
        """One entry that the organisation sees; "": any.

        Raises:
            NotFound: also where it is another organisation's.
        """
        query = (
            select(AUDIT_LOG.c.document, LOG_LEAF.c.leaf_index, LOG_LEAF.c.kid, LOG_LEAF.c.signature)
            .join(LOG_LEAF, LOG_LEAF.c.entry_id == AUDIT_LOG.c.entry_id)
            .where(AUDIT_LOG.c.entry_id == entry_id)
        )
        if org_id:
            query = query.where(AUDIT_LOG.c.org_id.in_((org_id, _INSTALLATION)))
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no audit entry {entry_id}")
        jws = compact(row.kid, row.document.encode(), row.signature, JwsKind.AUDIT_ENTRY).decode()
        return LoggedEntry(decode(row.document), jws, row.leaf_index)

    async def record_revision(self, previous_revision: str, revision: str, entry: TrailEntry) -> str:
        """Writes the entry if ``previous_revision`` was told last and ``revision`` is another; gives the revision that
        is told last now.
        """

        def record(connection: Connection) -> str:
            last = connection.execute(_LAST_REVISION).scalar_one_or_none() or ""
            if revision == last or previous_revision != last:
                return last
            self._trail.record(connection, entry)
            return revision

        return await self._writer.write(record)

    async def record(self, entry: TrailEntry) -> None:
        """Writes an entry of what is done outside the ledger."""
        await self._writer.write(lambda connection: self._trail.record(connection, entry))


def _filtered(wanted: TrailFilter, before: Position | None) -> Select[tuple[str]]:
    query = select(AUDIT_LOG.c.document)
    if wanted.action_prefix:  # LIKE would not tell capitals apart on SQLite
        query = query.where(func.substr(AUDIT_LOG.c.action, 1, len(wanted.action_prefix)) == wanted.action_prefix)
    if wanted.actor_id:
        query = query.where(AUDIT_LOG.c.actor_id == wanted.actor_id)
    if wanted.subject:
        query = query.where(AUDIT_LOG.c.subject == wanted.subject)
    if wanted.from_ms:
        query = query.where(AUDIT_LOG.c.created_at_ms >= wanted.from_ms)
    if wanted.to_ms:
        query = query.where(AUDIT_LOG.c.created_at_ms < wanted.to_ms)
    if before is not None:
        query = query.where(tuple_(*_ORDER) < before)
    return query
