"""Requests that another, identical one is answered for: they wait for it, or are sent its chunks as they come.

Who waits for the end looks the answer up then, and is charged for a replay. Who is sent chunks is held for before the
first of them, at the price of a replay of the worst case, and charged before the last; whatever becomes of the client,
as an answer that was nearly all read is no gift.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from enum import Enum
from typing import Any

import structlog

from edge.catalog import CatalogView
from edge.errors import refusal
from edge.mesh import Fills, Ledger
from edge.settings import EdgeSettings
from edge.translate import Admitted, Settled, settle_request
from meshkit.digests import NewSalt
from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2, fills_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2

_R = ErrorReason
_HOLD_REFUSED = {
    _R.ERROR_REASON_INSUFFICIENT_BALANCE,
    _R.ERROR_REASON_BUDGET_EXCEEDED,
    _R.ERROR_REASON_INVALID_REQUEST,  # a cap in tokens, which a replay uses none of
}
"""The worst case can't be held. What the answer costs in the end may be less, so it is waited for."""
_AWAY = {_R.ERROR_REASON_UNAVAILABLE, _R.ERROR_REASON_DEADLINE_EXCEEDED}
_BPS = 10_000
_ENDED = fills_pb2.FillEnded
_WHOLE = {_ENDED.OUTCOME_STORED, _ENDED.OUTCOME_NOT_STORED}
_LOST = "The request whose answer this one was sent broke off. Nothing was charged; send it again."

_log = structlog.get_logger(__name__)

Events = AsyncGenerator[fills_pb2.FollowResponse]


class Verdict(Enum):
    """What a request does that was sent nothing of the other's answer."""

    LOOK_AGAIN = 1
    """It is stored now; or there is none, and the next one leads."""
    CALL_ALONE = 2
    """What came of it is not for this request, and waiting for the next would not help."""


class Following:
    """Follows the flights of identical requests."""

    def __init__(
        self, fills: Fills, ledger: Ledger, catalog: CatalogView, settings: EdgeSettings, *, new_salt: NewSalt
    ) -> None:
        self._fills = fills
        self._ledger = ledger
        self._catalog = catalog
        self._hold_ms = round(1_000 * (settings.request_timeout_s + settings.charge_patience_s))
        self._new_salt = new_salt
        self._tasks: set[asyncio.Task[Any]] = set()

    async def follow(self, request: Admitted, lead: cache_pb2.FillLead, *, live: bool) -> LiveReplay | Verdict:
        """Waits for the end of the flight; with ``live``, until its first chunks can be sent.

        Raises:
            MeshError: the key may not be answered; or whether it was held for is not known.
        """
        events = self.events(request, lead, live=live)
        began: fills_pb2.FillBegan | None = None
        try:
            while (event := await self._next(request, events)) is not None:
                if event.HasField("ended"):
                    alone = event.ended.outcome == _ENDED.OUTCOME_NOT_STORED
                    return Verdict.CALL_ALONE if alone else Verdict.LOOK_AGAIN
                if event.HasField("began"):
                    if not request.region.admits(self._catalog.region_of(event.began.source_id)):
                        return Verdict.CALL_ALONE
                    began = event.began
                elif began is not None:
                    if await self._hold(request, began):
                        replay = LiveReplay(self, request, lead, events, list(event.chunks.payloads))
                        events = _nothing()
                        return replay
                    began = None  # what comes is not for this request before it is charged
            return Verdict.CALL_ALONE
        finally:
            await events.aclose()

    async def _next(self, request: Admitted, events: Events) -> fills_pb2.FollowResponse | None:
        """None: the cache is away, or silent for as long as a request may take."""
        try:
            return await anext(events, None)
        except MeshError as error:
            if error.reason not in _AWAY:
                raise
            _log.warning("not_followed", request_id=request.exchange.request_id, reason=error.message)
            return None

    def events(self, request: Admitted, lead: cache_pb2.FillLead, *, live: bool) -> Events:
        """What the leader says, from its beginning."""
        asked = fills_pb2.FollowRequest(lead=lead, live=live, completion_id=request.exchange.generation_id)
        return self._fills.follow(asked)

    async def _hold(self, request: Admitted, began: fills_pb2.FillBegan) -> bool:
        hold = ledger_pb2.ReserveRequest(
            principal=request.principal,
            request_id=request.exchange.request_id,
            amount_nano_usd=-(-began.held_nano_usd * began.replay_bps // _BPS),
            ttl_ms=self._hold_ms,
            model=request.model.id,
        )
        try:
            await self._ledger.reserve(hold)
        except MeshError as error:
            if error.reason in _HOLD_REFUSED:
                return False
            if error.reason in _AWAY:
                self.begin(self.release(request, "it is not known whether it was held"))
                raise refusal(_R.ERROR_REASON_UNAVAILABLE, error.message) from error
            raise
        except asyncio.CancelledError:
            self.begin(self.release(request, "the client left before an answer"))
            raise
        return True

    async def settle(
        self,
        request: Admitted,
        payloads: list[bytes],
        ended: fills_pb2.FillEnded,
        outcome: ledger_pb2.Outcome.ValueType = ledger_pb2.OUTCOME_COMPLETE,
    ) -> Settled:
        """Charges for what was sent, ``payloads``.

        Raises:
            MeshError: nothing was charged, or that is not known.
        """
        hit = cache_pb2.Hit(
            tier=cache_pb2.REPLAY_TIER_EXACT,
            chunks=payloads,
            usage=ended.usage,
            price=ended.price,
            origin_receipt_id=ended.receipt_id,
            source_id=ended.source_id,
            upstream_model=ended.upstream_model,
        )
        receipt = await self._ledger.settle(settle_request(request, hit, self._new_salt, outcome))
        return Settled(receipt.receipt_id, receipt.charged_nano_usd, ended.usage, request.exchange.trace_id)

    async def release(self, request: Admitted, reason: str) -> None:
        """Gives the hold back. Never raises: else it ends by itself."""
        asked = ledger_pb2.ReleaseRequest(
            org_id=request.principal.org_id, request_id=request.exchange.request_id, reason=reason
        )
        try:
            await self._ledger.release(asked)
        except MeshError as error:
            _log.warning("hold_not_released", request_id=request.exchange.request_id, reason=error.message)

    async def settle_unseen(self, request: Admitted, lead: cache_pb2.FillLead) -> None:
        """Charges a client that has gone for the answer that it was being sent, once that is whole."""
        payloads: list[bytes] = []
        try:
            async with aclosing(self.events(request, lead, live=True)) as events:
                async for event in events:
                    payloads += event.chunks.payloads
                    if is_whole(event.ended, payloads):
                        await self.settle(request, payloads, event.ended, ledger_pb2.OUTCOME_CLIENT_GONE)
                        return
        except MeshError as error:
            _log.warning("follower_not_charged", request_id=request.exchange.request_id, reason=error.message)
        await self.release(request, "the answer that it was sent broke off")

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins what goes on without the client."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)


class LiveReplay:
    """The answer of another request as it comes, held for. ``aclose`` may be called at any time, also before the first
    of ``payloads`` was asked for.
    """

    def __init__(
        self, following: Following, request: Admitted, lead: cache_pb2.FillLead, events: Events, first: list[bytes]
    ) -> None:
        self._following = following
        self._request = request
        self._lead = lead
        self._events = events
        self._first = first
        self._over = False
        self.usage_chunk = b""
        self.settled: Settled | None = None
        """Known once the payloads are at their end."""

    async def payloads(self) -> AsyncGenerator[list[bytes]]:
        """As they come. It is charged when this ends.

        Raises:
            MeshError: it broke off, and nothing was charged.
        """
        sent = list(self._first)
        yield self._first
        while not (event := await self._next()).HasField("ended"):
            payloads = list(event.chunks.payloads)
            sent += payloads
            yield payloads
        await self._end(sent, event.ended)

    async def _next(self) -> fills_pb2.FollowResponse:
        try:
            event = await anext(self._events, None)
        except MeshError as error:
            _log.warning("follower_broken_off", request_id=self._request.exchange.request_id, reason=error.message)
            event = None
        return event or fills_pb2.FollowResponse(ended=_ENDED(outcome=_ENDED.OUTCOME_LOST))

    async def _end(self, sent: list[bytes], ended: fills_pb2.FillEnded) -> None:
        self._over = True
        if is_whole(ended, sent):
            self.usage_chunk = ended.usage_chunk
            self.settled = await self._following.settle(self._request, sent, ended)
            return
        self._following.begin(self._following.release(self._request, "the answer that it was sent broke off"))
        failed = ended.outcome == _ENDED.OUTCOME_FAILED and ended.reason
        raise refusal(ended.reason if failed else _R.ERROR_REASON_UPSTREAM_ERROR, _LOST)

    async def aclose(self) -> None:
        """The client has gone, or has it all."""
        if not self._over:
            self._over = True
            self._following.begin(self._following.settle_unseen(self._request, self._lead))
        await self._events.aclose()


def is_whole(ended: fills_pb2.FillEnded, payloads: list[bytes]) -> bool:
    """The answer ended as one, and these are all its payloads."""
    return ended.outcome in _WHOLE and ended.payloads == len(payloads)


async def _nothing() -> Events:
    return
    yield
