"""Organisations, projects and keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, insert, or_, select, tuple_, update

from ledger_svc.domain import cache_policies
from ledger_svc.domain.accounts import SPENDABLE, Account, AccountKind, account_id
from ledger_svc.domain.cache_policies import CachePolicy
from ledger_svc.domain.caps import CapScope
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.key_events import key_event
from ledger_svc.domain.keys import ApiKey, KeyDigest, KeySecret, KeyStatus, ends_of_secrets
from ledger_svc.domain.projects import Organization, Project
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.ports import ChangedKey, EntryOf, EntryOfChange, KeyFilter
from ledger_svc.store import rows
from ledger_svc.store.database import Database
from ledger_svc.store.key_numbers import changes_after, newest_change
from ledger_svc.store.outbox import publish
from ledger_svc.store.tables import ACCOUNT, API_KEY, KEY_SECRET, ORG, PROJECT
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
            lock_org(connection, project.org_id)
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
        query = select(*_PROJECT_COLUMNS).where(PROJECT.c.org_id == org_id).order_by(*order).limit(limit)
        if after:
            query = query.where(tuple_(*order) > after)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [Project(*row) for row in found]

    async def project(self, org_id: str, project_id: str) -> Project:
        """Raises:
        NotFound: also where it is another organisation's.
        """
        query = select(*_PROJECT_COLUMNS).where(PROJECT.c.project_id == project_id, PROJECT.c.org_id == org_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no project {project_id} in organisation {org_id}")
        return Project(*row)

    async def organization(self, org_id: str) -> Organization:
        """Raises:
        NotFound.
        """
        query = select(ORG.c.org_id, ORG.c.name, ORG.c.created_at_ms).where(ORG.c.org_id == org_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no organisation {org_id}")
        return Organization(*row)

    async def change_project(
        self, org_id: str, project_id: str, change: Callable[[Project], Project], entry_of: EntryOfChange[Project]
    ) -> Project:
        """Changes a project; nothing is told where nothing changes.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: the organisation has a project of this name.
        """
        found = select(*_PROJECT_COLUMNS).where(PROJECT.c.project_id == project_id, PROJECT.c.org_id == org_id)

        def write(connection: Connection) -> Project:
            lock_org(connection, org_id)
            row = connection.execute(found).one_or_none()
            if row is None:
                raise NotFound(f"no project {project_id} in organisation {org_id}")
            before = Project(*row)
            after = change(before)
            if after == before:  # among others where a COMMIT in doubt did go through
                return before
            same_name = select(PROJECT.c.project_id).where(PROJECT.c.org_id == org_id, PROJECT.c.name == after.name)
            if connection.execute(same_name).first():
                raise InvalidRequest("name", f"the organisation has a project named {after.name!r} already")
            connection.execute(update(PROJECT).where(PROJECT.c.project_id == project_id).values(name=after.name))
            self._trail.record(connection, entry_of(before, after))
            return after

        return await self._writer.write(write)

    async def create_key(self, key: ApiKey, digest: KeyDigest, entry: TrailEntry) -> None:
        """Stores a key with its first secret.

        Raises:
            NotFound: no such project in the organisation.
        """
        secret = KeySecret(digest.hmac_sha256_hex, digest.pepper_version, key.key_id, key.created_at_ms)

        def create(connection: Connection) -> None:
            found = select(PROJECT.c.project_id).where(
                PROJECT.c.project_id == key.project_id, PROJECT.c.org_id == key.org_id
            )
            if not connection.execute(found).first():
                raise NotFound(f"no project {key.project_id} in organisation {key.org_id}")
            if connection.execute(select(API_KEY.c.key_id).where(API_KEY.c.key_id == key.key_id)).first():
                return  # a COMMIT in doubt did go through
            connection.execute(insert(API_KEY).values(rows.key_values(key)))
            connection.execute(insert(KEY_SECRET).values(rows.values(secret)))
            self._tell(connection, key, entry)

        await self._writer.write(create)

    async def cache_above(self, org_id: str, project_id: str) -> CachePolicy:
        """What the keys of a project inherit.

        Raises:
            NotFound: also where it is another organisation's.
        """
        query = select(PROJECT.c.cache_policy, ORG.c.cache_policy).join(ORG, ORG.c.org_id == PROJECT.c.org_id)
        query = query.where(PROJECT.c.project_id == project_id, PROJECT.c.org_id == org_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"no project {project_id} in organisation {org_id}")
        return _above(*row)

    async def list_keys(self, org_id: str) -> list[ApiKey]:
        """The keys of an organisation, or of all for "", newest first."""
        query = _KEYS.order_by(API_KEY.c.created_at_ms.desc(), API_KEY.c.key_id.desc())
        if org_id:
            query = query.where(API_KEY.c.org_id == org_id)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_key_of(row) for row in found]

    async def find_keys(
        self, org_id: str, wanted: KeyFilter, *, limit: int, before: tuple[int, str] | None
    ) -> list[ApiKey]:
        """At most ``limit`` keys, newest first; ``before``: those older than this (created_at_ms, key_id)."""
        order = (API_KEY.c.created_at_ms, API_KEY.c.key_id)
        query = _KEYS.where(API_KEY.c.org_id == org_id)
        if wanted.project_id:
            query = query.where(API_KEY.c.project_id == wanted.project_id)
        if wanted.status is not None:
            query = query.where(_in_state(wanted.status, wanted.now_ms))
        if before:
            query = query.where(tuple_(*order) < before)
        query = query.order_by(*(column.desc() for column in order)).limit(limit)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_key_of(row) for row in found]

    async def key(self, org_id: str, key_id: str) -> ApiKey:
        """``org_id`` "": whosever it is.

        Raises:
            NotFound: also where it is another organisation's.
        """
        return (await self._database.read(lambda connection: _read_key(connection, key_id, org_id))).key

    async def revoke_key(self, key_id: str, org_id: str, entry_of: EntryOf[ApiKey]) -> ChangedKey:
        """Ends a key.

        Raises:
            NotFound: no such key; or, with an ``org_id``, it is another organisation's.
        """

        def revoke(connection: Connection) -> ChangedKey:
            found = _lock_key(connection, key_id, org_id)
            if found.key.revoked_at_ms:
                return found
            entry = entry_of(found.key)
            return self._put(connection, replace(found.key, revoked_at_ms=entry.created_at_ms), entry)

        return await self._writer.write(revoke)

    async def change_key(
        self, key_id: str, org_id: str, change: Callable[[ApiKey], ApiKey], entry_of: EntryOfChange[ApiKey]
    ) -> ChangedKey:
        """Changes a key; nothing is told where nothing changes.

        Raises:
            NotFound: no such key; or, with an ``org_id``, it is another organisation's.
        """

        def write(connection: Connection) -> ChangedKey:
            found = _lock_key(connection, key_id, org_id)
            after = change(found.key)
            if after == found.key:  # among others where a COMMIT in doubt did go through
                return found
            return self._put(connection, after, entry_of(found.key, after))

        return await self._writer.write(write)

    async def rotate_key(
        self,
        secret: KeySecret,
        org_id: str,
        rotated: Callable[[ApiKey], ApiKey],
        entry_of: EntryOfChange[ApiKey],
        *,
        overlap_ms: int,
    ) -> ChangedKey:
        """Gives a key a new secret, and those that it has their ends.

        Raises:
            NotFound: no such key; or, with an ``org_id``, it is another organisation's.
        """
        of_key = select(KEY_SECRET).where(KEY_SECRET.c.key_id == secret.key_id)

        def rotate(connection: Connection) -> ChangedKey:
            found = _lock_key(connection, secret.key_id, org_id)
            former = [KeySecret(*row) for row in connection.execute(of_key)]
            if any(one.hmac_sha256_hex == secret.hmac_sha256_hex for one in former):
                return found  # a COMMIT in doubt did go through
            after = rotated(found.key)
            for digest, ends_at_ms in ends_of_secrets(former, secret.created_at_ms, overlap_ms).items():
                ended = update(KEY_SECRET).where(KEY_SECRET.c.hmac_sha256_hex == digest)
                connection.execute(ended.values(expires_at_ms=ends_at_ms))
            connection.execute(insert(KEY_SECRET).values(rows.values(secret)))
            return self._put(connection, after, entry_of(found.key, after))

        return await self._writer.write(rotate)

    def _put(self, connection: Connection, key: ApiKey, entry: TrailEntry) -> ChangedKey:
        """Stores a changed key under the next number. There is one writer, so numbers are in the order of commits."""
        number = newest_change(connection) + 1
        values = rows.key_values(key) | {"change_seq": number}
        connection.execute(update(API_KEY).where(API_KEY.c.key_id == key.key_id).values(values))
        self._tell(connection, key, entry)
        return ChangedKey(key, number)

    def _tell(self, connection: Connection, key: ApiKey, entry: TrailEntry) -> None:
        """The webhooks first: what they need is locked before the head of the log."""
        publish(connection, key_event(entry, key))
        self._trail.record(connection, entry)

    async def has_scope(self, org_id: str, scope: CapScope, scope_id: str) -> bool:
        """Whether the organisation is that, or has such a project or key."""
        table, column = {
            CapScope.KEY: (API_KEY, API_KEY.c.key_id),
            CapScope.PROJECT: (PROJECT, PROJECT.c.project_id),
            CapScope.ORGANIZATION: (ORG, ORG.c.org_id),
        }[scope]
        query = select(column).where(column == scope_id, table.c.org_id == org_id)
        return await self._database.read(lambda connection: connection.execute(query).first()) is not None

    async def find_key(self, digests: Sequence[KeyDigest]) -> tuple[ApiKey, KeySecret] | None:
        """The key that has a secret with one of these digests, and that secret; also where either has ended."""
        query = (
            _KEYS.add_columns(*KEY_SECRET.columns)
            .join(KEY_SECRET, KEY_SECRET.c.key_id == API_KEY.c.key_id)
            .where(KEY_SECRET.c.hmac_sha256_hex.in_([digest.hmac_sha256_hex for digest in digests]))
        )
        row = await self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        width = len(KEY_SECRET.columns)
        return _key_of(row[:-width]), KeySecret(*row[-width:])

    async def newest_change(self) -> int:
        """The number of the last change of any key, or of what keys inherit; 0: none yet."""
        return await self._database.read(newest_change)

    async def changes_after(self, change_seq: int) -> list[tuple[str, int]]:
        """(name, change_seq) of what was changed after a change, in the order of the changes."""
        return await self._database.read(lambda connection: changes_after(connection, change_seq))


_PROJECT_COLUMNS = (PROJECT.c.project_id, PROJECT.c.org_id, PROJECT.c.name, PROJECT.c.created_at_ms)
"""What a ``Project`` is made of."""
_KEYS = (
    select(*rows.KEY_COLUMNS, PROJECT.c.cache_policy, ORG.c.cache_policy)
    .join_from(API_KEY, PROJECT, PROJECT.c.project_id == API_KEY.c.project_id)
    .join(ORG, ORG.c.org_id == API_KEY.c.org_id)
)
"""Keys with what they inherit."""


def _key_of(row: Sequence[Any]) -> ApiKey:
    """Of ``_KEYS``."""
    *own, of_project, of_org = row
    return replace(rows.key_from_row(own), cache_above=_above(of_project, of_org))


def _above(of_project: str, of_org: str) -> CachePolicy:
    return cache_policies.decode(of_project).over(cache_policies.decode(of_org))


def _in_state(status: KeyStatus, now_ms: int) -> ColumnElement[bool]:
    """As ``ApiKey.status``."""
    revoked, ends = API_KEY.c.revoked_at_ms, API_KEY.c.expires_at_ms
    if status is KeyStatus.REVOKED:
        return revoked > 0
    if status is KeyStatus.EXPIRED:
        return and_(revoked == 0, ends > 0, ends <= now_ms)
    return and_(revoked == 0, or_(ends == 0, ends > now_ms))


def _read_key(connection: Connection, key_id: str, org_id: str) -> ChangedKey:
    query = _KEYS.add_columns(API_KEY.c.change_seq).where(API_KEY.c.key_id == key_id)
    row = connection.execute(query).first()
    if row is None or (org_id and row.org_id != org_id):
        raise NotFound(f"no API key {key_id}")
    return ChangedKey(_key_of(row[:-1]), row[-1])


def _lock_key(connection: Connection, key_id: str, org_id: str) -> ChangedKey:
    """The key, under the organisation's lock, so that no command of that key is decided before a change and committed
    after.
    """
    lock_org(connection, _read_key(connection, key_id, org_id).key.org_id)
    return _read_key(connection, key_id, org_id)


def lock_org(connection: Connection, org_id: str) -> None:
    """Takes the organisation's lock until the COMMIT.

    Raises:
        NotFound: no such organisation.
    """
    accounts = [account_id(org_id, kind) for kind in SPENDABLE]
    query = (
        select(ACCOUNT.c.account_id)
        .where(ACCOUNT.c.account_id.in_(accounts))
        .order_by(ACCOUNT.c.account_id)
        .with_for_update()
    )
    if not connection.execute(query).all():
        raise NotFound(f"no organisation {org_id}")
