"""What may stand in a catalog document. A field is optional where an entry may change only a part of an earlier one.

Prices are USD per million tokens, which is pico-USD per token after a shift by six decimals: exact, or refused.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MAX_USD = 10**7
"""Of one price: no model costs that much, and its charges still fit 64 bits."""

_DECIMAL = re.compile(r"-?\d{1,20}(\.\d{1,20})?")
_MAX_TOKENS = 1_000_000_000
_BASE_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _scaled(value: Any, decimals: int, unit: str) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"must be a number: {unit}")  # noqa: TRY004 - what pydantic takes for a finding
    amount = Decimal(value)
    if amount < 0:
        raise ValueError(f"must not be negative ({unit}); for a model that costs nothing write `free: true`")
    if amount >= MAX_USD:
        raise ValueError(f"is above 10 million ({unit})")
    scaled = amount.scaleb(decimals)
    if scaled != int(scaled):
        raise ValueError(f"has more than {decimals} decimals ({unit}); round it")
    return int(scaled)


PerMillionTokens = Annotated[int, BeforeValidator(lambda value: _scaled(value, 6, "USD per million tokens"))]
"""Read as USD per million tokens, held as pico-USD per token."""

PerUnit = Annotated[int, BeforeValidator(lambda value: _scaled(value, 12, "USD per unit"))]
"""Read as USD per image, second or call, held as pico-USD."""

Tokens = Annotated[int, Field(strict=True, gt=0, le=_MAX_TOKENS)]
BasisPoints = Annotated[int, Field(strict=True, ge=0, le=100_000)]
Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200, pattern=r"^\S(.*\S)?$")]
Flag = Annotated[bool, Field(strict=True)]


def _base_url(value: Any) -> str:
    if not isinstance(value, str) or (value and not _BASE_URL.fullmatch(value)):
        raise ValueError(
            "must be an http:// or https:// address without query, or empty for a source that is not reachable"
        )
    return value.rstrip("/")


def _env_name(value: Any) -> str:
    if not isinstance(value, str) or (value and not _ENV_NAME.fullmatch(value)):
        raise ValueError(
            "must be the name of an environment variable, never the key itself; empty for a source without a key"
        )
    return value


class Entry(BaseModel):
    """Strict about names: a misspelt field is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """The fields that the document names, and only those."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class RemovableEntry(Entry):
    """An entry that ``remove: true`` takes away."""

    remove: Flag = False

    @model_validator(mode="after")
    def _removal_stands_alone(self) -> RemovableEntry:
        if "remove" in self.model_fields_set and len(self.model_fields_set) > 1:
            raise ValueError("`remove` stands alone; to change an entry leave it out")
        return self


class SourceEntry(RemovableEntry):
    """A source, or changes to one."""

    name: Name | None = None
    base_url: Annotated[str, BeforeValidator(_base_url)] = ""
    wire_format: Literal["openai", "anthropic", "gemini"] = "openai"
    api_key_env: Annotated[str, BeforeValidator(_env_name)] = ""
    cancel_stops_billing: Flag = False
    region: Annotated[str, StringConstraints(strict=True, max_length=20)] = ""
    cached_tokens: Literal["inside_prompt", "beside_prompt"] = "inside_prompt"


class ModelEntry(RemovableEntry):
    """A model, or changes to one. ``facts``: where its facts come from, for readers of the document."""

    name: Name | None = None
    owned_by: Name | None = None
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    capabilities: tuple[Literal["tools", "vision", "json_object", "json_schema", "reasoning"], ...] = ()
    released: dt.date | None = None
    facts: str | None = None


class RatesEntry(Entry):
    """Rates of one tier. Left out, cached and written input cost what input does, and reasoning what output does."""

    input: PerMillionTokens
    output: PerMillionTokens
    cached_input: PerMillionTokens | None = None
    cache_write: PerMillionTokens | None = None
    reasoning: PerMillionTokens | None = None


class TierEntry(RatesEntry):
    """Rates for the whole request once its prompt is above that many tokens."""

    above: Tokens


class TieredEntry(RatesEntry):
    """Rates, and those of long prompts."""

    tiers: tuple[TierEntry, ...] = ()
    per_image: PerUnit = 0
    per_second: PerUnit = 0
    per_call: PerUnit = 0

    @model_validator(mode="after")
    def _tiers_ascend(self) -> TieredEntry:
        thresholds = [tier.above for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("`tiers` must ascend by `above`, each once")
        return self


class LaterEntry(TieredEntry):
    """Rates that are in force from a day on (UTC)."""

    starts: dt.date


class PriceEntry(TieredEntry):
    """A price. ``list`` names one of ``price_lists``; without it the price is the operator's own."""

    list: Name | None = None
    listed_as: Name | None = None
    version: Name | None = None
    date: dt.date | None = None
    later: tuple[LaterEntry, ...] = ()

    @model_validator(mode="after")
    def _later_ascends(self) -> PriceEntry:
        days = [entry.starts for entry in self.later]
        if days != sorted(set(days)):
            raise ValueError("`later` must ascend by `starts`, each day once")
        return self


class OfferEntry(RemovableEntry):
    """An offer, or changes to one. A price replaces the earlier price whole; ``price: null`` makes it unknown."""

    upstream_model: Name | None = None
    price: PriceEntry | None = None
    free: Flag = False
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _free_or_priced(self) -> OfferEntry:
        if self.free and self.price is not None:
            raise ValueError("`free: true` and a price exclude each other")
        return self


class AliasEntry(RemovableEntry):
    """What an alias stands for; in a document simply ``NAME: MODEL``."""

    model: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class BillingEntry(Entry):
    """What the operator adds to a source's price, and what a replay costs of it; basis points.

    ``byok_fee_bps`` and ``byok_fee_per_call``: what is charged where an organisation's own key is used: a share of the
    source's price, and so much for each call. ``flat``: what every smart alias costs.
    """

    markup_bps: BasisPoints = 0
    replay_bps: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 2_500
    byok_fee_bps: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 0
    byok_fee_per_call: PerUnit = 0
    flat: RatesEntry = RatesEntry(input=3, output=12)


class PriceListEntry(Entry):
    """A data set that prices were read from."""

    version: Name
    date: dt.date


class DocumentEntry(Entry):
    """One catalog document."""

    billing: BillingEntry = BillingEntry()
    price_lists: dict[Name, PriceListEntry] = {}
    sources: dict[Name, SourceEntry] = {}
    models: dict[Name, ModelEntry] = {}
    offers: dict[Name, OfferEntry] = {}
    aliases: dict[Name, AliasEntry] = {}
