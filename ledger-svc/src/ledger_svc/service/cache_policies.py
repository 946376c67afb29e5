"""How requests use the cache where they don't say: reading and changing it, for an organisation, a project or a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ledger_svc.domain.cache_policies import CachePolicy, CachePolicyChange, PolicyLevel
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.key_changes import KeyChange
from ledger_svc.domain.limits import check_text
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.keys import KeyService
from ledger_svc.service.ports import EntryOfChange
from ledger_svc.service.revocations import Revocations, name_of_organization
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """What somebody says, and what is said above: by the organisation for a project, by nobody for an organisation."""

    policy: CachePolicy
    above: CachePolicy


@dataclass(frozen=True, slots=True)
class ChangedPolicy:
    """A policy after a change. ``change_seq``: the number of the organisation's last change; 0: none yet."""

    placed: PlacedPolicy
    change_seq: int


ChangePolicy = Callable[[CachePolicy, CachePolicy], CachePolicy]
"""What becomes of a policy, by itself and what is said above."""


class CachePolicyStore(Protocol):
    """The policies of organisations and projects. Each change is told in the audit trail, in its own transaction."""

    async def policy(self, org_id: str, project_id: str) -> PlacedPolicy:
        """``project_id`` "": the organisation's own.

        Raises:
            NotFound: also where the project is another organisation's.
        """

    async def change_policy(
        self, org_id: str, project_id: str, change: ChangePolicy, entry_of: EntryOfChange[CachePolicy]
    ) -> ChangedPolicy:
        """Changes it under the next number; nothing is told where nothing changes.

        Raises:
            NotFound: also where the project is another organisation's.
        """


class CachePolicyService:
    """Gives each policy with what is in force: what it does not say comes from above, in the end from
    ``installation``.
    """

    def __init__(
        self,
        *,
        policies: CachePolicyStore,
        keys: KeyService,
        revocations: Revocations,
        installation: CachePolicy,
        clock: Clock,
        make_id: MakeId,
    ) -> None:
        self._policies = policies
        self._keys = keys
        self._revocations = revocations
        self._installation = installation
        self._telling = Telling(clock, make_id)

    async def policy(self, org_id: str, *, project_id: str, key_id: str) -> tuple[CachePolicy, CachePolicy]:
        """Of a project, of a key or, with neither, of the organisation: what it says, and what is in force.

        Raises:
            NotFound: also where it is another organisation's.
        """
        _check_subject(org_id, project_id, key_id)
        if key_id:
            key = await self._keys.get_key(key_id, org_id)
            return key.cache, self._keys.cache_in_force(key)
        return self._in_force(await self._policies.policy(org_id, project_id))

    async def update_policy(
        self, org_id: str, change: CachePolicyChange, *, project_id: str, key_id: str, actor: Actor = OPERATOR
    ) -> tuple[CachePolicy, CachePolicy]:
        """Changes it and tells the watchers: of the key, else of all keys of the organisation.

        Raises:
            NotFound: also where it is another organisation's.
            InvalidRequest: see ``cache_policies.checked``; or the key was revoked.
        """
        _check_subject(org_id, project_id, key_id)
        if key_id:
            key = await self._keys.update_key(key_id, org_id, KeyChange(cache=change), actor=actor)
            return key.cache, self._keys.cache_in_force(key)
        level = PolicyLevel.PROJECT if project_id else PolicyLevel.ORGANIZATION

        def entry_of(before: CachePolicy, after: CachePolicy) -> TrailEntry:
            was, is_ = before.shown(), after.shown()
            changed = [name for name in was if was[name] != is_[name]]
            return self._telling.entry(
                org_id,
                actor,
                f"{level.value}.updated",
                project_id or org_id,
                before={name: was[name] for name in changed},
                after={name: is_[name] for name in changed},
            )

        changed = await self._policies.change_policy(
            org_id,
            project_id,
            lambda policy, above: change.of(policy, above.over(self._installation), level),
            entry_of,
        )
        self._revocations.announce(name_of_organization(org_id), changed.change_seq)
        return self._in_force(changed.placed)

    def _in_force(self, placed: PlacedPolicy) -> tuple[CachePolicy, CachePolicy]:
        return placed.policy, placed.policy.over(placed.above).over(self._installation)


def _check_subject(org_id: str, project_id: str, key_id: str) -> None:
    check_text("org_id", org_id)
    check_text("project_id", project_id, empty=True)
    check_text("key_id", key_id, empty=True)
    if project_id and key_id:
        raise InvalidRequest("key_id", "is given beside project_id: name one of them, or neither for the organisation")
