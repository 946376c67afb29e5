"""What a key may do, beyond its models and its time: the rules that the edge keeps, which asks for them once in a while
and is told of each change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import IPv6Network, ip_network
from typing import Any

import orjson

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import check_range
from meshkit.regions import RegionPolicy

MAX_CIDRS = 100
MAX_PER_MINUTE = 10**9
_MAPPED = IPv6Network("::ffff:0:0/96")


class KeyScope(Enum):
    """What a key is for."""

    INFERENCE = "inference"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """See ledger.proto. ``allowed_cidrs`` empty: any address. Limits by the minute: 0: none; None: the installation's
    default.
    """

    scope: KeyScope = KeyScope.INFERENCE
    read_only: bool = False
    allowed_cidrs: tuple[str, ...] = ()
    region: RegionPolicy = RegionPolicy.ANY
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def with_defaults(self, limits: DefaultLimits) -> KeyPolicy:
        """With the limits in force."""
        requests, tokens = self.requests_per_minute, self.tokens_per_minute
        return replace(
            self,
            requests_per_minute=limits.requests_per_minute if requests is None else requests,
            tokens_per_minute=limits.tokens_per_minute if tokens is None else tokens,
        )

    def shown(self) -> dict[str, Any]:
        """As JSON values: what is stored, and what the audit trail says."""
        return {
            "scope": self.scope.value,
            "read_only": self.read_only,
            "allowed_cidrs": list(self.allowed_cidrs),
            "region": self.region.value,
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
        }


@dataclass(frozen=True, slots=True)
class DefaultLimits:
    """The limits by the minute of keys that have none of their own; 0: none."""

    requests_per_minute: int = 60
    tokens_per_minute: int = 0


DEFAULT_POLICY, DEFAULT_LIMITS = KeyPolicy(), DefaultLimits()


def checked(policy: KeyPolicy) -> KeyPolicy:
    """The policy with its networks in their usual form ("10.1.2.3/8" is "10.0.0.0/8", an address is a network of one).

    Raises:
        InvalidRequest: a network is not one, there are too many, or a limit is out of bounds.
    """
    if len(policy.allowed_cidrs) > MAX_CIDRS:
        raise InvalidRequest("allowed_cidrs", f"has {len(policy.allowed_cidrs)} networks, at most {MAX_CIDRS} may be")
    for name in ("requests_per_minute", "tokens_per_minute"):
        limit = getattr(policy, name)
        if limit is not None:
            check_range(name, limit, 0, MAX_PER_MINUTE)
    return replace(policy, allowed_cidrs=tuple(map(_network, policy.allowed_cidrs)))


def _network(text: str) -> str:
    try:
        network = ip_network(text.strip(), strict=False)
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            # An IPv4 client is seen by its IPv4 address, however it came (RFC 4291, 2.5.5.2).
            address = network.network_address.ipv4_mapped
            return str(ip_network((str(address), network.prefixlen - _MAPPED.prefixlen)))
        return str(network)
    except ValueError:
        message = f'{text[:50]!r} is neither an address nor a network, such as "203.0.113.7" or "2001:db8::/32"'
        raise InvalidRequest("allowed_cidrs", message) from None


def encode(policy: KeyPolicy) -> str:
    """The policy as it is stored."""
    return orjson.dumps(policy.shown(), option=orjson.OPT_SORT_KEYS).decode()


@lru_cache(maxsize=4_096)
def decode(text: str) -> KeyPolicy:
    """A policy that ``encode`` wrote; what it lacks is as by default. Kept, since a key serves many requests."""
    stored = orjson.loads(text)
    if not stored:
        return DEFAULT_POLICY
    return KeyPolicy(
        scope=KeyScope(stored["scope"]),
        read_only=stored["read_only"],
        allowed_cidrs=tuple(stored["allowed_cidrs"]),
        region=RegionPolicy(stored["region"]),
        requests_per_minute=stored["requests_per_minute"],
        tokens_per_minute=stored["tokens_per_minute"],
    )
