"""Money without floats: nano-USD amounts, pico-USD unit prices, and the one function that turns usage into a charge.

Amounts are ``int`` nano-USD (10^-9 USD). Unit prices are ``int`` pico-USD (10^-12 USD) per token, image, second or
call. A charge multiplies, adds over all usage classes and rounds once, up, to the nano.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import pairwise

NANO_PER_USD = 10**9
PICO_PER_NANO = 1_000
BASIS_POINTS = 10_000

_DECIMAL_USD = re.compile(r"(-?)([0-9]{1,10})(?:\.([0-9]{1,9}))?")


class Provenance(Enum):
    """Where a usage number came from. Zero is not missing."""

    PROVIDER = 1
    ESTIMATED = 2
    NONE = 3


class BillingTier(Enum):
    """How a request is billed."""

    FLAT = 1
    PASSTHROUGH = 2
    BYOK = 3
    FREE = 4


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used, in disjoint classes: no token is counted in two of them.

    Raises:
        ValueError: a class is negative.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    seconds: int = 0
    calls: int = 0
    provenance: Provenance = Provenance.NONE

    def __post_init__(self) -> None:
        # On the path of every request: one comparison, and which it is only when one is wrong.
        if (
            min(
                self.input_tokens,
                self.cached_input_tokens,
                self.cache_write_tokens,
                self.output_tokens,
                self.reasoning_tokens,
                self.images,
                self.seconds,
                self.calls,
            )
            < 0
        ):
            name = next(name for name in USAGE_CLASSES if getattr(self, name) < 0)
            raise ValueError(f"usage.{name} is negative: {getattr(self, name)}")

    @property
    def prompt_tokens(self) -> int:
        """All prompt tokens; what a rate tier's threshold is compared with."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens


USAGE_CLASSES = tuple(f.name for f in fields(Usage) if f.name != "provenance")


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-USD per unit of each usage class. 1 USD per million tokens is 1,000,000.

    Raises:
        ValueError: a rate is negative.
    """

    input_pico_usd: int = 0
    cached_input_pico_usd: int = 0
    cache_write_pico_usd: int = 0
    output_pico_usd: int = 0
    reasoning_pico_usd: int = 0
    image_pico_usd: int = 0
    second_pico_usd: int = 0
    call_pico_usd: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 0:
                raise ValueError(f"rates.{f.name} is negative: {getattr(self, f.name)}")


@dataclass(frozen=True, slots=True)
class RateTier:
    """Rates for a whole request whose prompt tokens are above ``above_input_tokens``; the first tier has 0."""

    above_input_tokens: int
    rates: Rates


_NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """The prices as they stood when a request was admitted. With a Usage, all that is needed to compute the charge.

    ``rate_tiers`` ascend by threshold and begin at 0; only ``BillingTier.FREE`` may have none.

    Raises:
        ValueError: the tiers are out of order, missing, or do not begin at 0; a basis-point field is out of range.
    """

    offer_id: str
    tier: BillingTier
    rate_tiers: tuple[RateTier, ...]
    markup_bps: int = 0
    replay_bps: int = 2_500
    price_source: str = ""
    price_version: str = ""
    price_date: str = ""
    catalog_revision: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        thresholds = [tier.above_input_tokens for tier in self.rate_tiers]
        if not thresholds and self.tier is not BillingTier.FREE:
            raise ValueError(f"price of {self.offer_id} has no rates and is not free")
        if thresholds and (thresholds[0] != 0 or any(a >= b for a, b in pairwise(thresholds))):
            raise ValueError(f"rate tiers of {self.offer_id} must begin at 0 and ascend: {thresholds}")
        if self.markup_bps < 0:
            raise ValueError(f"markup_bps of {self.offer_id} is negative")
        if not 0 <= self.replay_bps <= BASIS_POINTS:
            raise ValueError(f"replay_bps of {self.offer_id} is not within 0..{BASIS_POINTS}")

    def rates_for(self, prompt_tokens: int) -> Rates:
        """The rates of the highest tier that ``prompt_tokens`` is above."""
        chosen = _NO_RATES
        for tier in self.rate_tiers:
            if tier.above_input_tokens == 0 or prompt_tokens > tier.above_input_tokens:
                chosen = tier.rates
        return chosen


def charge_nano_usd(price: PriceSnapshot, usage: Usage, *, replay: bool = False) -> int:
    """What ``usage`` costs at ``price``, in nano-USD: exact, rounded once, up.

    A replay costs ``replay_bps`` of the fresh price.
    """
    if price.tier is BillingTier.FREE:
        return 0
    rates = price.rates_for(usage.prompt_tokens)
    pico = (
        usage.input_tokens * rates.input_pico_usd
        + usage.cached_input_tokens * rates.cached_input_pico_usd
        + usage.cache_write_tokens * rates.cache_write_pico_usd
        + usage.output_tokens * rates.output_pico_usd
        + usage.reasoning_tokens * rates.reasoning_pico_usd
        + usage.images * rates.image_pico_usd
        + usage.seconds * rates.second_pico_usd
        + usage.calls * rates.call_pico_usd
    )
    return _rounded(pico, price, replay=replay)


def _rounded(pico_usd: int, price: PriceSnapshot, *, replay: bool) -> int:
    """With the markup, up to the next nano."""
    numerator = pico_usd * (BASIS_POINTS + price.markup_bps)
    denominator = PICO_PER_NANO * BASIS_POINTS
    if replay:
        numerator *= price.replay_bps
        denominator *= BASIS_POINTS
    return -(-numerator // denominator)


def worst_case_nano_usd(price: PriceSnapshot, *, prompt_tokens: int, answer_tokens: int) -> int:
    """The most that a fresh call with these bounds can cost, in nano-USD, whatever the usage classes turn out to be.

    Every rate tier that a prompt of up to ``prompt_tokens`` can reach is tried: a lower tier may be the dearer one.
    """
    if price.tier is BillingTier.FREE:
        return 0
    worst_pico = 0
    for tier in price.rate_tiers:
        if tier.above_input_tokens and prompt_tokens <= tier.above_input_tokens:
            continue
        rates = tier.rates
        dearest_input = max(rates.input_pico_usd, rates.cached_input_pico_usd, rates.cache_write_pico_usd)
        dearest_output = max(rates.output_pico_usd, rates.reasoning_pico_usd)
        pico = prompt_tokens * dearest_input + answer_tokens * dearest_output + rates.call_pico_usd
        worst_pico = max(worst_pico, pico)
    return _rounded(worst_pico, price, replay=False)


def format_usd(nano_usd: int) -> str:
    """A decimal string without exponent or trailing zeros: 1_500_000_000 -> "1.5", 420 -> "0.00000042", 0 -> "0"."""
    sign = "-" if nano_usd < 0 else ""
    whole, nano = divmod(abs(nano_usd), NANO_PER_USD)
    fraction = f"{nano:09d}".rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def parse_usd(text: str) -> int:
    """Nano-USD of a decimal string such as "20", "0.000000001" or "-1.5".

    Raises:
        ValueError: not a plain decimal, more than 9 decimals, or more than 10 digits before the point.
    """
    match = _DECIMAL_USD.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an amount in USD with at most 9 decimals: {text!r}")
    sign, whole, fraction = match.groups()
    nano = int(whole) * NANO_PER_USD + int((fraction or "").ljust(9, "0"))
    return -nano if sign else nano
