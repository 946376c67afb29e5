"""What is changed of a key, and what may not be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ledger_svc.domain.cache_policies import CHANGES_NOTHING, CacheDefault, CachePolicyChange, PolicyLevel
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.keys import ApiKey, KeyStatus
from ledger_svc.domain.limits import MAX_TIME_MS, check_name, check_patterns
from ledger_svc.domain.policies import checked
from meshkit.regions import RegionPolicy

MAX_OVERLAP_MS = 30 * 24 * 3_600 * 1_000
"""The longest that two secrets of a key are valid beside each other: 30 days."""


@dataclass(frozen=True, slots=True)
class MinuteLimit:
    """A limit by the minute: 0: none; None: the installation's default."""

    per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a key is to have; None: what it has. ``expires_at_ms`` 0: it does not end by itself. What a key is for never
    changes.
    """

    name: str | None = None
    allowed_models: tuple[str, ...] | None = None
    expires_at_ms: int | None = None
    read_only: bool | None = None
    allowed_cidrs: tuple[str, ...] | None = None
    region: RegionPolicy | None = None
    requests_per_minute: MinuteLimit | None = None
    tokens_per_minute: MinuteLimit | None = None
    cache_default: CacheDefault | None = None
    cache: CachePolicyChange = CHANGES_NOTHING

    def of(self, key: ApiKey, now_ms: int) -> ApiKey:
        """The key with the change.

        Raises:
            InvalidRequest: the key was revoked, an end that has passed would be moved, or a value is out of bounds.
        """
        check_usable(key, now_ms, may_be_expired=True)
        return replace(
            key,
            name=key.name if self.name is None else check_name("name", self.name),
            allowed_models=key.allowed_models
            if self.allowed_models is None
            else check_patterns("allowed_models", self.allowed_models),
            expires_at_ms=self._end_of(key, now_ms),
            policy=checked(replace(key.policy, **self._of_policy())),
            cache=self._of_cache().of(key.cache, key.cache_above, PolicyLevel.KEY),
        )

    def _end_of(self, key: ApiKey, now_ms: int) -> int:
        if self.expires_at_ms is None or self.expires_at_ms == key.expires_at_ms:
            return key.expires_at_ms
        if key.status(now_ms) is KeyStatus.EXPIRED:
            raise InvalidRequest("expires_at_ms", "the key has expired and can't be brought back: make a new one")
        return check_end(self.expires_at_ms, now_ms)

    def _of_cache(self) -> CachePolicyChange:
        if self.cache_default is None:
            return self.cache
        if "default" in self.cache.values:
            raise InvalidRequest("cache_default", "says the same as `default` of `cache`: send one of them")
        return CachePolicyChange({**self.cache.values, "default": self.cache_default})

    def _of_policy(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            name: value
            for name in ("read_only", "allowed_cidrs", "region")
            if (value := getattr(self, name)) is not None
        }
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit: MinuteLimit | None = getattr(self, name)
            if limit is not None:
                given[name] = limit.per_minute
        return given


def check_end(expires_at_ms: int, now_ms: int) -> int:
    """When a key is to end; 0: not by itself.

    Raises:
        InvalidRequest: that has passed.
    """
    if expires_at_ms and not now_ms < expires_at_ms <= MAX_TIME_MS:
        raise InvalidRequest("expires_at_ms", "must be in the future")
    return expires_at_ms


def check_usable(key: ApiKey, now_ms: int, *, may_be_expired: bool = False) -> None:
    """Raises:
    InvalidRequest: the key was revoked, or has expired: it stays as it is.
    """
    status = key.status(now_ms)
    if status is KeyStatus.REVOKED:
        raise InvalidRequest("key_id", f"the key {key.key_id} was revoked and stays as it is: make a new one")
    if status is KeyStatus.EXPIRED and not may_be_expired:
        raise InvalidRequest("key_id", f"the key {key.key_id} has expired: make a new one")
