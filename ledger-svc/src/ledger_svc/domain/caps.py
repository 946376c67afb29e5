"""Caps: the most that a key, a project or an organisation may spend in a day or a month, in dollars or in tokens.

What counts for a cap is kept in a bucket for each period: spent, and reserved by open holds. A hold belongs to the
periods of the moment at which it was made and never to a later one. Once something has had a cap its buckets are kept,
also while the cap is cleared, so that a cap that is set again counts what was spent meanwhile.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from enum import StrEnum

from ledger_svc.domain.errors import BudgetExceeded
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.trail import State
from ledger_svc.domain.values import value
from meshkit.money import format_usd

UNLIMITED = -1
"""The limit of a cap that was cleared."""
MAX_LIMIT = 10**18
"""Of a cap, in its unit; so that sums fit int64."""


class CapScope(StrEnum):
    """Whose spending a cap bounds."""

    KEY = "key"
    PROJECT = "project"
    ORGANIZATION = "organization"


class CapPeriod(StrEnum):
    """How long a bucket lasts. Days and months are those of UTC."""

    DAY = "day"
    MONTH = "month"


class CapUnit(StrEnum):
    """What is counted: nano-USD charged, or tokens that a source processed (a replay uses none)."""

    USD = "usd"
    TOKENS = "tokens"


@value(frozen=True, slots=True)
class Cap:
    """One cap as it stands. ``limit`` in nano-USD or tokens, ``UNLIMITED`` once cleared; ``revision`` counts its
    changes from 1.
    """

    scope_id: str
    period: CapPeriod
    unit: CapUnit
    revision: int
    org_id: str
    scope: CapScope
    limit: int
    set_at_ms: int

    @property
    def is_set(self) -> bool:
        """Whether it bounds anything."""
        return self.limit != UNLIMITED

    def shown(self) -> State:
        """What the audit trail says of it; nothing, once cleared. Tokens are a text, as amounts are: there can be more
        of them than a JSON number keeps.
        """
        if not self.is_set:
            return {}
        about = {"scope": self.scope.value, "period": self.period.value, "unit": self.unit.value}
        return about | {f"limit_{self.unit.value}": _plain(self.unit, self.limit)}


BucketName = tuple[str, CapPeriod, CapUnit, int]
"""(scope id, period, unit, start of the period in Unix milliseconds)."""


@value(frozen=True, slots=True)
class Bucket:
    """What counts for a cap in one period, in its unit.

    ``bound``: spent and reserved together never pass it (dollars only: tokens that were used can't be unused). It is
    the limit, or what was there already when the limit was set below that.
    """

    scope_id: str
    period: CapPeriod
    unit: CapUnit
    starts_at_ms: int
    ends_at_ms: int
    org_id: str
    spent: int
    reserved: int
    bound: int

    @property
    def name(self) -> BucketName:
        """Names it."""
        return self.scope_id, self.period, self.unit, self.starts_at_ms

    @property
    def taken(self) -> int:
        """What is spent and reserved."""
        return self.spent + self.reserved

    def moved(self, *, spent: int = 0, reserved: int = 0) -> Bucket:
        """With more spent and reserved."""
        after = replace(self, spent=self.spent + spent, reserved=self.reserved + reserved)
        assert after.reserved >= 0, after
        return after

    def bounded_by(self, limit: int) -> Bucket:
        """Under another limit. What is taken already stays."""
        return replace(self, bound=MAX_LIMIT if limit == UNLIMITED else max(limit, self.taken))


def opening(cap: Cap, starts_at_ms: int, *, spent: int, reserved: int) -> Bucket:
    """The bucket of a cap as it begins, with what the books say of its period."""
    ends_at_ms = period_end_ms(cap.period, starts_at_ms)
    bucket = Bucket(cap.scope_id, cap.period, cap.unit, starts_at_ms, ends_at_ms, cap.org_id, spent, reserved, 0)
    return bucket.bounded_by(cap.limit)


def period_start_ms(period: CapPeriod, at_ms: int) -> int:
    """When the period of a moment began, in Unix milliseconds."""
    day = dt.datetime.fromtimestamp(at_ms // 1_000, dt.UTC).replace(hour=0, minute=0, second=0)
    return _ms(day if period is CapPeriod.DAY else day.replace(day=1))


def period_end_ms(period: CapPeriod, starts_at_ms: int) -> int:
    """When the next period begins."""
    start = dt.datetime.fromtimestamp(starts_at_ms // 1_000, dt.UTC)
    if period is CapPeriod.DAY:
        return _ms(start + dt.timedelta(days=1))
    return _ms((start + dt.timedelta(days=32)).replace(day=1))


def held_of(hold: Hold, unit: CapUnit) -> int:
    """What a hold reserves of a unit."""
    return hold.amount_nano_usd if unit is CapUnit.USD else hold.amount_tokens


def scopes_of(key_id: str, project_id: str, org_id: str) -> tuple[str, str, str]:
    """Whose caps a request meets, the narrowest first. Ids carry their kind, so none is two of them."""
    return key_id, project_id, org_id


def room_for(cap: Cap, bucket: Bucket, admitted: int) -> int:
    """How much more a bucket takes from a hold that was closed just now and had ``admitted``: what was admitted is
    charged also where the cap was lowered meanwhile.
    """
    limit = min(bucket.bound, max(cap.limit, bucket.taken + admitted)) if cap.is_set else bucket.bound
    return max(0, limit - bucket.taken)


def admit(cap: Cap, bucket: Bucket, amount: int) -> None:
    """Raises:
    BudgetExceeded: the amount would take the bucket past the cap. What costs nothing passes any.
    """
    if not cap.is_set or not amount or bucket.taken + amount <= cap.limit:
        return
    ends_at = dt.datetime.fromtimestamp(bucket.ends_at_ms // 1_000, dt.UTC)
    limit, spent, held, needed = (
        _shown(cap.unit, number) for number in (cap.limit, bucket.spent, bucket.reserved, amount)
    )
    resets_at = ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    word = "daily" if cap.period is CapPeriod.DAY else "monthly"
    raise BudgetExceeded(
        f"the {word} cap of the {cap.scope.value} {cap.scope_id} does not cover this request: cap {limit}, "
        f"spent {spent}, held {held}, needed {needed}; it resets at {resets_at}",
        scope=cap.scope.value,
        scope_id=cap.scope_id,
        period=cap.period.value,
        unit=cap.unit.value,
        limit=_plain(cap.unit, cap.limit),
        spent=_plain(cap.unit, bucket.spent),
        held=_plain(cap.unit, bucket.reserved),
        needed=_plain(cap.unit, amount),
        resets_at=resets_at,
    )


def _plain(unit: CapUnit, number: int) -> str:
    return format_usd(number) if unit is CapUnit.USD else str(number)


def _shown(unit: CapUnit, number: int) -> str:
    return f"${format_usd(number)}" if unit is CapUnit.USD else f"{number} tokens"


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1_000
