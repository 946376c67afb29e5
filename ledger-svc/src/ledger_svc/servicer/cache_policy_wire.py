"""Between the messages about cache policies and the domain's values."""

from __future__ import annotations

from typing import Any

from ledger_svc.domain.cache_policies import FIELDS, CacheDefault, CachePolicy, CachePolicyChange, CacheTier
from ledger_svc.domain.errors import InvalidRequest
from tallygate.ledger.v1 import account_pb2
from tallygate.ledger.v1 import ledger_pb2 as pb

CACHE_DEFAULTS: dict[int, CacheDefault | None] = {
    pb.CACHE_DEFAULT_UNSPECIFIED: None,
    pb.CACHE_DEFAULT_ON: CacheDefault.ON,
    pb.CACHE_DEFAULT_OFF: CacheDefault.OFF,
}
_TIERS: dict[int, CacheTier | None] = {
    pb.CACHE_TIER_UNSPECIFIED: None,
    pb.CACHE_TIER_EXACT: CacheTier.EXACT,
    pb.CACHE_TIER_CANONICAL: CacheTier.CANONICAL,
    pb.CACHE_TIER_SEMANTIC: CacheTier.SEMANTIC,
}
_WORDS: dict[str, dict[int, Any]] = {"default": CACHE_DEFAULTS, "up_to": _TIERS}
CACHE_DEFAULT_NUMBERS = {
    None: pb.CACHE_DEFAULT_UNSPECIFIED,
    CacheDefault.ON: pb.CACHE_DEFAULT_ON,
    CacheDefault.OFF: pb.CACHE_DEFAULT_OFF,
}
_TIER_NUMBERS = {
    None: pb.CACHE_TIER_UNSPECIFIED,
    CacheTier.EXACT: pb.CACHE_TIER_EXACT,
    CacheTier.CANONICAL: pb.CACHE_TIER_CANONICAL,
    CacheTier.SEMANTIC: pb.CACHE_TIER_SEMANTIC,
}


def cache_policy_to_proto(policy: CachePolicy) -> pb.CachePolicy:
    """A policy; what it does not say is not set."""
    return pb.CachePolicy(
        default=CACHE_DEFAULT_NUMBERS[policy.default],
        up_to=_TIER_NUMBERS[policy.up_to],
        max_error_ppm=policy.max_error_ppm,
        ttl_s=policy.ttl_s,
        allow_sampled=policy.allow_sampled,
        share_in_org=policy.share_in_org,
        record_requests=policy.record_requests,
    )


def cache_policy_of(message: pb.KeyPolicy) -> CachePolicy:
    """The cache policy of a key to make.

    Raises:
        InvalidRequest: a number that this build does not know, or two different words for the default.
    """
    values = {name: _value(message.cache, name) for name in FIELDS}
    own = word("cache_default", CACHE_DEFAULTS, message.cache_default)
    if own and values["default"] not in {None, own}:
        raise InvalidRequest("cache_default", "says another thing than `default` of `cache`: send one of them")
    return CachePolicy(**{**values, "default": own or values["default"]})


def cache_policy_change_from_proto(message: account_pb2.CachePolicyChange) -> CachePolicyChange:
    """What to change.

    Raises:
        InvalidRequest: a field or a number that this build does not know.
    """
    for path in message.fields.paths:
        if path not in FIELDS:
            raise InvalidRequest("change.fields", f"{path[:50]!r} is not one of {list(FIELDS)}")
    return CachePolicyChange({path: _value(message.values, path) for path in message.fields.paths})


def word(param: str, table: dict[int, Any], number: int) -> Any:
    """The domain's word for an enumerated number; None: not said.

    Raises:
        InvalidRequest: a number that is not one of them.
    """
    if number not in table:
        raise InvalidRequest(param, f"{number} is not one of {[kind.value for kind in table.values() if kind]}")
    return table[number]


def _value(policy: pb.CachePolicy, name: str) -> Any:
    if name in _WORDS:
        return word(name, _WORDS[name], getattr(policy, name))
    return getattr(policy, name) if policy.HasField(name) else None  # type: ignore[arg-type] # a name of any
