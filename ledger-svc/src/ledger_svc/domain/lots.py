"""Credit lots: each credit is a lot of its own, spent in a fixed order, and one that was given may expire.

A hold takes from an account (see ``accounts``), not from a lot: which lots pay is decided when money moves. So a hold
that was made before a lot expired may still be paid from it, and what no hold needs expires on time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger_svc.domain.accounts import AccountKind
from ledger_svc.domain.values import value

DEFAULT_PRIORITY = 100
MAX_PRIORITY = 1_000


@value(frozen=True, slots=True)
class CreditLot:
    """One credit. ``kind``: the account that it is part of. ``priority``: a lower one is spent first. Times in Unix
    milliseconds; ``expires_at_ms`` 0: never.
    """

    lot_id: str
    org_id: str
    kind: AccountKind
    transfer_id: str
    priority: int
    granted_nano_usd: int
    remaining_nano_usd: int
    created_at_ms: int
    expires_at_ms: int

    def less(self, amount_nano_usd: int) -> CreditLot:
        """After so much was taken from it."""
        assert 0 <= amount_nano_usd <= self.remaining_nano_usd, self
        return CreditLot(
            self.lot_id,
            self.org_id,
            self.kind,
            self.transfer_id,
            self.priority,
            self.granted_nano_usd,
            self.remaining_nano_usd - amount_nano_usd,
            self.created_at_ms,
            self.expires_at_ms,
        )

    def is_over(self, now_ms: int) -> bool:
        """Whether its time has passed."""
        return 0 < self.expires_at_ms <= now_ms


def spending_order(lots: Iterable[CreditLot]) -> list[CreditLot]:
    """By priority, then what expires first, then the oldest."""
    return sorted(
        lots,
        key=lambda lot: (lot.priority, not lot.expires_at_ms, lot.expires_at_ms, lot.created_at_ms, lot.lot_id),
    )


def take(lots: Sequence[CreditLot], amount_nano_usd: int) -> list[CreditLot]:
    """Takes an amount from lots of one account, in order; gives those that changed. An account whose floor is below 0
    can spend more than its lots have: what they lack is owed by the next credit.
    """
    changed = []
    for lot in spending_order(lots) if len(lots) > 1 else lots:
        part = min(amount_nano_usd, lot.remaining_nano_usd)
        if part:
            changed.append(lot.less(part))
            amount_nano_usd -= part
    return changed
