"""What is given back of a charge. The receipt stays as it is; a correction is a transfer of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Correction:
    """One giving back, as credit. Amounts in nano-USD, >= 0."""

    transfer_id: str
    org_id: str
    receipt_id: str
    promo_nano_usd: int
    paid_nano_usd: int
    reason: str
    created_at_ms: int

    @property
    def amount_nano_usd(self) -> int:
        """What was given back."""
        return self.promo_nano_usd + self.paid_nano_usd


@dataclass(frozen=True, slots=True)
class SettledReceipt:
    """Which credit paid a receipt, and what was given back of it so far. In nano-USD."""

    receipt_id: str
    org_id: str
    promo_nano_usd: int
    paid_nano_usd: int
    corrections: tuple[Correction, ...] = ()

    @property
    def promo_left_nano_usd(self) -> int:
        """Of what promotional credit paid: not given back yet."""
        return self.promo_nano_usd - sum(correction.promo_nano_usd for correction in self.corrections)

    @property
    def paid_left_nano_usd(self) -> int:
        """Of what paid credit paid: not given back yet."""
        return self.paid_nano_usd - sum(correction.paid_nano_usd for correction in self.corrections)
