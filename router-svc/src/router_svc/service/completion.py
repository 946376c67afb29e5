"""One fresh call, from hold to settlement, in a task that outlives its client.

Every history ends in exactly one of: settled, released, or refused before anything was held.

A call that leads a flight is answered to the end though its client goes: with an Idempotency-Key the client said that
it will come back for this answer, and of identical requests others wait for it, if they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from meshkit.clock import Clock
from meshkit.digests import NewSalt
from meshkit.money import Usage
from router_svc.domain.answer import Attempt, Delivery, StreamBatch
from router_svc.domain.errors import (
    ClientStalled,
    HoldClosed,
    LedgerRefused,
    RouterError,
    UpstreamFailed,
)
from router_svc.domain.failure import FailureKind, SourceFailure, broken_off, error_of
from router_svc.domain.plan import Candidate, Plan
from router_svc.domain.request import ChatRequest
from router_svc.domain.tokenizer import CountTokens
from router_svc.service.fill import Fill
from router_svc.service.flight import Lead
from router_svc.service.keeping import landing_of, offer
from router_svc.service.pipe import ChunksEvent, EventPipe, FinalEvent, RouteEvent
from router_svc.service.ports import (
    Cache,
    Charge,
    CompletionCall,
    Ending,
    FillBegan,
    Hold,
    Landing,
    SourceCall,
)
from router_svc.service.reckoning import Ended, facts_of, outcome_of, usage_of
from router_svc.service.seam import CallSeam
from router_svc.service.settlement import Settlement
from router_svc.service.sources import Sources

MOST_ATTEMPTS = 2
_OK = 200
_FINISH_GRACE_S = 5.0
"""After the last finish reason only usage and [DONE] are to come; a source that then falls silent is not waited for."""
_LATE = frozenset({FailureKind.CUT, FailureKind.TIMEOUT})
"""Failures that take nothing from an answer that is complete already."""


_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CompletionLimits:
    """The bounds of one call; see RouterSettings for what each means."""

    request_timeout_s: float
    drain_max_s: float
    drain_max_bytes: int
    max_answer_bytes: int
    store_wait_s: float


@dataclass(frozen=True, slots=True)
class CompletionTools:
    """What every call works with."""

    settlement: Settlement
    cache: Cache
    sources: Sources
    clock: Clock
    count_tokens: CountTokens
    new_salt: NewSalt
    limits: CompletionLimits
    seam: CallSeam


class Completion:
    """One fresh call. ``run``, then ``abandon_flight`` are its task; ``leave`` and ``stop`` are called from outside."""

    def __init__(
        self,
        call: CompletionCall,
        request: ChatRequest,
        plan: Plan,
        tools: CompletionTools,
        pipe: EventPipe,
        lead: Lead | None = None,
        fill: Fill | None = None,
    ) -> None:
        self.pipe = pipe
        self._call = call
        self._request = request
        self._plan = plan
        self._tools = tools
        self._limits = tools.limits
        self._attempts: list[Attempt] = []
        self._deadline_at = asyncio.get_running_loop().time() + tools.limits.request_timeout_s
        self._scope: asyncio.Timeout | None = None
        self._scope_source_cancels = False
        self._gone = False
        self._stopping = False
        self._drained_bytes = 0
        self._hold = Hold("", 0)
        self._lead = lead
        self._fill = fill
        self._heard_out = lead is not None
        self._asking: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._ending = Ending.NOTHING_HELD

    def leave(self) -> None:
        """The client has gone: stop the source where that stops its billing, else read on within bounds. Where it will
        come back for the answer, or others wait for it, go on as if it were there.
        """
        ended = self.pipe.closed
        self.pipe.leave()
        if not ended:
            self._lose_client()

    def _lose_client(self) -> None:
        if self._heard_out or self._gone or self._asking is not None:
            return
        if self._fill is None:
            self._go()
        elif self._fill.followed:
            self._heard_out = True
        else:
            self._asking = asyncio.create_task(self._go_unless_followed(self._fill), name="ask for followers")

    async def _go_unless_followed(self, fill: Fill) -> None:
        if await fill.is_followed():
            self._heard_out = True
        else:
            self._go()
            await fill.quit(None)  # at once, so that nobody joins what ends before its time

    def _go(self) -> None:
        self._gone = True
        self._bound_scope()

    def stop(self) -> None:
        """The router is stopping: break off and settle what was delivered."""
        self._stopping = True
        self._bound_scope()

    async def run(self) -> None:
        """Hold, call, stream, settle, store. Every error goes to the pipe."""
        try:
            await self._run()
        except RouterError as error:
            self._error = error
            self.pipe.close(error)
        except Exception as error:  # noqa: BLE001 - a task's end of the line: the RPC gets it
            self._error = error
            _log.exception("completion_failed", request_id=self._call.request_id, key_id=self._call.principal.key_id)
            self.pipe.close(error)
        finally:
            self.pipe.close(UpstreamFailed("the router stopped before the answer ended"))

    async def abandon_flight(self) -> None:
        """Say how the flights ended, unless they have landed. After ``run``; whoever waits may then begin anew."""
        if self._asking is not None:
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._fill is not None:
            await self._fill.quit(self._error)
        if self._lead is not None:
            await self._lead.abandon(self._ending)

    async def _run(self) -> None:
        self._hold = await self._reserve()
        with self._tools.settlement.kept(self._call):
            await self._run_held()

    async def _run_held(self) -> None:
        try:
            ended = await self._call_sources()
            usage = await usage_of(ended, self._request, self._tools.count_tokens)
        except Exception:
            await self._release("the router failed")
            raise
        if ended.delivery is None or usage is None:
            # Never the error's text: a source's message may quote the prompt, and the reason is kept.
            await self._release(type(ended.error).__name__ if ended.error else "the client left before an answer")
            if ended.error is not None:
                raise ended.error
            return
        self._tools.seam.used()
        charge = await self._settle(ended, ended.delivery, usage)
        self._tools.seam.settled()
        # Before the last event, so that whoever asks again on reading it finds the answer; a slow cache delays nobody.
        end = partial(self._end, ended, ended.delivery, usage, charge)
        waited = asyncio.get_running_loop().call_later(self._limits.store_wait_s, end)
        try:
            await self._keep(ended.delivery, usage, charge, ended.error)
        finally:
            waited.cancel()
            end()

    def _end(self, ended: Ended, delivery: Delivery, usage: Usage, charge: Charge) -> None:
        """The last event, or the error. Only the first time counts."""
        if ended.error is None:
            self.pipe.finish(
                FinalEvent(delivery.body, delivery.usage_chunk, usage, charge.charged_nano_usd, charge.receipt_id)
            )
            return
        self._error = ended.error
        ended.error.metadata["receipt_id"] = charge.receipt_id
        self.pipe.close(ended.error)

    async def _reserve(self) -> Hold:
        self._ending = Ending.UNKNOWN
        try:
            return await self._tools.settlement.reserve(self._call, self._plan.hold_nano_usd, self._plan.hold_tokens)
        except HoldClosed as closed:
            if self._lead is not None:
                await self._end_closed_run(self._lead, closed)
            raise
        except LedgerRefused:
            self._ending = Ending.NOTHING_HELD
            raise

    async def _end_closed_run(self, lead: Lead, closed: HoldClosed) -> None:
        """The flight's record was lost, or never told: the ledger knows what became of this run."""
        if closed.state == "settled":
            await lead.land(Landing(self._call.request_id, closed.receipt_id, answer_gone=True))
        elif closed.state == "released":
            self._ending = Ending.RELEASED
        else:
            # An expired hold may still be settled, late, by whoever held. Not once it is given back as well.
            await self._release("its request is run again")

    async def _call_sources(self) -> Ended:
        failures: list[tuple[str, SourceFailure]] = []
        for candidate in self._to_try():
            if self._gone or self._stopping:
                break
            delivery = Delivery(candidate, self._tools.clock.now_ms())
            began_s = self._tools.clock.monotonic_s()
            failure = await self._receive(delivery)
            gone = self._gone
            won = delivery.begun
            took_ms = round(1_000 * (self._tools.clock.monotonic_s() - began_s))
            word = "" if won else failure.kind.value if failure else "client_gone"
            status = _OK if won else failure.http_status if failure else 0
            self._attempts.append(Attempt(candidate.offer.offer_id, delivery.started_at_ms, took_ms, status, won, word))
            if won:
                return Ended(
                    delivery, gone, None if gone or failure is None else broken_off(candidate.source.source_id, failure)
                )
            if failure is not None:
                failures.append((candidate.source.source_id, failure))
                if not failure.elsewhere:
                    break
        return Ended(None, self._gone, error_of(failures) if failures and not self._gone else None)

    def _to_try(self) -> Iterator[Candidate]:
        """The candidates in order, no source twice."""
        seen: set[str] = set()
        for candidate in self._plan.candidates:
            if candidate.source.source_id not in seen and len(seen) < MOST_ATTEMPTS:
                seen.add(candidate.source.source_id)
                yield candidate

    async def _receive(self, delivery: Delivery) -> SourceFailure | None:
        """Call one source and take what it gives. None: it gave all, or the client has gone."""
        candidate = delivery.candidate
        loop = asyncio.get_running_loop()
        call = SourceCall(candidate, self._call.body, self._deadline_at - loop.time())
        try:
            async with asyncio.timeout_at(self._deadline_at) as self._scope:
                # What a model thought unseen is told by its last usage only: cut off, it would be nobody's to pay.
                self._scope_source_cancels = candidate.source.cancel_stops_billing and not candidate.reasons_unseen
                if self._call.stream:
                    async with self._tools.sources.stream(call) as batches:
                        async for batch in batches:
                            await self._take(delivery, batch)
                else:
                    plain = await self._tools.sources.ask(call)
                    delivery.take_whole(plain)
                    self.pipe.note(self._route(delivery))
        except SourceFailure as failure:
            return None if delivery.is_complete(self._request.choices) and failure.kind in _LATE else failure
        except TimeoutError:
            if delivery.is_complete(self._request.choices):
                return None
            if self._stopping:
                return SourceFailure(FailureKind.CUT, "the router is stopping")
            return None if self._gone else SourceFailure(FailureKind.TIMEOUT, "the answer took too long")
        finally:
            self._scope = None
        if not delivery.is_complete(self._request.choices):
            return SourceFailure(FailureKind.CUT, "the stream ended in its middle")
        return None

    async def _take(self, delivery: Delivery, batch: StreamBatch) -> None:
        first = not delivery.begun
        delivery.take(batch)
        if delivery.received_bytes > self._limits.max_answer_bytes:
            raise SourceFailure(FailureKind.TOO_LARGE, "the answer is larger than allowed")
        if self._gone:
            self._drained_bytes += sum(map(len, batch.payloads))
            if self._drained_bytes > self._limits.drain_max_bytes:
                raise SourceFailure(FailureKind.TOO_LARGE, "the rest was too much to drain")
            return
        try:
            if first:
                await self._announce(delivery)
            if self._fill is not None:
                self._fill.grown()
            if batch.payloads and (await self.pipe.put(ChunksEvent(batch.payloads)) or self._heard_out):
                delivery.delivered = len(delivery.payloads)
            if first:
                self._tools.seam.streaming()
        except TimeoutError:
            self.pipe.close(ClientStalled("the client stopped reading"))
            if self._fill is None and not self._heard_out:
                self._go()
                return
            self.pipe.leave()
            self._lose_client()
            if self._heard_out:
                delivery.delivered = len(delivery.payloads)
        if not delivery.done and delivery.is_complete(self._request.choices):
            self._end_within(_FINISH_GRACE_S)

    async def _announce(self, delivery: Delivery) -> None:
        """A stream has begun."""
        if self._fill is not None:
            offer, replay_bps = delivery.candidate.offer, delivery.candidate.price.replay_bps
            self._fill.begun(delivery, FillBegan(offer.source_id, self._hold.amount_nano_usd, replay_bps))
        await self.pipe.put(self._route(delivery))

    def _route(self, delivery: Delivery) -> RouteEvent:
        offer = delivery.candidate.offer
        held_nano_usd = self._hold.amount_nano_usd
        return RouteEvent(offer.source_id, offer.offer_id, offer.upstream_model, len(self._attempts), held_nano_usd)

    def _bound_scope(self) -> None:
        """Bring the end of the source's call nearer: now, or after the time that draining may take."""
        if self._stopping or self._scope_source_cancels:
            self._end_within(0.0)
        elif self._call.stream:
            self._end_within(self._limits.drain_max_s)
        # A plain answer comes whole or not at all: the call's own deadline bounds the wait for it.

    def _end_within(self, seconds: float) -> None:
        scope = self._scope
        if scope is not None and not scope.expired():
            ends_at = scope.when() or self._deadline_at
            scope.reschedule(min(ends_at, asyncio.get_running_loop().time() + seconds))

    async def _settle(self, ended: Ended, delivery: Delivery, usage: Usage) -> Charge:
        outcome = outcome_of(ended, delivery, usage, self._request)
        facts = await facts_of(self._call, delivery, usage, outcome, self._tools.new_salt)
        try:
            return await self._tools.settlement.settle(self._call, facts, tuple(self._attempts))
        except LedgerRefused:
            await self._release("the ledger refused the settlement")
            raise
        except RouterError as error:
            _log.error(
                "not_settled", request_id=self._call.request_id, key_id=self._call.principal.key_id, error=str(error)
            )
            raise

    async def _release(self, reason: str) -> None:
        attempts = tuple(
            Attempt(a.offer_id, a.started_at_ms, a.duration_ms, a.http_status, False, a.failure or "no_answer")
            for a in self._attempts
        )
        if await self._tools.settlement.release(self._call, reason, attempts):
            self._ending = Ending.RELEASED

    async def _keep(self, delivery: Delivery, usage: Usage, charge: Charge, error: RouterError | None) -> None:
        """For whoever asks again: the flight's landing, and what the cache takes."""
        if self._lead is not None:
            await self._lead.land(landing_of(self._call, delivery, usage, charge, error))
        if error is None and delivery.is_complete(self._request.choices) and not delivery.came_to_nothing(usage):
            fill = self._fill if self._fill is not None and not self._fill.ended else None
            await offer(self._tools.cache, self._call, delivery, usage, charge, fill)
