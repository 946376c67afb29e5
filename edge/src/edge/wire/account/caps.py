"""The JSON of spend caps: the same for a key, a project and the organisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, model_validator

from edge.wire.account.base import Answer, Body, ShownUsd, Usd
from meshkit.money import format_usd, parse_usd
from tallygate.ledger.v1 import ledger_pb2

SCOPES = {
    "key": ledger_pb2.CAP_SCOPE_KEY,
    "project": ledger_pb2.CAP_SCOPE_PROJECT,
    "organization": ledger_pb2.CAP_SCOPE_ORGANIZATION,
}
_PERIODS = {
    "monthly_spend_cap_usd": ledger_pb2.CAP_PERIOD_MONTH,
    "daily_spend_cap_usd": ledger_pb2.CAP_PERIOD_DAY,
}


class SpendCapChange(Body):
    """Caps to set. One that is left out stays as it is."""

    monthly_spend_cap_usd: Usd | None = Field(
        default=None,
        description='The most in a month of UTC; null: no cap. "0" is a cap, under which nothing is spent.',
    )
    daily_spend_cap_usd: Usd | None = Field(default=None, description="The most in a day of UTC; null: no cap.")
    clear: Literal[True] | None = Field(default=None, description="Take away both caps; send nothing beside it.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> SpendCapChange:
        amounts = self.model_fields_set - {"clear"}
        if self.clear and amounts:
            raise ValueError("send either `clear` or amounts, not both")
        if not self.clear and not amounts:
            raise ValueError('send `monthly_spend_cap_usd`, `daily_spend_cap_usd` or {"clear": true}')
        return self

    def limits(self) -> Iterator[tuple[ledger_pb2.CapPeriod.ValueType, int | None]]:
        """The caps to set, in nano-USD; None: to take away."""
        for name, period in _PERIODS.items():
            amount: str | None = getattr(self, name)
            if self.clear or name in self.model_fields_set:
                yield period, None if amount is None else parse_usd(amount)


class PeriodCap(Answer):
    """A cap, and what counts for it now."""

    cap_usd: ShownUsd
    spent_usd: ShownUsd
    held_usd: ShownUsd = Field(description="By requests under way: what they may cost at most.")
    remaining_usd: ShownUsd = Field(description="What a new request may cost at most; never below 0.")
    resets_at: int = Field(description="The next period begins then, Unix time in seconds.")

    @classmethod
    def of(cls, cap: ledger_pb2.Cap) -> PeriodCap:
        """As the ledger has it."""
        return cls(
            cap_usd=format_usd(cap.limit),
            spent_usd=format_usd(cap.spent),
            held_usd=format_usd(cap.held),
            remaining_usd=format_usd(max(0, cap.limit - cap.spent - cap.held)),
            resets_at=cap.resets_at_ms // 1_000,
        )


class SpendCap(Answer):
    """What one may spend."""

    object: Literal["spend_cap"] = "spend_cap"
    scope: Literal["key", "project", "organization"]
    scope_id: str
    monthly: PeriodCap | None = Field(description="null: no cap.")
    daily: PeriodCap | None = Field(description="null: no cap.")

    @classmethod
    def of(
        cls, scope: Literal["key", "project", "organization"], scope_id: str, caps: Iterable[ledger_pb2.Cap]
    ) -> SpendCap:
        """Of the caps of one, those in dollars."""
        found = {cap.period: PeriodCap.of(cap) for cap in caps if cap.unit == ledger_pb2.CAP_UNIT_NANO_USD}
        return cls(
            scope=scope,
            scope_id=scope_id,
            monthly=found.get(ledger_pb2.CAP_PERIOD_MONTH),
            daily=found.get(ledger_pb2.CAP_PERIOD_DAY),
        )
