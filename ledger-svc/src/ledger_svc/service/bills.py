"""What a bill is made of: sums over receipts."""

from __future__ import annotations

from ledger_svc.domain.charge_sums import ChargeSum, SumsWanted
from ledger_svc.domain.limits import check_text
from ledger_svc.service.payment_ports import ChargeSums


class BillService:
    """Adds up what an organisation was charged."""

    def __init__(self, sums: ChargeSums) -> None:
        self._sums = sums

    async def sums(self, wanted: SumsWanted) -> list[ChargeSum]:
        """One sum of each kind that there is.

        Raises:
            InvalidRequest.
        """
        check_text("org_id", wanted.org_id)
        return await self._sums.sums(wanted.checked())
