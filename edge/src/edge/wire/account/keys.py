"""The JSON of an API key."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from edge.wire.account.base import Answer, Body
from edge.wire.account.cache import CACHE_DEFAULTS, CACHE_WORDS, CacheDefault, CacheRules, CacheValues, CacheWord
from tallygate.ledger.v1 import ledger_pb2

_MAX_AT_S = (2**53 - 1) // 1_000
_MAX_PER_MINUTE = 10**9
MAX_OVERLAP_S = 30 * 24 * 3_600


class Scope(StrEnum):
    """What a key is for."""

    INFERENCE = "inference"
    ACCOUNT = "account"


class Region(StrEnum):
    """Where the requests of a key may be answered."""

    ANY = "any"
    CN_ONLY = "cn-only"
    OVERSEAS_ONLY = "overseas-only"


class Status(StrEnum):
    """Whether a key can be used."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


SCOPES = {Scope.INFERENCE: ledger_pb2.KEY_SCOPE_INFERENCE, Scope.ACCOUNT: ledger_pb2.KEY_SCOPE_ACCOUNT}
REGIONS = {
    Region.ANY: ledger_pb2.REGION_POLICY_ANY,
    Region.CN_ONLY: ledger_pb2.REGION_POLICY_CN_ONLY,
    Region.OVERSEAS_ONLY: ledger_pb2.REGION_POLICY_OVERSEAS_ONLY,
}
STATUSES = {
    Status.ACTIVE: ledger_pb2.KEY_STATUS_ACTIVE,
    Status.REVOKED: ledger_pb2.KEY_STATUS_REVOKED,
    Status.EXPIRED: ledger_pb2.KEY_STATUS_EXPIRED,
}
_SCOPE_WORDS = {number: word for word, number in SCOPES.items()}
_REGION_WORDS = {number: word for word, number in REGIONS.items()}
_STATUS_WORDS = {number: word for word, number in STATUSES.items()}

Name = Annotated[str, Field(min_length=1, max_length=100, description="For people.", examples=["web"])]
Models = Annotated[
    list[str],
    Field(
        max_length=100,
        description="Model ids or globs (`*`, `?`, `[...]`) that it may use; empty: any.",
        examples=[["gpt-*", "claude-sonnet-4-5"]],
    ),
]
Cidrs = Annotated[
    list[str],
    Field(
        max_length=100,
        description="Addresses and networks (IPv4, IPv6) that it may be used from; empty: from anywhere.",
        examples=[["203.0.113.7", "2001:db8::/32"]],
    ),
]
PerMinute = Annotated[int, Field(ge=0, le=_MAX_PER_MINUTE)]
At = Annotated[int, Field(ge=1, le=_MAX_AT_S)]
# JSON has no enumerations: a word is taken for what it says, although bodies are strict otherwise.
ScopeWord = Annotated[Scope, Field(strict=False)]
RegionWord = Annotated[Region, Field(strict=False)]

_ENDS = "It ends by itself then, Unix time in seconds; null: never."
_CACHE_DEFAULT = (
    "Whether requests without `X-Tallygate-Cache` use the cache: `default` of `cache`. null: as its project has it."
)
_LIMIT = "The most in a minute; 0: no limit; null: the installation's default."


class NewKey(Body):
    """A key to make."""

    name: Name
    project_id: str | None = Field(
        default=None, max_length=200, description="Whose spending it counts as; null: the project of the key that asks."
    )
    scope: ScopeWord = Field(
        default=Scope.INFERENCE, description="`inference`: calls models. `account`: manages the account. For life."
    )
    read_only: bool = Field(default=False, description="It changes nothing and spends nothing.")
    allowed_models: Models = Field(default_factory=list)
    allowed_cidrs: Cidrs = Field(default_factory=list)
    region: RegionWord = Field(default=Region.ANY, description="Where its requests may be answered.")
    requests_per_minute: PerMinute | None = Field(default=None, description=_LIMIT)
    tokens_per_minute: PerMinute | None = Field(default=None, description=_LIMIT)
    cache_default: CacheWord | None = Field(default=None, description=_CACHE_DEFAULT)
    cache: CacheRules | None = Field(default=None, description="Its own cache policy.")
    expires_at: At | None = Field(default=None, description=_ENDS)

    def policy(self) -> ledger_pb2.KeyPolicy:
        """For the ledger."""
        return ledger_pb2.KeyPolicy(
            scope=SCOPES[self.scope],
            read_only=self.read_only,
            allowed_cidrs=self.allowed_cidrs,
            region=REGIONS[self.region],
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            cache_default=CACHE_DEFAULTS[self.cache_default],
            cache=self.cache.values() if self.cache else None,
        )


class KeyChanges(Body):
    """What a key is to have. What is left out stays as it is."""

    name: Name = ""
    allowed_models: Models = Field(default_factory=list)
    allowed_cidrs: Cidrs = Field(default_factory=list)
    read_only: bool = Field(default=False, description="It changes nothing and spends nothing.")
    region: RegionWord = Field(default=Region.ANY, description="Where its requests may be answered.")
    requests_per_minute: PerMinute | None = Field(default=None, description=_LIMIT)
    tokens_per_minute: PerMinute | None = Field(default=None, description=_LIMIT)
    cache_default: CacheWord | None = Field(default=None, description=_CACHE_DEFAULT)
    cache: CacheRules | None = Field(
        default=None, description="Of its own cache policy, what is to change; null: it says nothing any more."
    )
    expires_at: At | None = Field(default=None, description=_ENDS)

    def given(self, name: str) -> bool:
        """Whether the client sent this field."""
        return name in self.model_fields_set


class Rotation(Body):
    """How a key gets a new secret."""

    overlap_s: int = Field(
        ge=0,
        le=MAX_OVERLAP_S,
        description="The secret that it has now is valid for so many seconds more; 0: it ends at once.",
        examples=[86_400],
    )


class Key(Answer):
    """An API key, without its secret."""

    id: str = Field(examples=["key_01kb2r4h6tj8m0n2p4q6s8v0x2"])
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str = Field(description="How its newest secret begins, to tell keys apart.", examples=["tg-a1B2c3"])
    project_id: str
    scope: Scope
    read_only: bool
    allowed_models: list[str]
    allowed_cidrs: list[str]
    region: Region
    requests_per_minute: int | None = Field(description=_LIMIT)
    tokens_per_minute: int | None = Field(description=_LIMIT)
    cache_default: CacheDefault = Field(
        description="Whether its requests without `X-Tallygate-Cache` use the cache: what is in force, whoever says it."
    )
    cache: CacheValues = Field(description="Its own cache policy.")
    created_at: int = Field(description="Unix time in seconds.")
    expires_at: int | None = Field(description=_ENDS)
    revoked_at: int | None = Field(description="Unix time in seconds; null: it was not.")
    status: Status

    @classmethod
    def of(cls, key: ledger_pb2.Key, policy: ledger_pb2.KeyPolicy | None = None) -> Key:
        """As the ledger has it; ``policy``: with what is in force in place of what it was given."""
        policy = policy or key.policy
        return cls(
            id=key.key_id,
            name=key.name,
            prefix=key.prefix,
            project_id=key.project_id,
            scope=_SCOPE_WORDS[policy.scope],
            read_only=policy.read_only,
            allowed_models=list(key.allowed_models),
            allowed_cidrs=list(policy.allowed_cidrs),
            region=_REGION_WORDS[policy.region],
            requests_per_minute=policy.requests_per_minute if policy.HasField("requests_per_minute") else None,
            tokens_per_minute=policy.tokens_per_minute if policy.HasField("tokens_per_minute") else None,
            cache_default=CACHE_WORDS[policy.cache_default],
            cache=CacheValues.of(key.cache),
            created_at=key.created_at_ms // 1_000,
            expires_at=_seconds(key.expires_at_ms),
            revoked_at=_seconds(key.revoked_at_ms),
            status=_STATUS_WORDS[key.status],
        )


class KeyWithSecret(Key):
    """A key that was made just now."""

    secret: str = Field(description="Shown here only: it is not stored.")

    @classmethod
    def made(cls, key: ledger_pb2.Key, secret: str) -> KeyWithSecret:
        """With its secret."""
        return cls(**Key.of(key).model_dump(), secret=secret)


class RotatedKey(KeyWithSecret):
    """A key with a new secret."""

    former_secret_expires_at: int = Field(description="The secret before is valid until then, Unix time in seconds.")

    @classmethod
    def rotated(cls, key: ledger_pb2.Key, secret: str, former_ends_at_ms: int) -> RotatedKey:
        """With its new secret."""
        return cls(**Key.of(key).model_dump(), secret=secret, former_secret_expires_at=former_ends_at_ms // 1_000)


def _seconds(at_ms: int) -> int | None:
    return at_ms // 1_000 or None
