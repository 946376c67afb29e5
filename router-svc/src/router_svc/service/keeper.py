"""The holds of calls under way are extended again and again, three times in their life. So it can be short: after a
crash of the router they end soon by themselves.

One task for all of them: most calls are over before their first turn, and a task for each cost more than its hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog

from meshkit.clock import Clock
from router_svc.domain.errors import LedgerRefused, LedgerUnavailable
from router_svc.service.ports import CompletionCall, Ledger

_TOGETHER_S = 0.1
"""What falls due within so long is extended at once."""

_log = structlog.get_logger(__name__)


class HoldKeeper:
    """Keeps the holds of one router. ``hold_ttl_ms``: how long a hold lasts that nobody keeps."""

    def __init__(
        self, ledger: Ledger, clock: Clock, *, hold_ttl_ms: int, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._hold_ttl_ms = hold_ttl_ms
        self._sleep = sleep
        self._due_s: dict[tuple[str, str], float] = {}
        """By organisation and request; in the order of when they fall due, as all wait equally long."""
        self._task: asyncio.Task[None] | None = None

    def kept(self, call: CompletionCall) -> _Kept:
        """A context manager: inside, the hold of the call is kept."""
        return _Kept(self, (call.principal.org_id, call.request_id))

    def keep(self, key: tuple[str, str]) -> None:
        """From now on."""
        self._put_off(key)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="keep the holds of calls under way")

    def let_go(self, key: tuple[str, str]) -> None:
        """No more: the hold has ended, or is to."""
        self._due_s.pop(key, None)

    async def aclose(self) -> None:
        """Keeps none any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _put_off(self, key: tuple[str, str]) -> None:
        self._due_s.pop(key, None)
        self._due_s[key] = self._clock.monotonic_s() + self._hold_ttl_ms / 3_000

    async def _run(self) -> None:
        while self._due_s:
            next_s = next(iter(self._due_s.values()))
            await self._sleep(max(0.0, next_s - self._clock.monotonic_s()))
            due = []
            for key, at_s in self._due_s.items():
                if at_s > next_s + _TOGETHER_S:
                    break
                due.append(key)
            for key in due:
                self._put_off(key)
            await asyncio.gather(*map(self._extend, due))

    async def _extend(self, key: tuple[str, str]) -> None:
        org_id, request_id = key
        try:
            await self._ledger.extend(org_id, request_id, ttl_ms=self._hold_ttl_ms)
        except LedgerUnavailable as error:
            _log.warning("hold_not_extended", request_id=request_id, error=str(error))
        except LedgerRefused as error:
            if self._due_s.pop(key, None) is None:
                return  # it was settled meanwhile
            # It has ended. The answer goes on: it is settled late, as far as balance and caps go then.
            _log.error("hold_lost", request_id=request_id, error=str(error))
        except Exception:  # noqa: BLE001 - one hold must not end the keeping of all others
            _log.exception("hold_not_extended", request_id=request_id)


class _Kept:
    __slots__ = ("_keeper", "_key")

    def __init__(self, keeper: HoldKeeper, key: tuple[str, str]) -> None:
        self._keeper = keeper
        self._key = key

    def __enter__(self) -> None:
        self._keeper.keep(self._key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._keeper.let_go(self._key)
