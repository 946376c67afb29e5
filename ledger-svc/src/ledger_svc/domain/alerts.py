"""Soft alerts: a cap of which half, most or all is spent. Each threshold is told once in a period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ledger_svc.domain.caps import Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.webhooks import CAP_THRESHOLD_REACHED, Event, event
from meshkit.ids import id_of
from meshkit.money import format_usd

THRESHOLDS_PERCENT = (50, 80, 100)

AlertName = tuple[str, CapPeriod, CapUnit, int, int]
"""(scope id, period, unit, start of the period, percent): there is one alert of it, whatever the cap was then."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Spending reached a threshold of a cap. ``cap_limit`` and ``spent`` in nano-USD or tokens, as they were then;
    ``name``: of the key, project or organisation, then.
    """

    scope_id: str
    period: CapPeriod
    unit: CapUnit
    starts_at_ms: int
    threshold_percent: int
    alert_id: str
    org_id: str
    scope: CapScope
    name: str
    cap_limit: int
    spent: int
    ends_at_ms: int
    created_at_ms: int

    @property
    def alert_name(self) -> AlertName:
        """What there is one of."""
        return self.scope_id, self.period, self.unit, self.starts_at_ms, self.threshold_percent

    def event(self) -> Event:
        """What endpoints are told."""
        data = {
            "alert_id": self.alert_id,
            "organization_id": self.org_id,
            "scope": self.scope.value,
            "scope_id": self.scope_id,
            "name": self.name,
            "period": self.period.value,
            "unit": self.unit.value,
            "threshold_percent": self.threshold_percent,
            **self._amounts(),
            "resets_at": self.ends_at_ms // 1_000,
        }
        return event(
            id_of("evt", self.alert_id),
            self.org_id,
            CAP_THRESHOLD_REACHED,
            self.created_at_ms,
            data,
            key_id=self.scope_id if self.scope is CapScope.KEY else "",
        )

    def _amounts(self) -> dict[str, Any]:
        if self.unit is CapUnit.USD:
            return {"cap_usd": format_usd(self.cap_limit), "spent_usd": format_usd(self.spent)}
        return {"cap_tokens": self.cap_limit, "spent_tokens": self.spent}


def crossed(cap: Cap, bucket: Bucket) -> list[int]:
    """The thresholds that spending has reached. What open holds reserve is not spent. A cap of 0 has none: nothing can
    be spent under it.
    """
    if not cap.is_set or not cap.limit:
        return []
    return [percent for percent in THRESHOLDS_PERCENT if bucket.spent * 100 >= cap.limit * percent]


def alert(cap: Cap, bucket: Bucket, threshold_percent: int, *, name: str, now_ms: int) -> Alert:
    """The alert of a threshold. Its id follows from what it is about, so it is the same however often it is made."""
    parts = (bucket.scope_id, bucket.period.value, bucket.unit.value, str(bucket.starts_at_ms), str(threshold_percent))
    return Alert(
        scope_id=bucket.scope_id,
        period=bucket.period,
        unit=bucket.unit,
        starts_at_ms=bucket.starts_at_ms,
        threshold_percent=threshold_percent,
        alert_id=id_of("alr", *parts),
        org_id=cap.org_id,
        scope=cap.scope,
        name=name,
        cap_limit=cap.limit,
        spent=bucket.spent,
        ends_at_ms=bucket.ends_at_ms,
        created_at_ms=now_ms,
    )
