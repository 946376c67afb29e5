"""What the catalog is made of: models, sources, offers with prices, aliases, and the immutable revisions of them.

A revision is named by its content. Nothing here reads a file or knows a wire format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from meshkit.money import PriceSnapshot, Rates

DIGEST_HEX_DIGITS = 16


class CatalogInvalid(Exception):
    """The catalog can't be built from what it was given. ``problems`` name, one each, where and what to do."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class RevisionNotFound(Exception):
    """This catalog never had, or no longer keeps, the revision."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"no catalog revision {revision!r} is kept here")
        self.metadata: Mapping[str, str] = {"param": "revision"}


class StoreUnavailable(Exception):
    """A revision could not be written or read back."""


class WireFormat(Enum):
    """What a source speaks. The values are those of the contract."""

    OPENAI = 1
    ANTHROPIC = 2
    GEMINI = 3


class CachedTokenAccounting(Enum):
    """Whether a source counts prompt tokens read from its cache inside the prompt's total or beside it."""

    INSIDE_PROMPT = 1
    BESIDE_PROMPT = 2


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can take and do, at every source that offers it."""

    tools: bool = False
    vision: bool = False
    json_object: bool = False
    json_schema: bool = False
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model, apart from who serves it. ``released_at_s``: Unix time, 0 where nobody says."""

    id: str
    display_name: str
    owned_by: str
    context_tokens: int
    max_output_tokens: int
    capabilities: Capabilities = Capabilities()
    released_at_s: int = 0
    policy_epoch: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Someone who serves models over HTTP. No ``base_url``: not reachable yet; no ``api_key_env``: no key needed."""

    id: str
    display_name: str
    base_url: str = ""
    wire_format: WireFormat = WireFormat.OPENAI
    api_key_env: str = ""
    cancel_stops_billing: bool = False
    region: str = ""
    cached_tokens: CachedTokenAccounting = CachedTokenAccounting.INSIDE_PROMPT


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at a source. ``price`` is None where it is unknown; limits are 0 where they are the model's.

    ``byok_price``: the operator's fee where an organisation's own key is used; None where it would be a share of a
    price that is unknown.
    """

    model_id: str
    source_id: str
    upstream_model: str
    price: PriceSnapshot | None = None
    context_tokens: int = 0
    max_output_tokens: int = 0
    byok_price: PriceSnapshot | None = None

    @property
    def id(self) -> str:
        """``SOURCE/MODEL``."""
        return f"{self.source_id}/{self.model_id}"


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for a model."""

    name: str
    model_id: str


FLAT_RATES = Rates(
    input_pico_usd=3_000_000,
    cached_input_pico_usd=3_000_000,
    cache_write_pico_usd=3_000_000,
    output_pico_usd=12_000_000,
    reasoning_pico_usd=12_000_000,
)
"""$3 and $12 per million tokens."""


@dataclass(frozen=True, slots=True)
class BillingPolicy:
    """What the operator charges, see catalog.proto."""

    markup_bps: int = 0
    replay_bps: int = 2_500
    flat_rates: Rates = FLAT_RATES
    byok_fee_bps: int = 0
    byok_fee_per_call_pico_usd: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """A whole catalog before it is named: what a revision is made from."""

    models: tuple[Model, ...] = ()
    sources: tuple[Source, ...] = ()
    offers: tuple[Offer, ...] = ()
    aliases: tuple[Alias, ...] = ()
    billing: BillingPolicy = BillingPolicy()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision. Lists are sorted by id; each model has its policy epoch, each price its revision."""

    revision: str
    created_at_ms: int
    models: tuple[Model, ...]
    sources: tuple[Source, ...]
    offers: tuple[Offer, ...]
    aliases: tuple[Alias, ...] = field(default=())
    billing: BillingPolicy = BillingPolicy()


def make_snapshot(contents: Contents, *, created_at_ms: int) -> Snapshot:
    """Sorts, checks, stamps the policy epochs and names the result.

    Raises:
        CatalogInvalid: an id is taken twice, or something refers to what is not there.
    """
    problems = list(_broken_references(contents))
    if problems:
        raise CatalogInvalid(problems)
    sources = tuple(sorted(contents.sources, key=lambda source: source.id))
    offers = tuple(sorted((_unstamped(offer) for offer in contents.offers), key=lambda offer: offer.id))
    by_source = {source.id: source for source in sources}
    by_model: dict[str, list[Offer]] = {model.id: [] for model in contents.models}
    for offer in offers:
        by_model[offer.model_id].append(offer)
    models = tuple(
        replace(model, policy_epoch=policy_epoch(model, by_model[model.id], by_source))
        for model in sorted(contents.models, key=lambda model: model.id)
    )
    aliases = tuple(sorted(contents.aliases, key=lambda alias: alias.name))
    parts = (models, sources, offers, aliases, (contents.billing,))
    revision = digest([[_plain(item) for item in part] for part in parts])
    return Snapshot(
        revision=revision,
        created_at_ms=created_at_ms,
        models=models,
        sources=sources,
        offers=tuple(_stamped(offer, revision) for offer in offers),
        aliases=aliases,
        billing=contents.billing,
    )


def policy_epoch(model: Model, offers: Iterable[Offer], sources: Mapping[str, Source]) -> str:
    """A digest over all that can alter an answer of ``model`` or its price, and over nothing else.

    In: capabilities and limits, and for each offer its upstream name, limits, rates, markup, replay share and fee for
    own keys, and where and how its source is spoken to. Out: names, release dates, and which data set the same rates
    were read from.
    """
    return digest(
        {
            "capabilities": _plain(model.capabilities),
            "limits": [model.context_tokens, model.max_output_tokens],
            "offers": sorted(
                (_offer_facts(offer, sources[offer.source_id]) for offer in offers), key=lambda o: str(o["id"])
            ),
        }
    )


def digest(value: Any) -> str:
    """The first 16 hex digits of a SHA-256 over ``value`` (dicts, lists, strings, ints, booleans) as sorted JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_HEX_DIGITS]


def _offer_facts(offer: Offer, source: Source) -> dict[str, Any]:
    return {
        "id": offer.id,
        "upstream_model": offer.upstream_model,
        "limits": [offer.context_tokens, offer.max_output_tokens],
        "base_url": source.base_url,
        "wire_format": source.wire_format.value,
        "cached_tokens": source.cached_tokens.value,
        "price": _price_facts(offer.price),
        "byok_price": _price_facts(offer.byok_price),
    }


def _price_facts(price: PriceSnapshot | None) -> Any:
    if price is None:
        return None
    return [price.tier.value, [_plain(tier) for tier in price.rate_tiers], price.markup_bps, price.replay_bps]


def _broken_references(contents: Contents) -> Iterable[str]:
    model_ids = {model.id for model in contents.models}
    source_ids = {source.id for source in contents.sources}
    for kind, ids in (
        ("model", [model.id for model in contents.models]),
        ("source", [source.id for source in contents.sources]),
        ("offer", [offer.id for offer in contents.offers]),
        ("alias", [alias.name for alias in contents.aliases]),
    ):
        yield from (f"{kind} {name!r} is there twice" for name in sorted({i for i in ids if ids.count(i) > 1}))
    for offer in contents.offers:
        if offer.model_id not in model_ids:
            yield f"offer {offer.id!r} is of a model that is not there: {offer.model_id!r}"
        if offer.source_id not in source_ids:
            yield f"offer {offer.id!r} is at a source that is not there: {offer.source_id!r}"
    for alias in contents.aliases:
        if alias.model_id not in model_ids:
            yield f"alias {alias.name!r} stands for a model that is not there: {alias.model_id!r}"
        if alias.name in model_ids:
            yield f"alias {alias.name!r} hides the model of that name"


def _stamped(offer: Offer, revision: str) -> Offer:
    def stamped(price: PriceSnapshot | None) -> PriceSnapshot | None:
        return None if price is None else replace(price, catalog_revision=revision)

    return replace(offer, price=stamped(offer.price), byok_price=stamped(offer.byok_price))


def _unstamped(offer: Offer) -> Offer:
    return _stamped(offer, "")


def _plain(value: Any) -> Any:
    """A dataclass as dicts, lists and scalars; an enum as its value."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
