"""Caps in their simplest form: what counts for one is added up each time from all that was ever held and charged.

Only the bound of a period can't be: it is the limit as it stood when something last looked at the period.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ledger_model_operations import PROJECT_OF, Operation, Scope

DAY_MS = 86_400_000
CLEARED, UNBOUNDED = -1, 10**18

Bucket = tuple[Scope, str, str, int]
"""(whose, period, unit, when the period began)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """``charged``, ``from_promo``, ``saved`` and ``absorbed`` in nano-USD, ``tokens`` as counted by caps."""

    content: Operation
    held: int
    charged: int
    from_promo: int
    saved: int
    absorbed: int
    tokens: int


@dataclass(slots=True)
class Hold:
    """``number`` counts holds in the order in which they were made."""

    content: Operation
    number: int
    key: int
    amount: int
    tokens: int
    promo: int
    paid: int
    made_ms: int
    expires_ms: int
    state: str = "open"
    given_back: bool = False
    receipt: Receipt | None = None

    def spent(self, unit: str) -> int:
        """What it was charged, or used."""
        if self.receipt is None:
            return 0
        return self.receipt.charged if unit == "usd" else self.receipt.tokens

    def held(self, unit: str) -> int:
        """What it keeps until it is closed, or asks for before it is made."""
        return self.amount if unit == "usd" else self.tokens


def scopes_of(key: int) -> list[Scope]:
    """Whose caps a request of a key meets, the narrowest first."""
    return [("key", key), ("project", PROJECT_OF[key]), ("organization", 0)]


def period_began_ms(period: str, at_ms: int) -> int:
    """When, in UTC."""
    day_ms = at_ms // DAY_MS * DAY_MS
    if period == "day":
        return day_ms
    return day_ms - (dt.datetime.fromtimestamp(day_ms / 1_000, dt.UTC).day - 1) * DAY_MS


@dataclass(slots=True)
class Caps:
    """Those of one organisation, over its ``holds`` by request."""

    holds: dict[str, Hold]
    limits: dict[tuple[Scope, str, str], int] = field(default_factory=dict)
    revisions: dict[tuple[Scope, str, str], int] = field(default_factory=dict)
    bounds: dict[Bucket, int] = field(default_factory=dict)

    def counted(self, bucket: Bucket) -> tuple[int, int]:
        """Spent, and held."""
        scope, period, unit, began_ms = bucket
        of_it = [
            hold
            for hold in self.holds.values()
            if scope in scopes_of(hold.key) and period_began_ms(period, hold.made_ms) == began_ms
        ]
        return (
            sum(hold.spent(unit) for hold in of_it),
            sum(hold.held(unit) for hold in of_it if hold.state == "open"),
        )

    def met(self, scopes: Iterable[Scope], at_ms: int) -> Iterator[tuple[Bucket, int]]:
        """The buckets of a moment for which there is, or was, a cap, with its limit."""
        for scope in scopes:
            for (whose, period, unit), limit in sorted(self.limits.items()):
                if whose == scope:
                    yield (scope, period, unit, period_began_ms(period, at_ms)), limit

    def look(self, scopes: Iterable[Scope], at_ms: int) -> None:
        """The first look at a bucket bounds it."""
        for bucket, limit in self.met(scopes, at_ms):
            if bucket not in self.bounds:
                self._bound(bucket, limit)

    def refusal(self, hold: Hold) -> tuple[str, tuple[str, ...]] | None:
        """Why a new hold, or a charge, is not admitted."""
        for (scope, period, unit, began_ms), limit in self.met(scopes_of(hold.key), hold.made_ms):
            spent, held = self.counted((scope, period, unit, began_ms))
            needed = hold.held(unit)
            if limit == CLEARED:
                continue
            if unit == "tokens" and hold.state == "open" and not needed:
                return "InvalidRequest", ()
            if needed and spent + held + needed > limit:
                return "BudgetExceeded", (scope[0], period, unit, *_shown(unit, limit, spent, held, needed))
        return None

    def admit(self, hold: Hold) -> None:
        """Before the hold is one of all: each bucket that it meets is bounded by the limit as it is."""
        for bucket, limit in self.met(scopes_of(hold.key), hold.made_ms):
            self._bound(bucket, limit)

    def room(self, hold: Hold, admitted: int) -> int:
        """How much a hold that is closed, and had so much admitted until just now, may be charged."""
        rooms = [UNBOUNDED]
        for bucket, limit in self.met(scopes_of(hold.key), hold.made_ms):
            taken = sum(self.counted(bucket))
            now = UNBOUNDED if limit == CLEARED else max(limit, taken + admitted)
            if bucket[2] == "usd":
                rooms.append(max(0, min(now, self.bounds[bucket]) - taken))
        return min(rooms)

    def set(self, cap: tuple[Scope, str, str], limit: int, now_ms: int) -> int:
        """Gives the revision. Another limit bounds the period that runs, and no earlier one."""
        if self.limits.get(cap) != limit:
            known = cap in self.limits
            self.limits[cap] = limit
            self.revisions[cap] = self.revisions.get(cap, 0) + 1
            if known:
                self._bound((*cap, period_began_ms(cap[1], now_ms)), limit)
        return self.revisions[cap]

    def _bound(self, bucket: Bucket, limit: int) -> None:
        self.bounds[bucket] = UNBOUNDED if limit == CLEARED else max(limit, sum(self.counted(bucket)))


def _shown(unit: str, *numbers: int) -> list[str]:
    """Whole and decimal fraction, without zeros at its end."""
    if unit == "tokens":
        return [str(number) for number in numbers]
    return [f"{number // 10**9}.{number % 10**9:09}".rstrip("0").rstrip(".") for number in numbers]
