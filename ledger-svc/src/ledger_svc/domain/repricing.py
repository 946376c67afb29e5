"""A new revision of the catalog: which prices are in force now that were not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ledger_svc.domain.limits import MAX_TIME_MS, check_price, check_range, check_text
from ledger_svc.domain.trail import State
from meshkit.money import PriceSnapshot, Rates

REVISED = "catalog.revised"
"""The action that the trail is told."""
MAX_LISTED = 50
"""Offers that are named, of each sort; the others are counted."""

_RATE_NAMES = tuple(field.name for field in fields(Rates))
_ORIGIN = ("price_source", "price_version", "price_date")


@dataclass(frozen=True, slots=True)
class PriceChange:
    """An offer whose price is another. None: it was, or is, not known."""

    offer_id: str
    before: PriceSnapshot | None
    after: PriceSnapshot | None


@dataclass(frozen=True, slots=True)
class OfferList:
    """Offers of one sort: the first by id, and how many there are."""

    ids: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Repricing:
    """What changed from one revision of the catalog to another. ``previous_revision`` "": none was told before.
    ``unknown``: the previous one is kept nowhere, so what changed can't be said.
    """

    revision: str
    previous_revision: str
    price_changes: tuple[PriceChange, ...]
    price_change_count: int
    added: OfferList
    removed: OfferList
    unknown: bool = False

    def before(self) -> State:
        """What the trail says of the revision before."""
        if not self.previous_revision:
            return {}
        prices = [_priced(change.offer_id, change.before) for change in self.price_changes]
        return {"revision": self.previous_revision, "prices": prices}

    def after(self) -> State:
        """What the trail says of the revision in force."""
        return {
            "revision": self.revision,
            "prices": [_priced(change.offer_id, change.after) for change in self.price_changes],
            "price_change_count": self.price_change_count,
            "added_offers": list(self.added.ids),
            "added_offer_count": self.added.count,
            "removed_offers": list(self.removed.ids),
            "removed_offer_count": self.removed.count,
            "changes_known": not self.unknown,
        }


def check_repricing(repricing: Repricing) -> Repricing:
    """Bounds every number and text.

    Raises:
        InvalidRequest.
    """
    check_text("revision", repricing.revision)
    check_text("previous_revision", repricing.previous_revision, empty=True)
    _check_count("price_change", repricing.price_changes, repricing.price_change_count)
    for change in repricing.price_changes:
        check_text("price_changes.offer_id", change.offer_id)
        for price in (change.before, change.after):
            if price is not None:
                check_price("price_changes.price", price)
    for name, offers in (("added_offer", repricing.added), ("removed_offer", repricing.removed)):
        _check_count(name, offers.ids, offers.count)
        for offer_id in offers.ids:
            check_text(f"{name}_ids", offer_id)
    return repricing


def _check_count(name: str, listed: Sequence[Any], count: int) -> None:
    check_range(f"{name}s (entries)", len(listed), 0, MAX_LISTED)
    check_range(f"{name}_count", count, len(listed), MAX_TIME_MS)


def _priced(offer_id: str, price: PriceSnapshot | None) -> State:
    return {"offer_id": offer_id, "price": None if price is None else _shown(price)}


def _shown(price: PriceSnapshot) -> State:
    """As a receipt shows it, without the rates that are 0."""
    return {
        "tier": price.tier.name.lower(),
        "markup_bps": price.markup_bps,
        "replay_bps": price.replay_bps,
        **{name: getattr(price, name) for name in _ORIGIN},
        "rate_tiers": [
            {
                "above_input_tokens": tier.above_input_tokens,
                **{name: str(rate) for name in _RATE_NAMES if (rate := getattr(tier.rates, name))},
            }
            for tier in price.rate_tiers
        ],
    }
