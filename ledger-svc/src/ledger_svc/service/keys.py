"""Organisations, projects and API keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ledger_svc.domain import cache_policies
from ledger_svc.domain.cache_policies import INSTALLATION, SAYS_NOTHING, CachePolicy, PolicyLevel
from ledger_svc.domain.errors import InvalidApiKey
from ledger_svc.domain.key_changes import MAX_OVERLAP_MS, KeyChange, check_end, check_usable
from ledger_svc.domain.keys import SHOWN_CHARS, ApiKey, KeySecret, KeyStatus, Peppers, is_well_formed, mint_secret
from ledger_svc.domain.limits import check_name, check_patterns, check_range, check_text
from ledger_svc.domain.policies import DEFAULT_LIMITS, DEFAULT_POLICY, DefaultLimits, KeyPolicy, checked
from ledger_svc.domain.projects import Project
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.domain.webhooks import KEY_CREATED, KEY_REVOKED, KEY_ROTATED, KEY_UPDATED
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import Directory, KeyFilter
from ledger_svc.service.revocations import Revocations
from ledger_svc.service.telling import Telling
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor, Principal


class Authenticated(NamedTuple):
    """Who holds a secret, what its key may do (no limit is left open), for how many milliseconds that may be believed
    (never beyond the end of the key or of the secret), and how its requests use the cache where they don't say.
    """

    principal: Principal
    policy: KeyPolicy
    valid_for_ms: int
    cache: CachePolicy


class KeyService:
    """Who may spend.

    ``random_below(n)``: uniform and cryptographically strong. ``valid_for_ms``: how long an answer of
    ``authenticate`` may be kept. ``cache``: the installation's policy, for what nobody says.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        revocations: Revocations,
        peppers: Peppers,
        clock: Clock,
        make_id: MakeId,
        random_below: Callable[[int], int],
        valid_for_ms: int,
        limits: DefaultLimits = DEFAULT_LIMITS,
        cache: CachePolicy = INSTALLATION,
    ) -> None:
        self._directory = directory
        self._revocations = revocations
        self._peppers = peppers
        self._clock = clock
        self._make_id = make_id
        self._telling = Telling(clock, make_id)
        self._random_below = random_below
        self._valid_for_ms = valid_for_ms
        self._limits = limits
        self._cache = cache

    async def create_organization(self, name: str, *, actor: Actor = OPERATOR) -> str:
        """Makes an organisation with its accounts; gives its id."""
        org_id = self._make_id("org")
        entry = self._telling.entry(
            org_id, actor, "organization.created", org_id, after={"name": check_name("name", name)}
        )
        await self._directory.create_organization(org_id, name, entry)
        return org_id

    async def create_project(self, org_id: str, name: str, *, actor: Actor = OPERATOR) -> str:
        """Makes a project; gives its id.

        Raises:
            NotFound: no such organisation.
            InvalidRequest: also where the organisation has a project of this name.
        """
        project_id = self._make_id("prj")
        entry = self._telling.entry(
            check_text("org_id", org_id),
            actor,
            "project.created",
            project_id,
            after={"name": check_name("name", name)},
        )
        await self._directory.create_project(Project(project_id, org_id, name, entry.created_at_ms), entry)
        return project_id

    async def create_key(
        self,
        org_id: str,
        project_id: str,
        name: str,
        *,
        allowed_models: Sequence[str] = (),
        expires_at_ms: int = 0,
        policy: KeyPolicy = DEFAULT_POLICY,
        cache: CachePolicy = SAYS_NOTHING,
        actor: Actor = OPERATOR,
    ) -> tuple[ApiKey, str]:
        """Makes a key; gives what is known of it, and its secret, which is not stored.

        Raises:
            NotFound: no such project in the organisation.
            InvalidRequest: a value is out of bounds, see also ``cache_policies.checked``.
        """
        above = await self._directory.cache_above(check_text("org_id", org_id), check_text("project_id", project_id))
        now_ms = self._clock.now_ms()
        secret = mint_secret(self._random_below)
        key = ApiKey(
            key_id=self._make_id("key"),
            org_id=org_id,
            project_id=project_id,
            name=check_name("name", name),
            prefix=secret[:SHOWN_CHARS],
            allowed_models=check_patterns("allowed_models", allowed_models),
            created_at_ms=now_ms,
            expires_at_ms=check_end(expires_at_ms, now_ms),
            policy=checked(policy),
            cache=cache_policies.checked(cache, above.over(self._cache), PolicyLevel.KEY),
            cache_above=above,
        )
        entry = self._telling.entry(key.org_id, actor, KEY_CREATED, key.key_id, after=key.shown())
        await self._directory.create_key(key, self._peppers.digest(secret), entry)
        return key, secret

    async def list_keys(self, org_id: str) -> list[ApiKey]:
        """The keys of an organisation, or of all for "", newest first."""
        return await self._directory.list_keys(check_text("org_id", org_id, empty=True))

    async def find_keys(
        self, org_id: str, *, project_id: str, status: KeyStatus | None, page_size: int, page_token: str
    ) -> tuple[list[ApiKey], str]:
        """Keys of an organisation, newest first, and the token of the next page ("": there is none). ``project_id`` "":
        of all projects; ``status`` None: in any state.
        """
        size = check_page_size(page_size)
        wanted = KeyFilter(check_text("project_id", project_id, empty=True), status, self._clock.now_ms())
        found = await self._directory.find_keys(
            check_text("org_id", org_id), wanted, limit=size + 1, before=position_of_token(page_token)
        )
        return page_of(found, size, lambda key: (key.created_at_ms, key.key_id))

    async def get_key(self, key_id: str, org_id: str) -> ApiKey:
        """Raises:
        NotFound: no such key in the organisation ("": in any).
        """
        return await self._directory.key(check_text("org_id", org_id, empty=True), check_text("key_id", key_id))

    def cache_in_force(self, key: ApiKey) -> CachePolicy:
        """How requests of a key use the cache where they don't say."""
        return key.cache.over(key.cache_above).over(self._cache)

    def status_of(self, key: ApiKey) -> KeyStatus:
        """Whether a key can be used now."""
        return key.status(self._clock.now_ms())

    async def revoke_key(self, key_id: str, org_id: str, *, actor: Actor = OPERATOR) -> ApiKey:
        """Ends a key and tells the watchers. Again: the same answer, and nothing changes.

        Raises:
            NotFound: no such key in the organisation ("": in any).
        """

        def entry_of(before: ApiKey) -> TrailEntry:
            return self._telling.entry(before.org_id, actor, KEY_REVOKED, before.key_id, before=before.shown())

        revoked = await self._directory.revoke_key(
            check_text("key_id", key_id), check_text("org_id", org_id, empty=True), entry_of
        )
        self._revocations.announce(key_id, revoked.change_seq)
        return revoked.key

    async def update_key(self, key_id: str, org_id: str, change: KeyChange, *, actor: Actor = OPERATOR) -> ApiKey:
        """Changes a key and tells the watchers.

        Raises:
            NotFound: no such key in the organisation ("": in any).
            InvalidRequest: see ``KeyChange.of``.
        """
        now_ms = self._clock.now_ms()

        def entry_of(before: ApiKey, after: ApiKey) -> TrailEntry:
            was, is_ = before.shown(), after.shown()
            changed = [name for name in was if was[name] != is_[name]]
            return self._telling.entry(
                before.org_id,
                actor,
                KEY_UPDATED,
                before.key_id,
                before={name: was[name] for name in changed},
                after={name: is_[name] for name in changed},
            )

        changed = await self._directory.change_key(
            check_text("key_id", key_id),
            check_text("org_id", org_id, empty=True),
            lambda key: change.of(key, now_ms),
            entry_of,
        )
        self._revocations.announce(key_id, changed.change_seq)
        return changed.key

    async def rotate_key(
        self, key_id: str, org_id: str, *, overlap_ms: int, actor: Actor = OPERATOR
    ) -> tuple[ApiKey, str, int]:
        """Gives a key a new secret, and tells the watchers: the key, the secret, which is not stored, and when the
        former one ends.

        Raises:
            NotFound: no such key in the organisation ("": in any).
            InvalidRequest: the key was revoked or has expired, or the overlap is too long.
        """
        check_range("overlap_ms", overlap_ms, 0, MAX_OVERLAP_MS)
        now_ms = self._clock.now_ms()
        former_ends_at_ms = now_ms + overlap_ms
        secret = mint_secret(self._random_below)
        digest = self._peppers.digest(secret)

        def rotated(key: ApiKey) -> ApiKey:
            check_usable(key, now_ms)
            return replace(key, prefix=secret[:SHOWN_CHARS])

        def entry_of(before: ApiKey, after: ApiKey) -> TrailEntry:
            return self._telling.entry(
                before.org_id,
                actor,
                KEY_ROTATED,
                before.key_id,
                before={"prefix": before.prefix},
                after={"prefix": after.prefix, "former_secret_expires_at_ms": former_ends_at_ms},
            )

        changed = await self._directory.rotate_key(
            KeySecret(digest.hmac_sha256_hex, digest.pepper_version, check_text("key_id", key_id), now_ms),
            check_text("org_id", org_id, empty=True),
            rotated,
            entry_of,
            overlap_ms=overlap_ms,
        )
        self._revocations.announce(key_id, changed.change_seq)
        return changed.key, secret, former_ends_at_ms

    async def authenticate(self, secret: str) -> Authenticated:
        """Who holds this secret.

        Raises:
            InvalidApiKey, ApiKeyRevoked.
        """
        found = await self._directory.find_key(self._peppers.digests(secret)) if is_well_formed(secret) else None
        if found is None:
            raise InvalidApiKey("incorrect API key")
        key, stored = found
        now_ms = self._clock.now_ms()
        key.check_live(now_ms)
        stored.check_live(now_ms)
        ends = [at_ms - now_ms for at_ms in (key.expires_at_ms, stored.expires_at_ms) if at_ms]
        return Authenticated(
            key.principal,
            key.policy.with_defaults(self._limits),
            min([self._valid_for_ms, *ends]),
            self.cache_in_force(key),
        )
