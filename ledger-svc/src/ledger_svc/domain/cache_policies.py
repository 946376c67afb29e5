"""How requests use the cache where they don't say: a policy of an organisation, of a project and of a key, one above
the other, and the installation's above all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import check_range
from ledger_svc.domain.trail import State

MAX_TTL_S = 30 * 24 * 3_600
"""The longest that any cache keeps an answer."""
MILLION = 1_000_000


class CacheDefault(Enum):
    """What a request does with the cache that does not say."""

    ON = "on"
    OFF = "off"


class CacheTier(Enum):
    """Which answers may be replayed; each tier asks the ones before it first."""

    EXACT = "exact"
    CANONICAL = "canonical"
    SEMANTIC = "semantic"


class PolicyLevel(Enum):
    """Whose policy it is, from the top."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """See ledger.proto. None: not said, so whoever stands above decides."""

    default: CacheDefault | None = None
    up_to: CacheTier | None = None
    max_error_ppm: int | None = None
    ttl_s: int | None = None
    allow_sampled: bool | None = None
    share_in_org: bool | None = None
    record_requests: bool | None = None

    def over(self, above: CachePolicy) -> CachePolicy:
        """This, and what it does not say from ``above``."""
        return CachePolicy(
            **{name: getattr(above, name) if (own := getattr(self, name)) is None else own for name in FIELDS}
        )

    def shown(self) -> State:
        """As JSON values, all of them: what the audit trail says of it."""
        return {f"cache_{name}": _plain(getattr(self, name)) for name in FIELDS}


FIELDS = tuple(entry.name for entry in fields(CachePolicy))
ONLY_OF_ORGANIZATION = ("share_in_org", "record_requests")
SAYS_NOTHING = CachePolicy()
INSTALLATION = CachePolicy(
    default=CacheDefault.ON, up_to=CacheTier.EXACT, allow_sampled=False, share_in_org=False, record_requests=False
)
"""Where nobody says anything else."""


@dataclass(frozen=True, slots=True)
class CachePolicyChange:
    """New values by the name of their field; None: whoever stands above decides from now on."""

    values: Mapping[str, Any]

    def of(self, policy: CachePolicy, above: CachePolicy, level: PolicyLevel) -> CachePolicy:
        """The policy with the change.

        Raises:
            InvalidRequest: see ``checked``.
        """
        return checked(replace(policy, **self.values), above, level) if self.values else policy


CHANGES_NOTHING = CachePolicyChange({})


def checked(policy: CachePolicy, above: CachePolicy, level: PolicyLevel) -> CachePolicy:
    """The policy of somebody at ``level``. ``above``: what is in force where it does not say.

    Raises:
        InvalidRequest: a value is out of bounds or not for this level, or the semantic tier has no error bound.
    """
    if level is not PolicyLevel.ORGANIZATION:
        for name in ONLY_OF_ORGANIZATION:
            if getattr(policy, name) is not None:
                raise InvalidRequest(name, f"is for the whole organisation: set it there, not for a {level.value}")
    if policy.ttl_s is not None:
        check_range("ttl_s", policy.ttl_s, 1, MAX_TTL_S)
    if policy.max_error_ppm is not None:
        check_range("max_error_ppm", policy.max_error_ppm, 1, MILLION)
    in_force = policy.over(above)
    if in_force.up_to is CacheTier.SEMANTIC and in_force.max_error_ppm is None:
        raise InvalidRequest("max_error_ppm", "the semantic tier needs it: the share of its replays that may be wrong")
    return policy


def encode(policy: CachePolicy) -> str:
    """The policy as it is stored: what it says."""
    said = {name: _plain(value) for name in FIELDS if (value := getattr(policy, name)) is not None}
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()


@lru_cache(maxsize=4_096)
def decode(text: str) -> CachePolicy:
    """A policy that ``encode`` wrote. Kept, since few texts are those of all keys."""
    if text == "{}":
        return SAYS_NOTHING
    said = orjson.loads(text)
    for name, kind in (("default", CacheDefault), ("up_to", CacheTier)):
        if name in said:
            said[name] = kind(said[name])
    return CachePolicy(**said)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
