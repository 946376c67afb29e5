"""The catalog's facts as the router needs them: models, sources, offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from meshkit.money import PriceSnapshot


class WireFormat(Enum):
    """What a source speaks. ``UNKNOWN``: a format that is newer than this build."""

    UNKNOWN = 0
    OPENAI = 1
    ANTHROPIC = 2
    GEMINI = 3


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can take and do."""

    tools: bool = False
    vision: bool = False
    json_object: bool = False
    json_schema: bool = False
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model, apart from who serves it. A limit of 0 is unknown."""

    model_id: str
    context_tokens: int
    max_output_tokens: int
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Source:
    """Someone who serves models over HTTP.

    ``base_url`` empty: not reachable yet. ``api_key_env`` empty: needs no key. ``cancel_stops_billing``: closing the
    connection ends what the source bills. ``cached_beside_prompt``: cached prompt tokens are counted beside the
    prompt's total, not inside it. ``region``: where it is, "cn", "us", "eu"; empty: not known.
    """

    source_id: str
    base_url: str
    wire_format: WireFormat = WireFormat.OPENAI
    api_key_env: str = ""
    cancel_stops_billing: bool = False
    cached_beside_prompt: bool = False
    region: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at a source. ``price`` None: unknown; ``byok_price``: likewise, where an organisation's own key is used.
    A limit of 0 is the model's.
    """

    offer_id: str
    model_id: str
    source_id: str
    upstream_model: str
    price: PriceSnapshot | None
    context_tokens: int = 0
    max_output_tokens: int = 0
    byok_price: PriceSnapshot | None = None


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """One revision of the catalog, indexed. Immutable."""

    revision: str
    models: Mapping[str, Model]
    sources: Mapping[str, Source]
    offers: Mapping[str, tuple[Offer, ...]] = field(repr=False)
    """By model id."""
