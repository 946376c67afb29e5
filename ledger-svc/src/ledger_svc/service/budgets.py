"""Caps: set, cleared, listed."""

from __future__ import annotations

from collections.abc import Sequence

from ledger_svc.domain.capping import CapLimit, SetCaps
from ledger_svc.domain.caps import MAX_LIMIT, UNLIMITED, Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.errors import InvalidRequest, NotFound
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.service.ports import Directory, Ledger, Records
from meshkit.clock import Clock
from meshkit.principal import OPERATOR, Actor

MAX_LIMITS = len(CapPeriod) * len(CapUnit)
"""Different caps that one thing can have."""


class BudgetService:
    """What keys, projects and organisations may spend in a period."""

    def __init__(self, *, ledger: Ledger, records: Records, directory: Directory, clock: Clock) -> None:
        self._ledger = ledger
        self._records = records
        self._directory = directory
        self._clock = clock

    async def set_caps(
        self, org_id: str, scope: CapScope, scope_id: str, limits: Sequence[CapLimit], *, actor: Actor = OPERATOR
    ) -> list[tuple[Cap, Bucket]]:
        """Sets caps of one key, project or organisation, from the next hold on: all of them or none, in one
        transaction. Gives each with what counts for it now: what was spent in the period before counts, too.

        Raises:
            NotFound: the organisation has no such project or key.
            InvalidRequest: also where one cap is given twice.
        """
        check_range("limits (entries)", len(limits), 1, MAX_LIMITS)
        for wanted in limits:
            check_range("limit", wanted.limit, UNLIMITED, MAX_LIMIT)
        if len({(wanted.period, wanted.unit) for wanted in limits}) < len(limits):
            raise InvalidRequest("limits", "has the same cap twice")
        check_text("org_id", org_id)
        # Neither keys nor projects are ever moved or deleted, so this need not be asked in the transaction.
        await self._require(org_id, scope, scope_id)
        now_ms = self._clock.now_ms()
        caps = await self._ledger.execute(
            SetCaps(org_id=org_id, scope=scope, scope_id=scope_id, limits=tuple(limits), now_ms=now_ms, actor=actor)
        )
        return [(cap, await self._records.bucket(cap, now_ms)) for cap in caps]

    async def set_cap(
        self,
        org_id: str,
        scope: CapScope,
        scope_id: str,
        *,
        period: CapPeriod,
        unit: CapUnit,
        limit: int,
        actor: Actor = OPERATOR,
    ) -> tuple[Cap, Bucket]:
        """Sets one; see ``set_caps``."""
        (found,) = await self.set_caps(org_id, scope, scope_id, [CapLimit(period, unit, limit)], actor=actor)
        return found

    async def caps(self, org_id: str, *, scope: CapScope | None = None, scope_id: str = "") -> list[tuple[Cap, Bucket]]:
        """Every cap that is set in an organisation, or of one key, project or organisation, with what counts for it in
        the period that runs.

        Raises:
            NotFound: the organisation has no such project or key.
        """
        check_text("org_id", org_id)
        if scope is not None:
            await self._require(org_id, scope, scope_id)
        found = await self._records.caps(org_id, self._clock.now_ms(), scope_id=scope_id if scope else "")
        return [(cap, bucket) for cap, bucket in found if cap.is_set]

    async def _require(self, org_id: str, scope: CapScope, scope_id: str) -> None:
        if not await self._directory.has_scope(org_id, scope, check_text("scope_id", scope_id)):
            raise NotFound(f"no {scope.value} {scope_id} in organisation {org_id}")
