"""Reading receipts."""

from __future__ import annotations

from ledger_svc.domain.limits import check_text
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.paging import check_page_size, page_of, position_of_token
from ledger_svc.service.ports import LoggedReceipt, ReceiptLog, Records


class ReceiptService:
    """Receipts by id and by page."""

    def __init__(self, records: Records, log: ReceiptLog) -> None:
        self._records = records
        self._log = log

    async def get(self, org_id: str, receipt_id: str) -> LoggedReceipt:
        """One receipt, as signed; ``org_id`` "": of any organisation.

        Raises:
            NotFound: also where it is another organisation's.
        """
        check_text("org_id", org_id, empty=True)
        return await self._log.receipt(org_id, check_text("receipt_id", receipt_id))

    async def corrected_nano_usd(self, receipt_id: str) -> int:
        """What was given back of a receipt's charge."""
        return await self._records.corrected_nano_usd(receipt_id)

    async def page(self, org_id: str, *, page_size: int, page_token: str) -> tuple[list[Receipt], str]:
        """Receipts of an organisation, newest first, and the token of the next page ("": there is none)."""
        check_text("org_id", org_id)
        size = check_page_size(page_size)
        found = await self._records.receipts(org_id, limit=size + 1, before=position_of_token(page_token))
        return page_of(found, size, lambda receipt: (receipt.created_at_ms, receipt.receipt_id))
