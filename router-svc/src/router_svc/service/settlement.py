"""The ledger's commands, tried again while the ledger is away, so that no hold is left to chance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import structlog

from meshkit.clock import Clock
from router_svc.domain.answer import Attempt
from router_svc.domain.errors import HoldUnknown, LedgerRefused, LedgerUnavailable
from router_svc.service.keeper import HoldKeeper
from router_svc.service.ports import Charge, CompletionCall, Hold, Ledger, SettleFacts

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_RESERVE_PATIENCE_S = 1.0

_log = structlog.get_logger(__name__)
T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Settlement:
    """Reserve, keep, settle and release for one router. ``hold_ttl_ms``: how long a hold lasts that nobody keeps.
    ``patience_s``: how long settle and release are tried again.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, *, hold_ttl_ms: int, patience_s: float, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._hold_ttl_ms = hold_ttl_ms
        self._keeper = HoldKeeper(ledger, clock, hold_ttl_ms=hold_ttl_ms, sleep=sleep)
        self._patience_s = patience_s
        self._sleep = sleep

    async def reserve(self, call: CompletionCall, amount_nano_usd: int, amount_tokens: int) -> Hold:
        """Hold the worst case of a call.

        Raises:
            HoldClosed: the request has had its hold.
            LedgerRefused: key, model or balance do not allow it.
            LedgerUnavailable: no answer; what may have been held is released.
        """
        try:
            return await self._persist(
                lambda: self._ledger.reserve(
                    call.principal,
                    call.request_id,
                    amount_nano_usd=amount_nano_usd,
                    amount_tokens=amount_tokens,
                    ttl_ms=self._hold_ttl_ms,
                    model=call.model,
                ),
                min(_RESERVE_PATIENCE_S, self._patience_s),
            )
        except LedgerUnavailable:
            await self._try_release(call, "the answer of the ledger was lost", (), patience_s=_RESERVE_PATIENCE_S)
            raise

    def kept(self, call: CompletionCall) -> AbstractContextManager[None]:
        """Inside, the hold of the call is extended before it lapses."""
        return self._keeper.kept(call)

    async def aclose(self) -> None:
        """Keeps no hold any more."""
        await self._keeper.aclose()

    async def settle(self, call: CompletionCall, facts: SettleFacts, attempts: Sequence[Attempt]) -> Charge:
        """Charge for what was used; durable when this returns.

        Raises:
            LedgerRefused: the hold is not one that can be settled.
            LedgerUnavailable: not settled in time; the hold ends by itself, uncharged.
        """
        org_id = call.principal.org_id
        return await self._persist(
            lambda: self._ledger.settle(org_id, call.request_id, facts, attempts), self._patience_s
        )

    async def release(self, call: CompletionCall, reason: str, attempts: Sequence[Attempt]) -> bool:
        """Give the hold back. True: it is, and nothing will be charged under this request id. Never raises: where the
        ledger stays away, the hold ends by itself.
        """
        return await self._try_release(call, reason, attempts, patience_s=self._patience_s)

    async def _try_release(
        self, call: CompletionCall, reason: str, attempts: Sequence[Attempt], *, patience_s: float
    ) -> bool:
        org_id = call.principal.org_id
        try:
            await self._persist(
                lambda: self._ledger.release(org_id, call.request_id, reason=reason, attempts=attempts), patience_s
            )
        except HoldUnknown:
            return False
        except (LedgerRefused, LedgerUnavailable) as error:
            _log.error("hold_not_released", request_id=call.request_id, key_id=call.principal.key_id, error=str(error))
            return False
        return True

    async def _persist(self, command: Callable[[], Awaitable[T]], patience_s: float) -> T:
        give_up_at = self._clock.monotonic_s() + patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await command()
            except LedgerUnavailable:
                if self._clock.monotonic_s() + pause_s > give_up_at:
                    raise
            await self._sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
