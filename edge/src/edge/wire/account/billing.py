"""The JSON of balances, credit, usage, plans and hints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge.wire.account.base import Answer, ShownUsd
from meshkit.money import format_usd
from tallygate.ledger.v1 import billing_pb2, ledger_pb2

Percent = str
"""A decimal string, such as "2.5"."""


def percent(basis_points: int) -> Percent:
    """250 is "2.5"."""
    whole, part = divmod(basis_points, 100)
    return f"{whole}.{part:02d}".rstrip("0").rstrip(".")


class Balance(Answer):
    """What the organisation has."""

    object: Literal["balance"] = "balance"
    balance_usd: ShownUsd = Field(description="Credit less charges.")
    held_usd: ShownUsd = Field(description="Held for requests under way.")
    available_usd: ShownUsd = Field(description="What a new request may take: the balance less what is held.")
    paid_usd: ShownUsd = Field(description="What of the balance was paid for.")
    promotional_usd: ShownUsd = Field(description="What of the balance was given. It is spent first.")
    open_holds: int = Field(description="Requests under way.")

    @classmethod
    def of(cls, funds: billing_pb2.GetFundsResponse) -> Balance:
        """As the ledger has it."""
        balance = funds.balance
        return cls(
            balance_usd=format_usd(balance.posted_nano_usd),
            held_usd=format_usd(balance.held_nano_usd),
            available_usd=format_usd(balance.available_nano_usd),
            paid_usd=format_usd(funds.paid_nano_usd),
            promotional_usd=format_usd(funds.promotional_nano_usd),
            open_holds=balance.open_holds,
        )


class Credit(Answer):
    """One credit, of which something is left."""

    id: str
    object: Literal["credit"] = "credit"
    kind: Literal["paid", "promotional"]
    priority: int = Field(description="Among credit of its kind the lowest is spent first.")
    granted_usd: ShownUsd
    remaining_usd: ShownUsd
    created_at: int = Field(description="Unix time in seconds.")
    expires_at: int | None = Field(description="What is left then is taken back. Null: never.")

    @classmethod
    def of(cls, lot: ledger_pb2.CreditLot) -> Credit:
        """As the ledger has it."""
        return cls(
            id=lot.lot_id,
            kind="promotional" if lot.kind == ledger_pb2.CREDIT_KIND_PROMOTIONAL else "paid",
            priority=lot.priority,
            granted_usd=format_usd(lot.granted_nano_usd),
            remaining_usd=format_usd(lot.remaining_nano_usd),
            created_at=lot.created_at_ms // 1_000,
            expires_at=lot.expires_at_ms // 1_000 if lot.expires_at_ms else None,
        )


class Spent(Answer):
    """What requests cost."""

    requests: int
    cost_usd: ShownUsd = Field(description="Charged.")
    saved_usd: ShownUsd = Field(description="What replays saved against fresh calls.")


class DayUsage(Spent):
    """A day."""

    date: str = Field(description="In UTC.", examples=["2026-11-24"])
    by_tier: dict[str, ShownUsd] = Field(description="What was charged, by tier.")


class BillingUsage(Answer):
    """What was charged in the last days."""

    object: Literal["billing_usage"] = "billing_usage"
    days: int
    total_usd: ShownUsd
    saved_usd: ShownUsd
    requests: int
    by_tier: dict[str, Spent] = Field(description="fast, balanced, auto, passthrough, byok; free, where it was used.")
    by_day: list[DayUsage] = Field(description="The days on which something was used, oldest first.")


class SmartTier(Answer):
    """The smart aliases: a flat price, whichever model answers."""

    models: list[str] = Field(description="Those that this installation offers.")
    input_usd_per_million: ShownUsd
    output_usd_per_million: ShownUsd


class PassthroughTier(Answer):
    """A model by its own name: the source's price and a markup."""

    markup_pct: Percent


class ByokTier(Answer):
    """The organisation's own key at a source: a fee."""

    fee_pct: Percent = Field(description="Of the source's price.")
    fee_usd_per_call: ShownUsd


class Tiers(Answer):
    """What each tier costs."""

    smart: SmartTier
    passthrough: PassthroughTier
    byok: ByokTier


class SpendCaps(Answer):
    """What the organisation may spend; null: no cap."""

    monthly_spend_cap_usd: ShownUsd | None
    daily_spend_cap_usd: ShownUsd | None


class Payments(Answer):
    """How credit is paid for."""

    provider: str | None = Field(description="Null: the operator adds credit.")
    minimum_usd: ShownUsd
    maximum_usd: ShownUsd


class Plan(Answer):
    """What things cost here, and the organisation's limits."""

    object: Literal["billing_plan"] = "billing_plan"
    currency: Literal["usd"] = "usd"
    tiers: Tiers
    replay_pct: Percent = Field(description="What a replay costs of the fresh price.")
    limits: SpendCaps
    payments: Payments
    catalog_revision: str


class Alternative(Answer):
    """What the same usage would have cost."""

    plan: str = Field(description="passthrough, or a smart alias.", examples=["passthrough"])
    would_cost_usd: ShownUsd
    savings_usd: ShownUsd = Field(description="Against what it did cost; negative: it would have cost more.")


class Hint(Answer):
    """The best of the alternatives."""

    recommend_plan: str
    savings_pct: Percent
    savings_usd: ShownUsd
    would_cost_usd: ShownUsd


class UpgradeHint(Answer):
    """Whether another tier would have cost less."""

    object: Literal["upgrade_hint"] = "upgrade_hint"
    hint: Hint | None
    reason: Literal["too_little_usage", "no_other_plan", "already_best"] | None = Field(
        description="Why there is no hint."
    )
    days: int
    requests: int = Field(description="Those that were compared: at a flat price or at a source's.")
    current_usd: ShownUsd = Field(description="What they did cost.")
    alternatives: list[Alternative]
