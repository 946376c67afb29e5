"""Sums of what an organisation was charged: by day and tier for a bill, by offer to compare with other prices."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import check_range
from meshkit.money import BillingTier, Usage

DAY_MS = 24 * 3600 * 1000
MAX_DAYS = 366
MAX_THRESHOLDS = 64


@dataclass(frozen=True, slots=True)
class SumsWanted:
    """What to add up: receipts of an organisation from a moment to another (exclusive), in Unix milliseconds.

    ``by_day``: each day (UTC) apart. ``by_offer``: each model at each source apart, and prompts apart that lie on
    different sides of one of ``prompt_thresholds``; only what was charged.
    """

    org_id: str
    from_ms: int
    to_ms: int
    by_day: bool = False
    by_offer: bool = False
    prompt_thresholds: tuple[int, ...] = ()

    def checked(self) -> SumsWanted:
        """Raises:
        InvalidRequest: a period that is empty or too long, or thresholds that do not ascend.
        """
        check_range("from_ms", self.from_ms, 0, self.to_ms)
        if self.to_ms - self.from_ms > MAX_DAYS * DAY_MS:
            raise InvalidRequest("from_ms", f"the period has more than {MAX_DAYS} days")
        thresholds = self.prompt_thresholds
        check_range("prompt_thresholds (entries)", len(thresholds), 0, MAX_THRESHOLDS)
        if list(thresholds) != sorted(set(thresholds)) or any(threshold < 1 for threshold in thresholds):
            raise InvalidRequest("prompt_thresholds", "must ascend from 1")
        return self


@dataclass(frozen=True, slots=True)
class ChargeSum:
    """One sum. ``alias``: the name that was asked for, where the price was flat. ``day_ms``: when its day begins.
    ``prompt_above``: the greatest threshold that its prompts are above, 0: none. Amounts in nano-USD.
    """

    tier: BillingTier
    alias: str
    is_replay: bool
    requests: int
    charged_nano_usd: int
    saved_nano_usd: int
    usage: Usage = field(default_factory=Usage)
    day_ms: int = 0
    model: str = ""
    source_id: str = ""
    prompt_above: int = 0
