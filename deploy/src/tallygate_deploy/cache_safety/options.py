"""What a run of the bench is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshkit.money import parse_usd
from tallygate_deploy.cache_safety.reading import DataError

TIER_NAMES = ("exact", "canonical", "semantic")
"""The tiers of the cache service, in the order in which it asks them."""


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint to judge. ``base_url``: up to and with /v1. ``model``, ``other_model``: what takes the place of the
    bench's two models. ``other_api_key``: another tenant's. Without one of them, what needs it is not sent.
    ``headers``: sent with each request. ``at_once``: how many requests are under way.
    """

    base_url: str
    api_key: str = ""
    model: str = ""
    other_api_key: str = ""
    other_model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Options:
    """``data``: a file of items; None: those that come with the bench. ``tiers``: empty for all. ``limit``: at most so
    many items. ``cost_nano_usd``: of a fresh answer, where an item does not say. ``target``: what is judged in place of
    the tiers.
    """

    budget: float
    cost_nano_usd: int
    data: Path | None = None
    tiers: tuple[str, ...] = ()
    limit: int | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        """Raises:
        DataError: a tier that is none, tiers of an endpoint, or an endpoint without a model.
        """
        for tier in self.tiers:
            if tier not in TIER_NAMES:
                raise DataError(f"--tier is {tier!r}, not one of {', '.join(TIER_NAMES)}")
        if self.target and self.tiers:
            raise DataError("--tier is of the cache in this process, and --against judges another: give one of them")
        if self.target and not self.target.model and self.data is None:
            raise DataError("--against needs the name of a model at the endpoint: give it with --model")


def read_cost(text: str) -> int:
    """Nano-USD of what --cost-usd says.

    Raises:
        DataError: it is no amount, or below 0.
    """
    try:
        nano_usd = parse_usd(text)
    except ValueError as error:
        raise DataError(f"--cost-usd: {error}") from error
    if nano_usd < 0:
        raise DataError(f"--cost-usd is {text}: an answer costs nothing or more")
    return nano_usd


def read_headers(given: list[str] | None) -> dict[str, str]:
    """Headers of what --header says.

    Raises:
        DataError: one of them has no name, or no colon.
    """
    headers: dict[str, str] = {}
    for header in given or ():
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise DataError(f"--header is {header!r}, not NAME:VALUE")
        headers[name.strip()] = value.strip()
    return headers
