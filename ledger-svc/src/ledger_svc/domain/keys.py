"""API keys: the form of their secret, its stored digest, and what a key may do.

A secret is ``tg-`` + 37 random base62 characters (220 bits) + 6 base62 characters of the CRC-32 of what stands
before, so that a mistyped or truncated key is known without a lookup, and scanners can tell a real leak from a
look-alike.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from ledger_svc.domain.cache_policies import SAYS_NOTHING, CachePolicy
from ledger_svc.domain.errors import ApiKeyRevoked, InvalidApiKey, ModelNotAllowed
from ledger_svc.domain.policies import DEFAULT_POLICY, KeyPolicy
from ledger_svc.domain.trail import State
from meshkit.principal import Principal

SECRET_PREFIX = "tg-"  # noqa: S105 - the public prefix of every secret
RANDOM_CHARS = 37
CHECKSUM_CHARS = 6
SECRET_CHARS = len(SECRET_PREFIX) + RANDOM_CHARS + CHECKSUM_CHARS
SHOWN_CHARS = len(SECRET_PREFIX) + 6

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE62_SET = frozenset(_BASE62)


class KeyStatus(Enum):
    """Whether a key can be used."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key, without its secrets. Times in Unix milliseconds, 0 for never; ``prefix`` is what is
    shown of the newest secret. ``cache``: its own policy; ``cache_above``: what its project and its organisation say.
    """

    key_id: str
    org_id: str
    project_id: str
    name: str
    prefix: str
    allowed_models: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int = 0
    revoked_at_ms: int = 0
    policy: KeyPolicy = DEFAULT_POLICY
    cache: CachePolicy = SAYS_NOTHING
    cache_above: CachePolicy = SAYS_NOTHING

    @property
    def principal(self) -> Principal:
        """Who holds it."""
        return Principal(self.org_id, self.project_id, self.key_id, self.allowed_models)

    def shown(self) -> State:
        """What the audit trail says of it."""
        return {
            "project_id": self.project_id,
            "name": self.name,
            "prefix": self.prefix,
            "allowed_models": list(self.allowed_models),
            "expires_at_ms": self.expires_at_ms,
            **self.policy.shown(),
            **self.cache.shown(),
        }

    def status(self, now_ms: int) -> KeyStatus:
        """Whether it can be used at ``now_ms``."""
        if self.revoked_at_ms:
            return KeyStatus.REVOKED
        return KeyStatus.EXPIRED if self.expires_at_ms and self.expires_at_ms <= now_ms else KeyStatus.ACTIVE

    def check_live(self, now_ms: int) -> None:
        """Raises:
        ApiKeyRevoked: it was revoked, or has expired at ``now_ms``.
        """
        status = self.status(now_ms)
        if status is not KeyStatus.ACTIVE:
            raise ApiKeyRevoked("this API key was revoked" if self.revoked_at_ms else "this API key has expired")


@dataclass(frozen=True, slots=True)
class KeyDigest:
    """What is stored of a secret."""

    pepper_version: int
    hmac_sha256_hex: str


@dataclass(frozen=True, slots=True)
class KeySecret:
    """A secret of a key, as it is stored. A key has one that holds until the key ends, and after a rotation, for a
    while, the one before. Times in Unix milliseconds; ``expires_at_ms`` 0: not before the key.
    """

    hmac_sha256_hex: str
    pepper_version: int
    key_id: str
    created_at_ms: int
    expires_at_ms: int = 0

    def check_live(self, now_ms: int) -> None:
        """Raises:
        ApiKeyRevoked: a rotation has ended it.
        """
        if self.expires_at_ms and self.expires_at_ms <= now_ms:
            raise ApiKeyRevoked("this API key was rotated, and this secret of it has ended")


def ends_of_secrets(secrets: Iterable[KeySecret], now_ms: int, overlap_ms: int) -> dict[str, int]:
    """When the secrets of a key end that is given a new one now, by digest: the one in force after the overlap, one
    that was left from an earlier rotation now, so that never more than two are valid.
    """
    ends: dict[str, int] = {}
    for secret in secrets:
        if not secret.expires_at_ms:
            ends[secret.hmac_sha256_hex] = now_ms + overlap_ms
        elif secret.expires_at_ms > now_ms:
            ends[secret.hmac_sha256_hex] = now_ms
    return ends


def mint_secret(random_below: Callable[[int], int]) -> str:
    """A fresh secret. ``random_below(n)`` gives a uniform integer in 0..n-1 and must be cryptographically strong."""
    body = SECRET_PREFIX + "".join(_BASE62[random_below(len(_BASE62))] for _ in range(RANDOM_CHARS))
    return body + _checksum(body)


def is_well_formed(secret: str) -> bool:
    """Whether prefix, length, alphabet and checksum are right. Says nothing about whether it was issued."""
    if len(secret) != SECRET_CHARS or not secret.startswith(SECRET_PREFIX):
        return False
    if not _BASE62_SET.issuperset(secret[len(SECRET_PREFIX) :]):
        return False
    return secret[-CHECKSUM_CHARS:] == _checksum(secret[:-CHECKSUM_CHARS])


def _checksum(body: str) -> str:
    value, chars = zlib.crc32(body.encode()), []
    for _ in range(CHECKSUM_CHARS):
        value, digit = divmod(value, len(_BASE62))
        chars.append(_BASE62[digit])
    return "".join(reversed(chars))


class Peppers:
    """The keys of the stored digests, by version. The highest version signs; all verify, so that a pepper can be
    rotated.

    Raises:
        ValueError: there is none, or one is shorter than 16 characters.
    """

    def __init__(self, by_version: Mapping[int, str]) -> None:
        if not by_version:
            raise ValueError("at least one pepper is needed")
        for version, pepper in by_version.items():
            if version < 1 or len(pepper) < 16:
                raise ValueError(f"pepper {version}: versions begin at 1 and a pepper has at least 16 characters")
        self._by_version = dict(sorted(by_version.items(), reverse=True))

    def digest(self, secret: str) -> KeyDigest:
        """The digest to store, with the newest pepper."""
        return self.digests(secret)[0]

    def digests(self, secret: str) -> list[KeyDigest]:
        """The digests to look for, newest pepper first."""
        return [
            KeyDigest(version, hmac.new(pepper.encode(), secret.encode(), hashlib.sha256).hexdigest())
            for version, pepper in self._by_version.items()
        ]


def model_allowed(allowed_models: tuple[str, ...], model: str) -> bool:
    """Whether a list of ids and globs (``*``, ``?``, ``[...]``; ``*`` crosses slashes) has the model. An empty list
    has all.
    """
    return not allowed_models or any(fnmatchcase(model, pattern) for pattern in allowed_models)


def admit_key(key: ApiKey | None, principal: Principal, model: str, now_ms: int) -> None:
    """Whether the principal's key may spend on this model now. What is stored decides; the principal's own list is
    not read.

    Raises:
        InvalidApiKey: no such key in the principal's organisation and project.
        ApiKeyRevoked, ModelNotAllowed.
    """
    if key is None or (key.org_id, key.project_id) != (principal.org_id, principal.project_id):
        raise InvalidApiKey("no such API key in this organisation and project")
    key.check_live(now_ms)
    if not model_allowed(key.allowed_models, model):
        raise ModelNotAllowed(model)
