"""Provider keys: storing them, telling of their changes, and giving them to the router."""

from __future__ import annotations

from dataclasses import replace

from ledger_svc.domain.limits import check_name, check_text
from ledger_svc.domain.provider_keys import ProviderKey, ProviderSecret, check_secret, hint_of
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.provider_key_changes import ProviderKeyChanges
from ledger_svc.service.provider_key_ports import Changed, ProviderKeyStore, Resealed, WrappingKey
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor


class ProviderKeyService:
    """The provider keys of organisations."""

    def __init__(self, store: ProviderKeyStore, changes: ProviderKeyChanges, clock: Clock, make_id: MakeId) -> None:
        self._store = store
        self._changes = changes
        self._make_id = make_id
        self._telling = Telling(clock, make_id)

    async def create(
        self, org_id: str, source_id: str, name: str, secret: str, *, fallback: bool = True, actor: Actor = OPERATOR
    ) -> ProviderKey:
        """Stores a key for a source, and tells the watchers.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: also where it has a key in force at this source.
        """
        checked = check_secret(secret)
        made = ProviderKey(
            provider_key_id=self._make_id("pk"),
            org_id=check_text("org_id", org_id),
            source_id=check_text("source_id", source_id),
            name=check_name("name", name),
            hint=hint_of(checked),
            fallback=fallback,
            created_at_ms=0,
        )
        entry = self._telling.entry(org_id, actor, "provider_key.created", made.provider_key_id, after=made.shown())
        made = replace(made, created_at_ms=entry.created_at_ms)
        await self._store.create(made, checked, entry)
        self._announce(made, entry.created_at_ms)
        return made

    async def page(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[ProviderKey], str]:
        """Keys of an organisation, oldest first, and the token of the next page ("": there is none)."""
        size = check_page_size(page_size)
        found = await self._store.page(
            check_text("org_id", org_id), limit=size + 1, after=position_of_token(page_token)
        )
        return page_of(found, size, lambda key: (key.created_at_ms, key.provider_key_id))

    async def get(self, org_id: str, provider_key_id: str) -> ProviderKey:
        """Raises:
        NotFound: also where it is another organisation's.
        """
        return await self._store.get(check_text("org_id", org_id), check_text("provider_key_id", provider_key_id))

    async def rotate(self, org_id: str, provider_key_id: str, secret: str, *, actor: Actor = OPERATOR) -> ProviderKey:
        """Puts another secret in the place of the stored one, and tells the watchers.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: also where it was revoked.
        """
        checked = check_secret(secret)

        def entry_of(before: ProviderKey) -> TrailEntry:
            after = replace(before, hint=hint_of(checked))
            return self._telling.entry(
                org_id, actor, "provider_key.rotated", provider_key_id, before=before.shown(), after=after.shown()
            )

        key = await self._store.rotate(
            check_text("org_id", org_id), check_text("provider_key_id", provider_key_id), checked, entry_of
        )
        self._announce(key, key.rotated_at_ms)
        return key

    async def revoke(self, org_id: str, provider_key_id: str, *, actor: Actor = OPERATOR) -> ProviderKey:
        """Ends a key, erases its secret, and tells the watchers.

        Raises:
            NotFound: also where it is another organisation's.
        """

        def entry_of(before: ProviderKey) -> TrailEntry:
            return self._telling.entry(org_id, actor, "provider_key.revoked", provider_key_id, before=before.shown())

        key = await self._store.revoke(
            check_text("org_id", org_id), check_text("provider_key_id", provider_key_id), entry_of
        )
        self._announce(key, key.revoked_at_ms)
        return key

    async def secrets(self, org_id: str) -> list[ProviderSecret]:
        """The secrets of an organisation that are in force, by source."""
        return await self._store.secrets(check_text("org_id", org_id))

    async def reseal(self, org_id: str, *, actor: Actor = OPERATOR) -> int:
        """Gives an organisation a new data key and encrypts its secrets anew; gives their number.

        Raises:
            NotFound: the organisation has no data key, as it never had a provider key.
        """

        def entry_of(done: Resealed) -> TrailEntry:
            before, after = {"data_key": done.old_data_key_id}, {"data_key": done.new_data_key_id}
            return self._telling.entry(
                org_id, actor, "data_key.rotated", org_id, before=before, after=after | {"secrets": done.secrets}
            )

        return await self._store.reseal(check_text("org_id", org_id), self._make_id("dk"), entry_of)

    async def wrapping_keys(self) -> list[WrappingKey]:
        """The key-encryption keys, by kid."""
        return await self._store.wrapping_keys()

    def _announce(self, key: ProviderKey, changed_at_ms: int) -> None:
        self._changes.announce(Changed(key.org_id, key.provider_key_id, changed_at_ms))
