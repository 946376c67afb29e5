"""How the requests of a key use the cache where they don't say: the ledger's word, as controls."""

from __future__ import annotations

from edge.wire.cache_control import Controls, Mode, Tier
from tallygate.ledger.v1 import ledger_pb2

_TIERS = {
    ledger_pb2.CACHE_TIER_UNSPECIFIED: Tier.EXACT,
    ledger_pb2.CACHE_TIER_EXACT: Tier.EXACT,
    ledger_pb2.CACHE_TIER_CANONICAL: Tier.CANONICAL,
    ledger_pb2.CACHE_TIER_SEMANTIC: Tier.SEMANTIC,
}


def standing_controls(answer: ledger_pb2.AuthenticateResponse) -> Controls:
    """Of a key that was authenticated. A ledger that knows no cache policies says ``cache_default`` alone; a tier that
    this edge does not know is none that it may ask for.
    """
    policy = answer.cache
    default = policy.default or answer.policy.cache_default
    return Controls(
        mode=Mode.OFF if default == ledger_pb2.CACHE_DEFAULT_OFF else Mode.DEFAULT,
        allow_sampled=policy.allow_sampled,
        up_to=_TIERS.get(policy.up_to, Tier.EXACT),
        max_error_ppm=policy.max_error_ppm if policy.HasField("max_error_ppm") else None,
        ttl_s=policy.ttl_s,
        share_in_org=policy.share_in_org,
        record=policy.record_requests,
    )
