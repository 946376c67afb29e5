"""Caps: set, cleared, listed."""

from __future__ import annotations

from ledger_svc.domain.capping import SetCap
from ledger_svc.domain.caps import MAX_LIMIT, UNLIMITED, Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.service.ports import Directory, Ledger, Records
from meshkit.clock import Clock
from meshkit.principal import OPERATOR, Actor


class BudgetService:
    """What keys, projects and organisations may spend in a period."""

    def __init__(self, *, ledger: Ledger, records: Records, directory: Directory, clock: Clock) -> None:
        self._ledger = ledger
        self._records = records
        self._directory = directory
        self._clock = clock

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
        """Sets a cap in nano-USD or tokens, from the next hold on; ``UNLIMITED`` clears it. Gives it with what
        counts for it now: what was spent in the period before counts, too.

        Raises:
            NotFound: the organisation has no such project or key.
            InvalidRequest.
        """
        check_range("limit", limit, UNLIMITED, MAX_LIMIT)
        check_text("org_id", org_id)
        # Neither keys nor projects are ever moved or deleted, so this need not be asked in the transaction.
        await self._require(org_id, scope, scope_id)
        now_ms = self._clock.now_ms()
        cap = await self._ledger.execute(
            SetCap(
                org_id=org_id,
                scope=scope,
                scope_id=scope_id,
                period=period,
                unit=unit,
                limit=limit,
                now_ms=now_ms,
                actor=actor,
            )
        )
        return cap, await self._records.bucket(cap, now_ms)

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
