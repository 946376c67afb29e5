"""Provider keys in the database, their secrets sealed."""

from __future__ import annotations

from dataclasses import replace

import structlog
from sqlalchemy import Connection, Row, func, insert, select, tuple_, update

from ledger_svc.domain.envelope import DataKey, Envelope, SealBroken, name_of
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.provider_keys import ProviderKey, ProviderSecret, hint_of
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.ports import EntryOf
from ledger_svc.service.provider_key_ports import Changed, Resealed, WrappingKey
from ledger_svc.store.database import Database
from ledger_svc.store.tables import DATA_KEY, ORG, PROVIDER_KEY
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.secret import Secret

_log = structlog.get_logger(__name__)

_SHOWN = (
    *(PROVIDER_KEY.c.provider_key_id, PROVIDER_KEY.c.org_id, PROVIDER_KEY.c.source_id, PROVIDER_KEY.c.name),
    *(PROVIDER_KEY.c.hint, PROVIDER_KEY.c.fallback),
    *(PROVIDER_KEY.c.created_at_ms, PROVIDER_KEY.c.rotated_at_ms, PROVIDER_KEY.c.revoked_at_ms),
)
"""What a ``ProviderKey`` is made of, in its order."""
_IN_FORCE = PROVIDER_KEY.c.revoked_at_ms == 0


class ProviderKeys:
    """Implements ``provider_key_ports.ProviderKeyStore``. What changes goes through the one writer, and is encrypted in
    its transaction, so that no secret is left under a data key that is being replaced.
    """

    def __init__(self, database: Database, writer: Writer, trail: Trail, envelope: Envelope, make_id: MakeId) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail
        self._envelope = envelope
        self._make_id = make_id

    async def create(self, key: ProviderKey, secret: Secret, entry: TrailEntry) -> None:
        """See ``ProviderKeyStore.create``."""

        def create(connection: Connection) -> None:
            if not connection.execute(select(ORG.c.org_id).where(ORG.c.org_id == key.org_id)).first():
                raise NotFound(f"no organisation {key.org_id}")
            query = select(PROVIDER_KEY.c.provider_key_id).where(
                PROVIDER_KEY.c.org_id == key.org_id, PROVIDER_KEY.c.source_id == key.source_id, _IN_FORCE
            )
            if found := connection.execute(query).first():
                if found.provider_key_id == key.provider_key_id:
                    return  # a COMMIT in doubt did go through
                raise InvalidRequest(
                    "source_id",
                    f"the organisation has a provider key for {key.source_id} already, {found.provider_key_id}: rotate "
                    "it, or revoke it first",
                )
            data_key = self._data_key(connection, key.org_id, key.created_at_ms)
            connection.execute(
                insert(PROVIDER_KEY).values(
                    provider_key_id=key.provider_key_id,
                    org_id=key.org_id,
                    source_id=key.source_id,
                    name=key.name,
                    hint=key.hint,
                    fallback=int(key.fallback),
                    sealed=self._envelope.seal(data_key, secret, key.source_id, key.provider_key_id),
                    created_at_ms=key.created_at_ms,
                    rotated_at_ms=key.rotated_at_ms,
                    revoked_at_ms=key.revoked_at_ms,
                    changed_at_ms=key.created_at_ms,
                )
            )
            self._trail.record(connection, entry)

        await self._writer.write(create)

    async def page(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[ProviderKey]:
        """See ``ProviderKeyStore.page``."""
        order = (PROVIDER_KEY.c.created_at_ms, PROVIDER_KEY.c.provider_key_id)
        query = select(*_SHOWN).where(PROVIDER_KEY.c.org_id == org_id).order_by(*order).limit(limit)
        if after:
            query = query.where(tuple_(*order) > after)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_key(row) for row in found]

    async def get(self, org_id: str, provider_key_id: str) -> ProviderKey:
        """See ``ProviderKeyStore.get``."""
        return await self._database.read(lambda connection: _find(connection, org_id, provider_key_id))

    async def rotate(
        self, org_id: str, provider_key_id: str, secret: Secret, entry_of: EntryOf[ProviderKey]
    ) -> ProviderKey:
        """See ``ProviderKeyStore.rotate``."""

        def rotate(connection: Connection) -> ProviderKey:
            key = _find(connection, org_id, provider_key_id)
            if key.revoked_at_ms:
                raise InvalidRequest("provider_key_id", "this provider key was revoked: make another")
            data_key = self._data_key(connection, org_id, key.created_at_ms)
            if self._is_stored(connection, data_key, key, secret):
                return key  # also where a COMMIT in doubt did go through
            entry = entry_of(key)
            rotated = replace(key, hint=hint_of(secret), rotated_at_ms=entry.created_at_ms)
            _change(
                connection,
                rotated,
                entry.created_at_ms,
                hint=rotated.hint,
                rotated_at_ms=rotated.rotated_at_ms,
                sealed=self._envelope.seal(data_key, secret, key.source_id, key.provider_key_id),
            )
            self._trail.record(connection, entry)
            return rotated

        return await self._writer.write(rotate)

    async def revoke(self, org_id: str, provider_key_id: str, entry_of: EntryOf[ProviderKey]) -> ProviderKey:
        """See ``ProviderKeyStore.revoke``."""

        def revoke(connection: Connection) -> ProviderKey:
            key = _find(connection, org_id, provider_key_id)
            if key.revoked_at_ms:
                return key
            entry = entry_of(key)
            revoked = replace(key, revoked_at_ms=entry.created_at_ms)
            _change(connection, revoked, entry.created_at_ms, revoked_at_ms=revoked.revoked_at_ms, sealed="")
            self._trail.record(connection, entry)
            return revoked

        return await self._writer.write(revoke)

    async def secrets(self, org_id: str) -> list[ProviderSecret]:
        """See ``ProviderKeyStore.secrets``."""
        # One statement, so that a data key that is replaced just now is read with the secrets under it.
        query = (
            select(PROVIDER_KEY, DATA_KEY.c.data_key_id, DATA_KEY.c.wrapped)
            .join(DATA_KEY, DATA_KEY.c.org_id == PROVIDER_KEY.c.org_id)
            .where(PROVIDER_KEY.c.org_id == org_id, _IN_FORCE)
            .order_by(PROVIDER_KEY.c.source_id)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        if not found:
            return []
        data_key = self._envelope.unwrap(found[0].wrapped, data_key_id=found[0].data_key_id, org_id=org_id)
        return [
            ProviderSecret(
                row.provider_key_id,
                row.source_id,
                self._envelope.open(data_key, row.sealed, row.source_id, row.provider_key_id),
                bool(row.fallback),
            )
            for row in found
        ]

    async def changed_since(self, since_ms: int) -> list[Changed]:
        """See ``ProviderKeyStore.changed_since``."""
        columns = (PROVIDER_KEY.c.org_id, PROVIDER_KEY.c.provider_key_id, PROVIDER_KEY.c.changed_at_ms)
        query = (
            select(*columns)
            .where(PROVIDER_KEY.c.changed_at_ms >= since_ms)
            .order_by(PROVIDER_KEY.c.changed_at_ms, PROVIDER_KEY.c.provider_key_id)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [Changed(*row) for row in found]

    async def reseal(self, org_id: str, data_key_id: str, entry_of: EntryOf[Resealed]) -> int:
        """See ``ProviderKeyStore.reseal``."""

        def reseal(connection: Connection) -> int:
            row = connection.execute(select(DATA_KEY).where(DATA_KEY.c.org_id == org_id)).first()
            if row is None:
                raise NotFound(f"organisation {org_id} has no data key")
            query = select(PROVIDER_KEY).where(PROVIDER_KEY.c.org_id == org_id, _IN_FORCE)
            keys = connection.execute(query).all()
            if row.data_key_id == data_key_id:
                return len(keys)  # a COMMIT in doubt did go through
            old = self._envelope.unwrap(row.wrapped, data_key_id=row.data_key_id, org_id=org_id)
            new = self._envelope.new_data_key(data_key_id, org_id)
            entry = entry_of(Resealed(old.data_key_id, data_key_id, len(keys)))
            for key in keys:
                belongs_to = (key.source_id, key.provider_key_id)
                sealed = self._envelope.seal(new, self._envelope.open(old, key.sealed, *belongs_to), *belongs_to)
                connection.execute(
                    update(PROVIDER_KEY)
                    .where(PROVIDER_KEY.c.provider_key_id == key.provider_key_id)
                    .values(sealed=sealed)
                )
            wrapped = self._envelope.wrap(new)
            connection.execute(
                update(DATA_KEY)
                .where(DATA_KEY.c.org_id == org_id)
                .values(
                    data_key_id=data_key_id, kid=name_of(wrapped), wrapped=wrapped, created_at_ms=entry.created_at_ms
                )
            )
            self._trail.record(connection, entry)
            return len(keys)

        return await self._writer.write(reseal)

    async def rewrap(self, *, after: str, limit: int) -> tuple[int, str]:
        """See ``ProviderKeyStore.rewrap``. A data key that does not open is logged and passed over."""
        current = self._envelope.current_kid
        query = (
            select(DATA_KEY)
            .where(DATA_KEY.c.kid != current, DATA_KEY.c.org_id > after)
            .order_by(DATA_KEY.c.org_id)
            .limit(limit)
        )
        if not current or not await self._database.read(lambda connection: connection.execute(query).first()):
            return 0, ""

        def rewrap(connection: Connection) -> tuple[int, str]:
            found, done = connection.execute(query).all(), 0
            for row in found:
                try:
                    data_key = self._envelope.unwrap(row.wrapped, data_key_id=row.data_key_id, org_id=row.org_id)
                except SealBroken as error:
                    _log.error("data_key_not_rewrapped", org_id=row.org_id, why=str(error))
                    continue
                connection.execute(
                    update(DATA_KEY)
                    .where(DATA_KEY.c.org_id == row.org_id)
                    .values(kid=current, wrapped=self._envelope.wrap(data_key))
                )
                done += 1
            return done, found[-1].org_id if found else ""

        return await self._writer.write(rewrap)

    async def wrapping_keys(self) -> list[WrappingKey]:
        """See ``ProviderKeyStore.wrapping_keys``."""
        query = select(DATA_KEY.c.kid, func.count()).group_by(DATA_KEY.c.kid)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        counts = dict.fromkeys(self._envelope.kids, 0) | {row[0]: row[1] for row in found}
        current = self._envelope.current_kid
        return [WrappingKey(kid, kid == current, kid in self._envelope.kids, counts[kid]) for kid in sorted(counts)]

    def _data_key(self, connection: Connection, org_id: str, now_ms: int) -> DataKey:
        """The data key of an organisation, made where it has none."""
        row = connection.execute(select(DATA_KEY).where(DATA_KEY.c.org_id == org_id)).first()
        if row is not None:
            return self._envelope.unwrap(row.wrapped, data_key_id=row.data_key_id, org_id=org_id)
        made = self._envelope.new_data_key(self._make_id("dk"), org_id)
        wrapped = self._envelope.wrap(made)
        connection.execute(
            insert(DATA_KEY).values(
                org_id=org_id,
                data_key_id=made.data_key_id,
                kid=name_of(wrapped),
                wrapped=wrapped,
                created_at_ms=now_ms,
            )
        )
        return made

    def _is_stored(self, connection: Connection, data_key: DataKey, key: ProviderKey, secret: Secret) -> bool:
        query = select(PROVIDER_KEY.c.sealed).where(PROVIDER_KEY.c.provider_key_id == key.provider_key_id)
        sealed = connection.execute(query).scalar_one()
        return self._envelope.open(data_key, sealed, key.source_id, key.provider_key_id) == secret


def _find(connection: Connection, org_id: str, provider_key_id: str) -> ProviderKey:
    query = select(*_SHOWN).where(PROVIDER_KEY.c.provider_key_id == provider_key_id, PROVIDER_KEY.c.org_id == org_id)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"no provider key {provider_key_id} in organisation {org_id}")
    return _key(row)


def _key(row: Row[*tuple[object, ...]]) -> ProviderKey:
    key = ProviderKey(*row)  # type: ignore[arg-type] # the columns are its fields
    return replace(key, fallback=bool(key.fallback))


def _change(connection: Connection, key: ProviderKey, changed_at_ms: int, **values: object) -> None:
    connection.execute(
        update(PROVIDER_KEY)
        .where(PROVIDER_KEY.c.provider_key_id == key.provider_key_id)
        .values(changed_at_ms=changed_at_ms, **values)
    )
