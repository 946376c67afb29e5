"""Requests that ended in an error, on their way to the ledger: they are part of usage, and no charge tells of them.

There is no money in them. So they wait here, a bounded number, and where the ledger is away for long the oldest are
dropped, which the log says with their number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from edge.exchange import Exchange
from meshkit.clock import Clock
from meshkit.errors import MeshError
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import usage_pb2

NoteEnd = Callable[[Exchange, int], None]
"""Is told of an exchange that has ended, and of its milliseconds."""

_AT_ONCE = 500
_NOT_OURS = {"client_gone", "idempotent_answer_gone"}
"""Codes of what is no failure of the request: its client left it, or it was answered and charged before."""
_AWAY = {
    ErrorReason.ERROR_REASON_UNAVAILABLE,
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_INTERNAL,
}

_log = structlog.get_logger(__name__)


class FailureStore(Protocol):
    """Where they are kept."""

    async def record_failures(self, failures: Sequence[usage_pb2.FailedRequest]) -> None:
        """Keeps them; each once by its request id.

        Raises:
            MeshError.
        """


class Failures:
    """Takes note of failures and hands them on, every ``interval_s`` and at the end. ``max_waiting``: more are dropped,
    the oldest first.
    """

    def __init__(self, store: FailureStore, clock: Clock, *, interval_s: float, max_waiting: int) -> None:
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._waiting: deque[usage_pb2.FailedRequest] = deque(maxlen=max_waiting)
        self._dropped = 0

    def note_end(self, exchange: Exchange, latency_ms: int) -> None:
        """See ``NoteEnd``. Kept is what an authenticated client asked of a model and got an error for."""
        ours = exchange.is_inference and exchange.org_id and not exchange.idempotent_replayed
        if not ours or not exchange.error_code or exchange.error_code in _NOT_OURS:
            return
        if len(self._waiting) == self._waiting.maxlen:
            self._dropped += 1
        self._waiting.append(
            usage_pb2.FailedRequest(
                request_id=exchange.request_id,
                org_id=exchange.org_id,
                project_id=exchange.project_id,
                key_id=exchange.key_id,
                requested_model=exchange.requested_model,
                model=exchange.model,
                http_status=exchange.status,
                error_code=exchange.error_code,
                latency_ms=latency_ms,
                trace_id=exchange.trace_id,
                tags=exchange.tags,
                at_ms=self._clock.now_ms(),
            )
        )

    async def run(self) -> None:
        """Hands them on, for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Hands on what waits; what the ledger does not take now waits for the next time."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            try:
                await self._store.record_failures(batch)
            except asyncio.CancelledError:
                self._put_back(batch)  # they may have arrived; each is kept once
                raise
            except MeshError as error:
                if error.reason in _AWAY:
                    self._put_back(batch)
                    _log.warning("failures_wait", waiting=len(self._waiting), reason=error.message)
                    break
                self._dropped += len(batch)
                _log.error("failures_refused", dropped=len(batch), reason=error.message)
        if self._dropped:
            _log.warning("failures_dropped", dropped=self._dropped)
            self._dropped = 0

    def _put_back(self, batch: Sequence[usage_pb2.FailedRequest]) -> None:
        room = (self._waiting.maxlen or 0) - len(self._waiting)
        kept = batch[max(0, len(batch) - room) :] if room else ()
        self._dropped += len(batch) - len(kept)
        self._waiting.extendleft(reversed(kept))
