"""Cache policies of organisations and projects. Those of keys are in the directory, with the keys."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from ledger_svc.domain import cache_policies
from ledger_svc.domain.cache_policies import SAYS_NOTHING, CachePolicy
from ledger_svc.domain.errors import NotFound
from ledger_svc.service.cache_policies import ChangedPolicy, ChangePolicy, PlacedPolicy
from ledger_svc.service.ports import EntryOfChange
from ledger_svc.store.database import Database
from ledger_svc.store.directory import lock_org
from ledger_svc.store.key_numbers import newest_change
from ledger_svc.store.tables import ORG, PROJECT
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer


class CachePolicies:
    """Implements ``service.cache_policies.CachePolicyStore``."""

    def __init__(self, database: Database, writer: Writer, trail: Trail) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail

    async def policy(self, org_id: str, project_id: str) -> PlacedPolicy:
        """``project_id`` "": the organisation's own.

        Raises:
            NotFound: also where the project is another organisation's.
        """
        return await self._database.read(lambda connection: _read(connection, org_id, project_id))

    async def change_policy(
        self, org_id: str, project_id: str, change: ChangePolicy, entry_of: EntryOfChange[CachePolicy]
    ) -> ChangedPolicy:
        """Changes it under the next number; nothing is told where nothing changes.

        Raises:
            NotFound: also where the project is another organisation's.
        """

        def write(connection: Connection) -> ChangedPolicy:
            lock_org(connection, org_id)
            before = _read(connection, org_id, project_id)
            after = PlacedPolicy(change(before.policy, before.above), before.above)
            if after == before:  # among others where a COMMIT in doubt did go through
                number = connection.scalar(select(ORG.c.change_seq).where(ORG.c.org_id == org_id))
                return ChangedPolicy(before, number or 0)
            number = newest_change(connection) + 1
            table, own = (PROJECT, PROJECT.c.project_id == project_id) if project_id else (ORG, ORG.c.org_id == org_id)
            connection.execute(update(table).where(own).values(cache_policy=cache_policies.encode(after.policy)))
            connection.execute(update(ORG).where(ORG.c.org_id == org_id).values(change_seq=number))
            self._trail.record(connection, entry_of(before.policy, after.policy))
            return ChangedPolicy(after, number)

        return await self._writer.write(write)


def _read(connection: Connection, org_id: str, project_id: str) -> PlacedPolicy:
    of_org = connection.scalar(select(ORG.c.cache_policy).where(ORG.c.org_id == org_id))
    if of_org is None:
        raise NotFound(f"no organisation {org_id}")
    if not project_id:
        return PlacedPolicy(cache_policies.decode(of_org), SAYS_NOTHING)
    of_project = connection.scalar(
        select(PROJECT.c.cache_policy).where(PROJECT.c.project_id == project_id, PROJECT.c.org_id == org_id)
    )
    if of_project is None:
        raise NotFound(f"no project {project_id} in organisation {org_id}")
    return PlacedPolicy(cache_policies.decode(of_project), cache_policies.decode(of_org))
