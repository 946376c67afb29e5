"""Merged documents into the catalog's contents: defaults filled in, prices of the day chosen, references checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from catalog_svc.domain import (
    Alias,
    BillingPolicy,
    CachedTokenAccounting,
    Capabilities,
    CatalogInvalid,
    Contents,
    Model,
    Offer,
    Source,
    WireFormat,
)
from catalog_svc.store.documents import entries
from catalog_svc.store.documents.layers import Layered, Layers
from meshkit.money import BASIS_POINTS, BillingTier, PriceSnapshot, Rates, RateTier

OPERATOR = "operator"
"""The name of the price list that has none: prices that the operator wrote down."""


def assemble(layers: Layers, today: dt.date) -> Contents:
    """The catalog that ``layers`` describe, with the prices in force on ``today``.

    Raises:
        CatalogInvalid: with a line for each entry that is incomplete or refers to what is not there.
    """
    problems: list[str] = []
    models = {key: _model(key, entry, problems) for key, entry in layers.sections["models"].items()}
    sources = {key: _source(key, entry) for key, entry in layers.sections["sources"].items()}
    offers = [
        _offer(key, entry, layers, today, problems)
        for key, entry in layers.sections["offers"].items()
        if _offer_refers(key, entry, models, sources, problems)
    ]
    aliases = [
        Alias(name, entry.fields["model"])
        for name, entry in layers.sections["aliases"].items()
        if _alias_refers(name, entry, models, problems)
    ]
    if problems:
        raise CatalogInvalid(problems)
    return Contents(
        tuple(models.values()), tuple(sources.values()), tuple(offers), tuple(aliases), _policy(_billing(layers))
    )


def _billing(layers: Layers) -> entries.BillingEntry:
    """With its defaults. What the documents gave has been read already: read again it would be scaled twice."""
    return entries.BillingEntry.model_construct(**layers.billing)


def _policy(billing: entries.BillingEntry) -> BillingPolicy:
    return BillingPolicy(
        markup_bps=billing.markup_bps,
        replay_bps=billing.replay_bps,
        flat_rates=_rates(billing.flat, {}),
        byok_fee_bps=billing.byok_fee_bps,
        byok_fee_per_call_pico_usd=billing.byok_fee_per_call,
    )


def _model(key: str, entry: Layered, problems: list[str]) -> Model:
    given = entry.fields
    context_tokens = given.get("context_tokens")
    if context_tokens is None:
        problems.append(f"{entry.place()}: a new model needs context_tokens")
        context_tokens = 1
    max_output_tokens = given.get("max_output_tokens") or context_tokens
    if max_output_tokens > context_tokens:
        problems.append(
            f"{entry.place('max_output_tokens')}: an answer can't be longer than the context of {context_tokens}"
        )
    released = given.get("released")
    return Model(
        id=key,
        display_name=given.get("name") or key,
        owned_by=given.get("owned_by") or OPERATOR,
        context_tokens=context_tokens,
        max_output_tokens=max_output_tokens,
        capabilities=Capabilities(**dict.fromkeys(given.get("capabilities", ()), True)),
        released_at_s=0 if released is None else int(dt.datetime.combine(released, dt.time(), dt.UTC).timestamp()),
    )


def _source(key: str, entry: Layered) -> Source:
    whole = entries.SourceEntry(**entry.fields)
    return Source(
        id=key,
        display_name=whole.name or key,
        base_url=whole.base_url,
        wire_format=WireFormat[whole.wire_format.upper()],
        api_key_env=whole.api_key_env,
        cancel_stops_billing=whole.cancel_stops_billing,
        region=whole.region,
        cached_tokens=CachedTokenAccounting[whole.cached_tokens.upper()],
    )


def _offer_refers(
    key: str, entry: Layered, models: Mapping[str, Model], sources: Mapping[str, Source], problems: list[str]
) -> bool:
    source_id, slash, model_id = key.partition("/")
    if not slash or not model_id:
        problems.append(f"{entry.place()}: an offer is named SOURCE/MODEL")
        return False
    found = True
    if source_id not in sources:
        known = ", ".join(sorted(sources)) or "none"
        problems.append(
            f"{entry.place()}: there is no source {source_id!r}; add it under `sources`, or use one of: {known}"
        )
        found = False
    if model_id not in models:
        problems.append(f"{entry.place()}: there is no model {model_id!r}; add it under `models`")
        found = False
    return found


def _alias_refers(name: str, entry: Layered, models: Mapping[str, Model], problems: list[str]) -> bool:
    target = entry.fields.get("model")
    if name in models:
        problems.append(f"{entry.place()}: hides the model of that name; choose another alias, or remove the model")
        return False
    if target not in models:
        problems.append(f"{entry.place()}: stands for {target!r}, which is no model; an alias can't stand for an alias")
        return False
    return True


def _offer(key: str, entry: Layered, layers: Layers, today: dt.date, problems: list[str]) -> Offer:
    source_id, _, model_id = key.partition("/")
    given = entry.fields
    price = _price(key, entry, layers, today, problems)
    return Offer(
        model_id=model_id,
        source_id=source_id,
        upstream_model=given.get("upstream_model") or model_id,
        price=price,
        byok_price=_byok_price(key, price, _billing(layers)),
        context_tokens=given.get("context_tokens") or 0,
        max_output_tokens=given.get("max_output_tokens") or 0,
    )


def _price(key: str, entry: Layered, layers: Layers, today: dt.date, problems: list[str]) -> PriceSnapshot | None:
    billing = _billing(layers)
    price: entries.PriceEntry | None = entry.fields.get("price")
    if entry.fields.get("free"):
        return PriceSnapshot(key, BillingTier.FREE, (), replay_bps=billing.replay_bps, price_source=OPERATOR)
    if price is None:
        return None
    stamp = layers.price_lists.get(price.list or "")
    if price.list and stamp is None:
        known = ", ".join(sorted(layers.price_lists)) or "none"
        problems.append(f"{entry.place('price', 'list')}: there is no price list {price.list!r}; known are: {known}")
    in_force: entries.TieredEntry = price
    for later in price.later:
        if later.starts <= today:
            in_force = later
    price_date = price.date or (stamp.date if stamp else None)
    return PriceSnapshot(
        offer_id=key,
        tier=BillingTier.PASSTHROUGH,
        rate_tiers=_rate_tiers(in_force),
        markup_bps=billing.markup_bps,
        replay_bps=billing.replay_bps,
        price_source=":".join(part for part in (price.list or OPERATOR, price.listed_as) if part),
        price_version=price.version or (stamp.version if stamp else ""),
        price_date=price_date.isoformat() if price_date else "",
    )


def _byok_price(key: str, price: PriceSnapshot | None, billing: entries.BillingEntry) -> PriceSnapshot | None:
    """The fee where an organisation's own key is used. A model that the operator marked free has none."""
    if price is None and billing.byok_fee_bps:
        return None
    free = price is not None and price.tier is BillingTier.FREE
    per_call = 0 if free else billing.byok_fee_per_call
    if price is None or free or not billing.byok_fee_bps:
        tiers: tuple[RateTier, ...] = (RateTier(0, Rates(call_pico_usd=per_call)),)
        return PriceSnapshot(key, BillingTier.BYOK, tiers, replay_bps=billing.replay_bps, price_source=OPERATOR)
    tiers = tuple(
        RateTier(tier.above_input_tokens, _share(tier.rates, billing.byok_fee_bps, per_call))
        for tier in price.rate_tiers
    )
    return replace(price, tier=BillingTier.BYOK, rate_tiers=tiers, markup_bps=0)


def _share(rates: Rates, bps: int, per_call: int) -> Rates:
    """A share of each rate, rounded up to the pico, and so much more for a call."""
    shares = {field.name: -(-getattr(rates, field.name) * bps // BASIS_POINTS) for field in fields(Rates)}
    return Rates(**shares | {"call_pico_usd": shares["call_pico_usd"] + per_call})


def _rate_tiers(entry: entries.TieredEntry) -> tuple[RateTier, ...]:
    units = {"image_pico_usd": entry.per_image, "second_pico_usd": entry.per_second, "call_pico_usd": entry.per_call}
    first = RateTier(0, _rates(entry, units))
    return (first, *(RateTier(tier.above, _rates(tier, units)) for tier in entry.tiers))


def _rates(entry: entries.RatesEntry, units: Mapping[str, int]) -> Rates:
    def or_else(rate: int | None, kin: int) -> int:
        return kin if rate is None else rate

    values: dict[str, Any] = {
        "input_pico_usd": entry.input,
        "cached_input_pico_usd": or_else(entry.cached_input, entry.input),
        "cache_write_pico_usd": or_else(entry.cache_write, entry.input),
        "output_pico_usd": entry.output,
        "reasoning_pico_usd": or_else(entry.reasoning, entry.output),
    }
    return Rates(**values, **units)
