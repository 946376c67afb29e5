"""The messages that services share, most of them of ``tallygate.common.v1``, to and from the plain types of meshkit.
Servicers and clients call it."""

from __future__ import annotations

from functools import lru_cache

from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Actor, ActorKind, Principal
from meshkit.regions import RegionPolicy
from tallygate.common.v1 import actor_pb2, money_pb2, principal_pb2
from tallygate.ledger.v1 import ledger_pb2

_ACTOR_KINDS = {
    actor_pb2.ACTOR_KIND_UNSPECIFIED: ActorKind.OPERATOR,
    actor_pb2.ACTOR_KIND_OPERATOR: ActorKind.OPERATOR,
    actor_pb2.ACTOR_KIND_API_KEY: ActorKind.API_KEY,
    actor_pb2.ACTOR_KIND_SYSTEM: ActorKind.SYSTEM,
}
_ACTOR_NUMBERS = {kind: number for number, kind in _ACTOR_KINDS.items()}
_REGION_POLICIES = {
    ledger_pb2.REGION_POLICY_UNSPECIFIED: RegionPolicy.ANY,
    ledger_pb2.REGION_POLICY_ANY: RegionPolicy.ANY,
    ledger_pb2.REGION_POLICY_CN_ONLY: RegionPolicy.CN_ONLY,
    ledger_pb2.REGION_POLICY_OVERSEAS_ONLY: RegionPolicy.OVERSEAS_ONLY,
}
_RATE_FIELDS = tuple(Rates.__dataclass_fields__)


def usage_to_proto(usage: Usage) -> money_pb2.Usage:
    """Encode a usage."""
    return money_pb2.Usage(
        provenance=money_pb2.UsageProvenance.ValueType(usage.provenance.value),
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        images=usage.images,
        seconds=usage.seconds,
        calls=usage.calls,
    )


def usage_from_proto(message: money_pb2.Usage) -> Usage:
    """Decode a usage.

    Raises:
        ValueError: a class is negative, or the provenance is not one that this build knows.
    """
    return Usage(
        message.input_tokens,
        message.cached_input_tokens,
        message.cache_write_tokens,
        message.output_tokens,
        message.reasoning_tokens,
        message.images,
        message.seconds,
        message.calls,
        Provenance(message.provenance),
    )


def rates_to_proto(rates: Rates) -> money_pb2.Rates:
    """Encode rates."""
    return money_pb2.Rates(**{name: getattr(rates, name) for name in _RATE_FIELDS})


def rates_from_proto(message: money_pb2.Rates) -> Rates:
    """Decode rates.

    Raises:
        ValueError: one is negative.
    """
    return Rates(**{name: getattr(message, name) for name in _RATE_FIELDS})


def price_to_proto(price: PriceSnapshot) -> money_pb2.PriceSnapshot:
    """Encode a price."""
    return money_pb2.PriceSnapshot.FromString(_price_bytes(price, price.catalog_revision))


# Prices and principals are few and immutable, and each request carries them through every service: what was made of
# one is kept. The revision stands beside the price because two prices are equal though theirs differ.
@lru_cache(maxsize=1_024)
def _price_bytes(price: PriceSnapshot, catalog_revision: str) -> bytes:
    message = money_pb2.PriceSnapshot(
        offer_id=price.offer_id,
        tier=money_pb2.BillingTier.ValueType(price.tier.value),
        rate_tiers=[
            money_pb2.RateTier(
                above_input_tokens=tier.above_input_tokens,
                rates=rates_to_proto(tier.rates),
            )
            for tier in price.rate_tiers
        ],
        markup_bps=price.markup_bps,
        replay_bps=price.replay_bps,
        price_source=price.price_source,
        price_version=price.price_version,
        price_date=price.price_date,
        catalog_revision=catalog_revision,
    )
    return message.SerializeToString()


def price_from_proto(message: money_pb2.PriceSnapshot) -> PriceSnapshot:
    """Decode a price.

    Raises:
        ValueError: the price is not well-formed (see PriceSnapshot), or its tier is not one that this build knows.
    """
    return _price(message.SerializeToString(deterministic=True))


@lru_cache(maxsize=4_096)
def _price(encoded: bytes) -> PriceSnapshot:
    message = money_pb2.PriceSnapshot.FromString(encoded)
    return PriceSnapshot(
        offer_id=message.offer_id,
        tier=BillingTier(message.tier),
        rate_tiers=tuple(
            RateTier(tier.above_input_tokens, rates_from_proto(tier.rates)) for tier in message.rate_tiers
        ),
        markup_bps=message.markup_bps,
        replay_bps=message.replay_bps,
        price_source=message.price_source,
        price_version=message.price_version,
        price_date=message.price_date,
        catalog_revision=message.catalog_revision,
    )


def principal_to_proto(principal: Principal) -> principal_pb2.Principal:
    """Encode a principal."""
    return principal_pb2.Principal.FromString(_principal_bytes(principal))


@lru_cache(maxsize=1_024)
def _principal_bytes(principal: Principal) -> bytes:
    message = principal_pb2.Principal(
        org_id=principal.org_id,
        project_id=principal.project_id,
        key_id=principal.key_id,
        allowed_models=principal.allowed_models,
    )
    return message.SerializeToString()


def principal_from_proto(message: principal_pb2.Principal) -> Principal:
    """Decode a principal."""
    return _principal(message.SerializeToString(deterministic=True))


@lru_cache(maxsize=1_024)
def _principal(encoded: bytes) -> Principal:
    message = principal_pb2.Principal.FromString(encoded)
    return Principal(message.org_id, message.project_id, message.key_id, tuple(message.allowed_models))


def actor_to_proto(actor: Actor) -> actor_pb2.Actor:
    """Encode an actor."""
    return actor_pb2.Actor(kind=_ACTOR_NUMBERS[actor.kind], id=actor.id, address=actor.address, trace_id=actor.trace_id)


def actor_from_proto(message: actor_pb2.Actor) -> Actor:
    """Decode an actor; one that was not given is the operator.

    Raises:
        ValueError: its kind is not one that this build knows.
    """
    if message.kind not in _ACTOR_KINDS:
        raise ValueError(f"actor kind {message.kind} is not known")
    return Actor(_ACTOR_KINDS[message.kind], message.id, message.address, message.trace_id)


def region_from_proto(number: int) -> RegionPolicy:
    """Decode a region policy.

    Raises:
        ValueError: it is not one that this build knows.
    """
    try:
        return _REGION_POLICIES[number]  # type: ignore[index] # an enum's number is an int
    except KeyError:
        raise ValueError(f"{number} is no region policy") from None
