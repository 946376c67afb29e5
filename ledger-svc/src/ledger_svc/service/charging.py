"""Holds, settlements and charges: each checks what comes in and sends one command to the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from ledger_svc.domain.accounts import MAX_AMOUNT_NANO_USD
from ledger_svc.domain.charges import Attempt, ChargeFacts, ServedMode
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.holding import Extend, Release, Reserve
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.limits import (
    MAX_REASON_CHARS,
    MAX_TTL_MS,
    MAX_UNITS,
    check_attempts,
    check_facts,
    check_range,
    check_text,
)
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.settling import Charge, Settle
from ledger_svc.service.ports import Ledger
from meshkit.clock import Clock
from meshkit.ids import MakeId
from meshkit.principal import Principal


class ChargingService:
    """Where money is held and charged."""

    def __init__(self, *, ledger: Ledger, clock: Clock, make_id: MakeId) -> None:
        self._ledger = ledger
        self._clock = clock
        self._make_id = make_id

    async def reserve(
        self,
        principal: Principal,
        request_id: str,
        *,
        amount_nano_usd: int,
        ttl_ms: int,
        model: str,
        amount_tokens: int = 0,
    ) -> Hold:
        """Holds the worst case of a request, in money and, for caps that count them, in tokens.

        Raises:
            IdempotencyConflict, HoldClosed, InvalidApiKey, ApiKeyRevoked, ModelNotAllowed, InsufficientBalance,
            BudgetExceeded, InvalidRequest.
        """
        return await self._ledger.execute(
            Reserve(
                principal=_check_principal(principal),
                request_id=check_text("request_id", request_id),
                amount_nano_usd=check_range("amount_nano_usd", amount_nano_usd, 0, MAX_AMOUNT_NANO_USD),
                ttl_ms=check_range("ttl_ms", ttl_ms, 1, MAX_TTL_MS),
                model=check_text("model", model),
                hold_id=self._make_id("hold"),
                now_ms=self._clock.now_ms(),
                amount_tokens=check_range("amount_tokens", amount_tokens, 0, MAX_UNITS),
            )
        )

    async def extend(self, org_id: str, request_id: str, *, ttl_ms: int) -> Hold:
        """Moves the end of an open hold to ``ttl_ms`` from now; never nearer.

        Raises:
            NotFound, HoldClosed, InvalidRequest.
        """
        return await self._ledger.execute(
            Extend(
                org_id=check_text("org_id", org_id),
                request_id=check_text("request_id", request_id),
                ttl_ms=check_range("ttl_ms", ttl_ms, 1, MAX_TTL_MS),
                now_ms=self._clock.now_ms(),
            )
        )

    async def settle(self, org_id: str, request_id: str, *, facts: ChargeFacts, attempts: Sequence[Attempt]) -> Receipt:
        """Turns a hold into a charge.

        Raises:
            NotFound, IdempotencyConflict, HoldClosed, InvalidRequest.
        """
        return await self._ledger.execute(
            Settle(
                org_id=check_text("org_id", org_id),
                request_id=check_text("request_id", request_id),
                facts=check_facts(facts),
                attempts=check_attempts(attempts),
                receipt_id=self._make_id("rcpt"),
                transfer_id=self._make_id("xfer"),
                now_ms=self._clock.now_ms(),
            )
        )

    async def release(self, org_id: str, request_id: str, *, reason: str, attempts: Sequence[Attempt]) -> int:
        """Gives a hold back; answers what was held, in nano-USD.

        Raises:
            NotFound, HoldClosed, InvalidRequest.
        """
        return await self._ledger.execute(
            Release(
                org_id=check_text("org_id", org_id),
                request_id=check_text("request_id", request_id),
                reason=check_text("reason", reason, max_chars=MAX_REASON_CHARS, empty=True),
                attempts=check_attempts(attempts),
                now_ms=self._clock.now_ms(),
            )
        )

    async def charge(self, principal: Principal, request_id: str, *, facts: ChargeFacts) -> Receipt:
        """Charges for a replay.

        Raises:
            IdempotencyConflict, InvalidApiKey, ApiKeyRevoked, ModelNotAllowed, InsufficientBalance,
            BudgetExceeded, InvalidRequest.
        """
        if facts.served_mode is ServedMode.FRESH:
            raise InvalidRequest(
                "facts.served_mode", "a fresh answer is held for and settled; only a replay is charged"
            )
        return await self._ledger.execute(
            Charge(
                principal=_check_principal(principal),
                request_id=check_text("request_id", request_id),
                facts=check_facts(facts),
                hold_id=self._make_id("hold"),
                receipt_id=self._make_id("rcpt"),
                transfer_id=self._make_id("xfer"),
                now_ms=self._clock.now_ms(),
            )
        )


def _check_principal(principal: Principal) -> Principal:
    for name in ("org_id", "project_id", "key_id"):
        check_text(f"principal.{name}", getattr(principal, name))
    return principal
