"""Organisations, projects and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert, select, tuple_, update

from ledger_svc.domain.accounts import SPENDABLE, Account, AccountKind, account_id
from ledger_svc.domain.caps import CapScope
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.keys import ApiKey, KeyDigest
from ledger_svc.domain.projects import Project
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.ports import EntryOf
from ledger_svc.store import rows
from ledger_svc.store.database import Database
from ledger_svc.store.tables import ACCOUNT, API_KEY, ORG, PROJECT
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer


class Directory:
    """Implements ``ports.Directory``. What changes goes through the one writer."""

    def __init__(self, database: Database, writer: Writer, trail: Trail) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail

    async def create_organization(self, org_id: str, name: str, entry: TrailEntry) -> None:
        """Makes an organisation with its accounts."""
        accounts = [rows.account_values(Account(account_id(org_id, kind), org_id, kind)) for kind in AccountKind]

        def create(connection: Connection) -> None:
            if connection.execute(select(ORG.c.org_id).where(ORG.c.org_id == org_id)).first():
                return  # a COMMIT in doubt did go through
            connection.execute(insert(ORG).values(org_id=org_id, name=name, created_at_ms=entry.created_at_ms))
            connection.execute(insert(ACCOUNT), accounts)
            self._trail.record(connection, entry)

        await self._writer.write(create)

    async def create_project(self, project: Project, entry: TrailEntry) -> None:
        """Makes a project.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: the organisation has a project of this name.
        """

        def create(connection: Connection) -> None:
            _lock_org(connection, project.org_id)
            same_name = select(PROJECT.c.project_id).where(
                PROJECT.c.org_id == project.org_id, PROJECT.c.name == project.name
            )
            if found := connection.execute(same_name).first():
                if found.project_id == project.project_id:
                    return  # a COMMIT in doubt did go through
                raise InvalidRequest("name", f"the organisation has a project named {project.name!r} already")
            connection.execute(insert(PROJECT).values(rows.values(project)))
            self._trail.record(connection, entry)

        await self._writer.write(create)

    async def projects(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[Project]:
        """At most ``limit`` projects, oldest first; ``after``: those younger than this (created_at_ms, project_id)."""
        order = (PROJECT.c.created_at_ms, PROJECT.c.project_id)
        query = select(PROJECT).where(PROJECT.c.org_id == org_id).order_by(*order).limit(limit)
        if after:
            query = query.where(tuple_(*order) > after)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [Project(*row) for row in found]

    async def project(self, org_id: str, project_id: str) -> Project:
        """Raises:
        NotFound: also where it is another organisation's.
        """
        query = select(PROJECT).where(PROJECT.c.project_id == project_id, PROJECT.c.org_id == org_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no project {project_id} in organisation {org_id}")
        return Project(*row)

    async def create_key(self, key: ApiKey, digest: KeyDigest, entry: TrailEntry) -> None:
        """Stores a key.

        Raises:
            NotFound: no such project in the organisation.
        """

        def create(connection: Connection) -> None:
            found = select(PROJECT.c.project_id).where(
                PROJECT.c.project_id == key.project_id, PROJECT.c.org_id == key.org_id
            )
            if not connection.execute(found).first():
                raise NotFound(f"no project {key.project_id} in organisation {key.org_id}")
            if connection.execute(select(API_KEY.c.key_id).where(API_KEY.c.key_id == key.key_id)).first():
                return  # a COMMIT in doubt did go through
            connection.execute(
                insert(API_KEY).values(
                    **rows.key_values(key),
                    hmac_sha256_hex=digest.hmac_sha256_hex,
                    pepper_version=digest.pepper_version,
                )
            )
            self._trail.record(connection, entry)

        await self._writer.write(create)

    async def list_keys(self, org_id: str) -> list[ApiKey]:
        """The keys of an organisation, or of all for "", newest first."""
        query = select(*rows.KEY_COLUMNS).order_by(API_KEY.c.created_at_ms.desc(), API_KEY.c.key_id.desc())
        if org_id:
            query = query.where(API_KEY.c.org_id == org_id)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [rows.key_from_row(row) for row in found]

    async def revoke_key(self, key_id: str, org_id: str, entry_of: EntryOf[ApiKey]) -> ApiKey:
        """Ends a key. It takes the organisation's lock, so that no command of that key is decided before and
        committed after.

        Raises:
            NotFound: no such key; or, with an ``org_id``, it is another organisation's.
        """

        def revoke(connection: Connection) -> ApiKey:
            query = select(*rows.KEY_COLUMNS).where(API_KEY.c.key_id == key_id)
            row = connection.execute(query).first()
            if row is None or (org_id and row.org_id != org_id):
                raise NotFound(f"no API key {key_id}")
            _lock_org(connection, row.org_id)
            key = rows.key_from_row(connection.execute(query).one())
            if key.revoked_at_ms:
                return key
            entry = entry_of(key)
            connection.execute(
                update(API_KEY).where(API_KEY.c.key_id == key_id).values(revoked_at_ms=entry.created_at_ms)
            )
            self._trail.record(connection, entry)
            return replace(key, revoked_at_ms=entry.created_at_ms)

        return await self._writer.write(revoke)

    async def has_scope(self, org_id: str, scope: CapScope, scope_id: str) -> bool:
        """Whether the organisation is that, or has such a project or key."""
        table, column = {
            CapScope.KEY: (API_KEY, API_KEY.c.key_id),
            CapScope.PROJECT: (PROJECT, PROJECT.c.project_id),
            CapScope.ORGANIZATION: (ORG, ORG.c.org_id),
        }[scope]
        query = select(column).where(column == scope_id, table.c.org_id == org_id)
        return await self._database.read(lambda connection: connection.execute(query).first()) is not None

    async def find_key(self, digests: Sequence[KeyDigest]) -> ApiKey | None:
        """The key whose stored digest is one of these."""
        query = select(*rows.KEY_COLUMNS).where(API_KEY.c.hmac_sha256_hex.in_([d.hmac_sha256_hex for d in digests]))
        row = await self._database.read(lambda connection: connection.execute(query).first())
        return None if row is None else rows.key_from_row(row)

    async def revoked_since(self, since_ms: int) -> list[tuple[str, int]]:
        """(key id, revoked at) of keys revoked at or after a time, oldest first."""
        query = (
            select(API_KEY.c.key_id, API_KEY.c.revoked_at_ms)
            .where(API_KEY.c.revoked_at_ms > 0, API_KEY.c.revoked_at_ms >= since_ms)
            .order_by(API_KEY.c.revoked_at_ms, API_KEY.c.key_id)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [(row.key_id, row.revoked_at_ms) for row in found]


def _lock_org(connection: Connection, org_id: str) -> None:
    accounts = [account_id(org_id, kind) for kind in SPENDABLE]
    query = (
        select(ACCOUNT.c.account_id)
        .where(ACCOUNT.c.account_id.in_(accounts))
        .order_by(ACCOUNT.c.account_id)
        .with_for_update()
    )
    if not connection.execute(query).all():
        raise NotFound(f"no organisation {org_id}")
