"""What a revision of the catalog changed: the prices that requests are admitted at from then on."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.money import PriceSnapshot
from router_svc.domain.catalog import CatalogSnapshot


@dataclass(frozen=True, slots=True)
class PriceChange:
    """An offer whose price is another. None: it was, or is, not known."""

    offer_id: str
    before: PriceSnapshot | None
    after: PriceSnapshot | None


@dataclass(frozen=True, slots=True)
class Repricing:
    """What changed from ``previous_revision`` ("": there was none) to ``revision``; all by offer id. Not ``known``: the
    previous revision is not kept any more.
    """

    revision: str
    previous_revision: str
    price_changes: tuple[PriceChange, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    known: bool = True


def repricing(before: CatalogSnapshot | None, now: CatalogSnapshot) -> Repricing:
    """What changed; without a ``before`` everything is new."""
    old, new = _prices(before), _prices(now)
    changes = [
        PriceChange(offer_id, old[offer_id], new[offer_id])
        for offer_id in sorted(old.keys() & new.keys())
        if _terms(old[offer_id]) != _terms(new[offer_id])
    ]
    return Repricing(
        revision=now.revision,
        previous_revision=before.revision if before else "",
        price_changes=tuple(changes),
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
    )


def _prices(snapshot: CatalogSnapshot | None) -> dict[str, PriceSnapshot | None]:
    if snapshot is None:
        return {}
    return {offer.offer_id: offer.price for offers in snapshot.offers.values() for offer in offers}


def _terms(price: PriceSnapshot | None) -> object:
    """What a charge is computed from, and not which data set it was read from."""
    return price and (price.tier, price.rate_tiers, price.markup_bps, price.replay_bps)
