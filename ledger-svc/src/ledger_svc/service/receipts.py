"""Reading receipts."""

from __future__ import annotations

import base64
import binascii
import json

from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.ports import LoggedReceipt, ReceiptLog, Records

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000


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
        size = check_range("page_size", page_size, 0, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
        before = _decode_token(page_token) if page_token else None
        found = await self._records.receipts(org_id, limit=size + 1, before=before)
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], _encode_token(last.created_at_ms, last.receipt_id)


def _encode_token(created_at_ms: int, receipt_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at_ms, receipt_id]).encode()).decode()


def _decode_token(token: str) -> tuple[int, str]:
    try:
        created_at_ms, receipt_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise InvalidRequest("page_token", "is not one that this ledger gave") from None
    if type(created_at_ms) is not int or type(receipt_id) is not str:
        raise InvalidRequest("page_token", "is not one that this ledger gave")
    return created_at_ms, receipt_id
