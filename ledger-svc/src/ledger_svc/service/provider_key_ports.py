"""What the use cases of provider keys need of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.provider_keys import ProviderKey, ProviderSecret
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.ports import EntryOf
from meshkit.secret import Secret


@dataclass(frozen=True, slots=True)
class Changed:
    """A provider key that was made, rotated or revoked."""

    org_id: str
    provider_key_id: str
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key-encryption key. ``is_set``: the settings have it; ``data_keys``: so many are stored under it."""

    kid: str
    current: bool
    is_set: bool
    data_keys: int


@dataclass(frozen=True, slots=True)
class Resealed:
    """A data key in the place of another. ``secrets``: so many are under it."""

    old_data_key_id: str
    new_data_key_id: str
    secrets: int


class ProviderKeyStore(Protocol):
    """Provider keys with their secrets, encrypted. Each change is told in the audit trail, in its own transaction."""

    async def create(self, key: ProviderKey, secret: Secret, entry: TrailEntry) -> None:
        """Stores a key.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: the organisation has a key in force at this source; or nothing can be encrypted here.
        """

    async def page(self, org_id: str, *, limit: int, after: tuple[int, str] | None) -> list[ProviderKey]:
        """At most ``limit`` keys, oldest first; ``after``: those younger than this (created_at_ms, provider_key_id)."""

    async def get(self, org_id: str, provider_key_id: str) -> ProviderKey:
        """Raises:
        NotFound: also where it is another organisation's.
        """

    async def rotate(
        self, org_id: str, provider_key_id: str, secret: Secret, entry_of: EntryOf[ProviderKey]
    ) -> ProviderKey:
        """Replaces the secret; the same one again changes nothing and is not told.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: it was revoked.
        """

    async def revoke(self, org_id: str, provider_key_id: str, entry_of: EntryOf[ProviderKey]) -> ProviderKey:
        """Ends a key and erases its secret; again, nothing changes and nothing is told.

        Raises:
            NotFound: also where it is another organisation's.
        """

    async def secrets(self, org_id: str) -> list[ProviderSecret]:
        """Those in force, by source.

        Raises:
            SealBroken: one does not open.
        """

    async def changed_since(self, since_ms: int) -> list[Changed]:
        """Keys changed at or after a time, oldest first."""

    async def reseal(self, org_id: str, data_key_id: str, entry_of: EntryOf[Resealed]) -> int:
        """Gives the organisation a data key of this id and encrypts its secrets anew under it; gives their number.

        Raises:
            NotFound: the organisation has no data key.
            InvalidRequest: nothing can be encrypted here.
        """

    async def rewrap(self, *, after: str, limit: int) -> tuple[int, str]:
        """Wraps data keys that are not under the current key-encryption key anew: of at most ``limit`` organisations
        behind ``after``, in the order of their ids. Gives how many it wrapped, and the last organisation that it
        looked at ("": there was none).

        Raises:
            Standby: another replica is the writer.
        """

    async def wrapping_keys(self) -> list[WrappingKey]:
        """Those of the settings and those that data keys are under, by kid."""
