"""Credit: added, paid out again, given back of a charge; balances and lots."""

from __future__ import annotations

from ledger_svc.domain.accounts import MAX_AMOUNT_NANO_USD, Balance, CreditKind
from ledger_svc.domain.corrections import Correction
from ledger_svc.domain.crediting import AddCredit
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.limits import MAX_REASON_CHARS, MAX_TIME_MS, check_range, check_text
from ledger_svc.domain.lots import DEFAULT_PRIORITY, MAX_PRIORITY, CreditLot
from ledger_svc.domain.refunding import Correct, Refund
from ledger_svc.service.ports import Ledger, Records
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import OPERATOR, Actor


class CreditService:
    """What an organisation has to spend."""

    def __init__(self, *, ledger: Ledger, records: Records, clock: Clock, make_id: MakeId) -> None:
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._make_id = make_id

    async def add(
        self,
        org_id: str,
        *,
        amount_nano_usd: int,
        idempotency_key: str,
        kind: CreditKind,
        priority: int = DEFAULT_PRIORITY,
        expires_at_ms: int = 0,
        actor: Actor = OPERATOR,
    ) -> Balance:
        """Adds credit once; answers the balance as it is now. ``priority`` 0..1,000: among credit of its kind the
        lowest is spent first. ``expires_at_ms``: of promotional credit only; 0: never.

        Raises:
            NotFound, IdempotencyConflict, InvalidRequest.
        """
        now_ms = self._clock.now_ms()
        if expires_at_ms:
            if kind is not CreditKind.PROMOTIONAL:
                raise InvalidRequest("expires_at_ms", "only promotional credit expires; what was paid for does not")
            check_range("expires_at_ms", expires_at_ms, 1, MAX_TIME_MS)
        await self._ledger.execute(
            AddCredit(
                org_id=check_text("org_id", org_id),
                amount_nano_usd=check_range("amount_nano_usd", amount_nano_usd, 1, MAX_AMOUNT_NANO_USD),
                idempotency_key=check_text("idempotency_key", idempotency_key),
                kind=kind,
                transfer_id=self._make_id("xfer"),
                now_ms=now_ms,
                priority=check_range("priority", priority, 0, MAX_PRIORITY),
                expires_at_ms=expires_at_ms,
                actor=actor,
            )
        )
        return await self._records.balance(org_id)

    async def refund(
        self, org_id: str, *, amount_nano_usd: int, reason: str, idempotency_key: str, actor: Actor = OPERATOR
    ) -> Balance:
        """Takes back paid credit that the operator pays out, once; answers the balance as it is now.

        Raises:
            NotFound, IdempotencyConflict, InsufficientBalance, InvalidRequest.
        """
        await self._ledger.execute(
            Refund(
                org_id=check_text("org_id", org_id),
                amount_nano_usd=check_range("amount_nano_usd", amount_nano_usd, 1, MAX_AMOUNT_NANO_USD),
                reason=check_text("reason", reason, max_chars=MAX_REASON_CHARS, empty=True),
                idempotency_key=check_text("idempotency_key", idempotency_key),
                transfer_id=self._make_id("xfer"),
                now_ms=self._clock.now_ms(),
                actor=actor,
            )
        )
        return await self._records.balance(org_id)

    async def correct(
        self,
        org_id: str,
        receipt_id: str,
        *,
        amount_nano_usd: int,
        reason: str,
        idempotency_key: str,
        actor: Actor = OPERATOR,
    ) -> tuple[Correction, Balance]:
        """Gives back some of a receipt's charge as credit, once; answers what was given and the balance as it is now.

        Raises:
            NotFound, IdempotencyConflict, InvalidRequest.
        """
        made = await self._ledger.execute(
            Correct(
                org_id=check_text("org_id", org_id),
                receipt_id=check_text("receipt_id", receipt_id),
                amount_nano_usd=check_range("amount_nano_usd", amount_nano_usd, 1, MAX_AMOUNT_NANO_USD),
                reason=check_text("reason", reason, max_chars=MAX_REASON_CHARS, empty=True),
                idempotency_key=check_text("idempotency_key", idempotency_key),
                transfer_id=self._make_id("xfer"),
                now_ms=self._clock.now_ms(),
                actor=actor,
            )
        )
        return made, await self._records.balance(org_id)

    async def balance(self, org_id: str) -> Balance:
        """What an organisation has.

        Raises:
            NotFound.
        """
        return await self._records.balance(check_text("org_id", org_id))

    async def lots(self, org_id: str) -> list[CreditLot]:
        """Credit that has something left, in the order in which it is spent."""
        return await self._records.lots(check_text("org_id", org_id))
