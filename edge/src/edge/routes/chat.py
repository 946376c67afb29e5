"""``POST /chat/completions``: authenticate, check, replay or have answered, send."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp

from edge.auth import Authenticator
from edge.catalog import CatalogView
from edge.errors import code_of, error_body, refusal
from edge.exchange import Exchange
from edge.following import Following, LiveReplay, Verdict
from edge.hangup import Hangup
from edge.idempotency import Idempotency, Leg, idempotency_key, run_is_over
from edge.inbound import read_body
from edge.limits import RateLimits
from edge.mesh import Events, Mesh
from edge.routes.answer import Answer
from edge.routes.stream import EventStream
from edge.settings import EdgeSettings
from edge.translate import (
    Admitted,
    Settled,
    answer_tokens,
    begun_headers,
    charge_request,
    complete_request,
    estimated_tokens,
    landing_of,
    lookup_request,
    miss_status,
    mode_of,
    prompt_tokens,
    repeated_headers,
    settled_headers,
    usage_payload,
)
from edge.wire import sse
from edge.wire.cache_control import Mode, lets_itself_be_recorded, parse_controls, status_collapsed, status_hit
from edge.wire.checks import parse_chat
from edge.wire.header_lines import HeaderLines, Lines
from edge.wire.strict_json import refuse_ambiguous
from edge.wire.tags import tags_of
from meshkit.clock import Clock
from meshkit.digests import NewSalt
from meshkit.errors import MeshError
from tallygate.cache.v1 import cache_pb2, flights_pb2
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.router.v1 import router_pb2

_MOST_RUNS = 16
"""Runs of one Idempotency-Key that are tried in turn where its record was lost; each ended uncharged before."""
_MOST_LEADERS = 4
"""Identical requests that are waited for in turn, each of which failed; then the request calls for itself, so that the
last of many does not wait for the failure of all others."""
_AWAY = {
    ErrorReason.ERROR_REASON_UNAVAILABLE,
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_INTERNAL,
}
_log = structlog.get_logger(__name__)


class ChatCompletions:
    """The resource."""

    def __init__(
        self,
        mesh: Mesh,
        authenticator: Authenticator,
        limits: RateLimits,
        catalog: CatalogView,
        idempotency: Idempotency,
        settings: EdgeSettings,
        clock: Clock,
        new_salt: NewSalt,
    ) -> None:
        self._mesh = mesh
        self._authenticator = authenticator
        self._limits = limits
        self._catalog = catalog
        self._idempotency = idempotency
        self._following = Following(mesh.fills, mesh.ledger, catalog, settings, new_salt=new_salt)
        self._settings = settings
        self._clock = clock
        self._new_salt = new_salt

    async def create(self, request: Request) -> ASGIApp:
        """Answers one request.

        Raises:
            MeshError: refused; nothing was sent.
            ClientGone: nobody is there to be answered.
        """
        admitted = await self._admit(request)
        try:
            if admitted.idempotency_key is None:
                return await self._answer(request, admitted)
            return await self._answer_once(request, admitted, admitted.idempotency_key)
        except MeshError as error:
            if error.reason not in _AWAY:  # after those it may be called and settled all the same
                admitted.tokens.used(0)
            raise

    async def _answer_once(self, request: Request, admitted: Admitted, key: str) -> ASGIApp:
        """The answer of the first request with this key, whichever that is."""
        for _ in range(_MOST_RUNS):
            async with Hangup(request.receive):
                boarded = await self._idempotency.board(admitted, key)
            if isinstance(boarded, flights_pb2.Landing):
                return self._repeat(admitted, boarded)
            try:
                async with self._idempotency.led(boarded):
                    return await self._answer(request, admitted, boarded)
            except MeshError as error:
                if not run_is_over(error):
                    raise
        raise refusal(ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_IN_USE)

    async def _answer(self, request: Request, admitted: Admitted, leg: Leg | None = None) -> ASGIApp:
        found, collapsed = await self._look_up(admitted), False
        for _ in range(_MOST_LEADERS):
            if not found.miss.HasField("underway"):
                break
            collapsed = True
            followed = await self._follow(request, admitted, found.miss.underway, leg)
            if isinstance(followed, LiveReplay):
                return self._relay_live(admitted, followed)
            if followed is Verdict.CALL_ALONE:
                break
            found = await self._look_up(admitted)
        if found.HasField("hit"):
            replayed = await self._replay(admitted, found.hit, leg, collapsed=collapsed)
            if replayed is not None:
                return replayed
            found = _missed(cache_pb2.Miss.REASON_BYPASSED)
        elif admitted.controls.mode is Mode.ONLY:
            away = found.miss.reason == cache_pb2.Miss.REASON_UNAVAILABLE
            raise refusal(ErrorReason.ERROR_REASON_UNAVAILABLE if away else ErrorReason.ERROR_REASON_CACHE_MISS)
        return await self._have_answered(request, admitted, found.miss, leg)

    async def _follow(
        self, request: Request, admitted: Admitted, lead: cache_pb2.FillLead, leg: Leg | None
    ) -> LiveReplay | Verdict:
        """Waits for an identical request. What is kept for an Idempotency-Key is whole, so it is waited for whole."""
        async with Hangup(request.receive), self._idempotency.kept(leg):
            return await self._following.follow(admitted, lead, live=admitted.call.stream and leg is None)

    def _relay_live(self, admitted: Admitted, replay: LiveReplay) -> ASGIApp:
        exchange = admitted.exchange
        exchange.served_mode = mode_of(cache_pb2.REPLAY_TIER_EXACT)
        admitted.tokens.used(0)

        async def frames() -> AsyncGenerator[bytes]:
            try:
                async with aclosing(replay.payloads()) as arriving:
                    async for payloads in arriving:
                        yield sse.frames(payloads)
                assert replay.settled is not None, "it is charged when it ends"
                self._note(exchange, replay.settled)
                yield self._end(admitted, replay.usage_chunk, replay.settled)
            except Exception as error:  # noqa: BLE001 - whatever it was, the client must not take the stream for whole
                yield self._broken_off(exchange, error)

        return EventStream(frames(), replay, begun_headers(exchange, status_collapsed(exchange.served_mode)))

    async def _admit(self, request: Request) -> Admitted:
        exchange = Exchange.of(request.scope)
        caller = await self._authenticator.for_inference(request)
        lines = HeaderLines.of(request.scope)
        key = idempotency_key(lines)
        settings = self._settings
        body = await read_body(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        call = parse_chat(body)
        exchange.requested_model = call.model[:200]
        exchange.tags = tags_of(call.metadata, lines)
        policy = caller.policy
        controls = parse_controls(lines, caller.cache)
        if controls.record and not lets_itself_be_recorded(lines):
            controls = replace(controls, record=False)
        model = self._catalog.resolve(call.model)
        exchange.model = model.id
        tokens = await self._limits.take_tokens(
            exchange,
            caller.principal.key_id,
            policy.tokens_per_minute,
            estimated_tokens(body, call),
            calls_per_minute=policy.requests_per_minute,
        )
        return Admitted(exchange, caller.principal, body, call, model, controls, key, tokens, caller.region)

    async def _look_up(self, admitted: Admitted) -> cache_pb2.LookupResponse:
        """What the cache has. A cache that is away counts as a miss without leave to store."""
        if admitted.controls.mode is Mode.OFF and not admitted.controls.record:
            refuse_ambiguous(admitted.body)
            return _missed(cache_pb2.Miss.REASON_BYPASSED)
        try:
            found = await self._mesh.cache.lookup(lookup_request(admitted, lease_s=self._settings.flight_lease_s))
            if not found.HasField("hit") or admitted.region.admits(self._catalog.region_of(found.hit.source_id)):
                return found
            # Another key of the project may have it from there. Asked for anew, it takes the place of that answer.
            if admitted.controls.mode is Mode.ONLY:
                return _missed(cache_pb2.Miss.REASON_NOT_STORED)
            return await self._mesh.cache.lookup(lookup_request(admitted, Mode.REFRESH))
        except MeshError as error:
            if error.reason not in _AWAY:
                raise
            if error.reason == ErrorReason.ERROR_REASON_INTERNAL:
                # The client is served all the same; but it is a bug, and nobody would look for it in an outage.
                _log.error("cache_failed", request_id=admitted.exchange.request_id, reason=error.message)
            else:
                _log.warning("cache_away", request_id=admitted.exchange.request_id, reason=error.message)
        refuse_ambiguous(admitted.body)
        return _missed(cache_pb2.Miss.REASON_UNAVAILABLE)

    async def _replay(
        self, admitted: Admitted, hit: cache_pb2.Hit, leg: Leg | None, *, collapsed: bool
    ) -> ASGIApp | None:
        """None: not before the ledger has said what it has under this request id."""
        exchange = admitted.exchange
        exchange.served_mode = mode_of(hit.tier)
        charge = charge_request(admitted, hit, self._new_salt)
        if leg is None:
            receipt = await self._mesh.ledger.charge(charge)
        else:
            charged = await self._idempotency.charge(leg, charge, lambda made: landing_of(admitted, hit, made))
            if charged is None:
                return None
            receipt = charged
        settled = Settled(receipt.receipt_id, receipt.charged_nano_usd, hit.usage, exchange.trace_id)
        self._note(exchange, settled)
        admitted.tokens.used(0)
        if collapsed:
            status = status_collapsed(exchange.served_mode, hit.key_digest)
        else:
            status = status_hit(exchange.served_mode, hit.key_digest, hit.similarity_ppm)
        age_s = max(0, hit.age_ms) // 1_000
        headers = [*begun_headers(exchange, status), *settled_headers(settled), (b"age", b"%d" % age_s)]
        if not admitted.call.stream:
            return Answer(hit.openai_body, headers)
        return _stream(sse.frames(hit.chunks) + self._end(admitted, hit.usage_chunk, settled), headers)

    def _repeat(self, admitted: Admitted, landing: flights_pb2.Landing) -> ASGIApp:
        """What was sent to the first who asked, to the byte; where that was broken off, so is this."""
        exchange = admitted.exchange
        exchange.served_mode, exchange.idempotent_replayed = mode_of(landing.tier), True
        settled = Settled(landing.receipt_id, landing.charged_nano_usd, landing.usage, landing.trace_id)
        self._note(exchange, settled)
        admitted.tokens.used(0)
        headers = repeated_headers(exchange) + settled_headers(settled)
        if not admitted.call.stream:
            return Answer(landing.openai_body, headers)
        frames = sse.frames(landing.chunks)
        if landing.HasField("broken_off"):
            error = MeshError(landing.broken_off.reason, landing.broken_off.message)
            exchange.error_code = code_of(error)
            return _stream(frames + sse.error_frame(error_body(error)), headers)
        return _stream(frames + self._end(admitted, landing.usage_chunk, settled), headers)

    async def _have_answered(
        self, request: Request, admitted: Admitted, miss: cache_pb2.Miss, leg: Leg | None
    ) -> ASGIApp:
        exchange = admitted.exchange
        exchange.served_mode = "fresh"
        headers = begun_headers(exchange, miss_status(miss))
        flight = leg.hand_over() if leg else None
        events = self._mesh.router.complete(complete_request(admitted, miss, flight))
        if not admitted.call.stream:
            async with Hangup(request.receive), aclosing(events):
                final = await _final(events)
            settled = self._settle(admitted, final)
            return Answer(final.openai_body, headers + settled_headers(settled))
        async with Hangup(request.receive):
            # The answer begins with the first event and not before: until then a refusal is still an HTTP status.
            first = await anext(events, None)
        return EventStream(self._relay(admitted, events, first), events, headers)

    async def _relay(
        self, admitted: Admitted, events: Events, first: router_pb2.CompleteResponse | None
    ) -> AsyncGenerator[bytes]:
        """The frames of a fresh stream: its chunks as bytes, unread, then the end or an error."""
        try:
            event = first
            while event is not None and not event.HasField("final"):
                if event.HasField("chunks"):
                    yield sse.frames(event.chunks.payloads)
                event = await anext(events, None)
            if event is None:
                raise refusal(ErrorReason.ERROR_REASON_INTERNAL, "the router ended the stream without a Final")
            settled = self._settle(admitted, event.final)
            yield self._end(admitted, event.final.usage_chunk, settled)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client must not take the stream for whole
            yield self._broken_off(admitted.exchange, error)

    def _broken_off(self, exchange: Exchange, error: Exception) -> bytes:
        if isinstance(error, MeshError):
            _log.warning("stream_failed", request_id=exchange.request_id, reason=error.message)
        else:
            _log.error("unexpected_error", request_id=exchange.request_id, exc_info=error)
            error = refusal(ErrorReason.ERROR_REASON_INTERNAL)
        exchange.error_code = code_of(error)
        return sse.error_frame(error_body(error))

    def _end(self, admitted: Admitted, usage_chunk: bytes, settled: Settled) -> bytes:
        """The last frames of a whole stream."""
        if not admitted.call.include_usage:
            return sse.DONE
        return (
            sse.frames([usage_payload(admitted, usage_chunk, settled, now_s=self._clock.now_ms() // 1_000)]) + sse.DONE
        )

    def _settle(self, admitted: Admitted, final: router_pb2.Final) -> Settled:
        exchange, usage = admitted.exchange, final.usage
        settled = Settled(final.receipt_id, final.charged_nano_usd, usage, exchange.trace_id)
        self._note(exchange, settled)
        if usage.provenance != money_pb2.USAGE_PROVENANCE_NONE:  # else nobody knows, and the estimate stays
            admitted.tokens.used(prompt_tokens(usage) + answer_tokens(usage))
        return settled

    @staticmethod
    def _note(exchange: Exchange, settled: Settled) -> None:
        exchange.receipt_id = settled.receipt_id
        exchange.input_tokens = prompt_tokens(settled.usage)
        exchange.output_tokens = answer_tokens(settled.usage)


async def _final(events: Events) -> router_pb2.Final:
    async for event in events:
        if event.HasField("final"):
            return event.final
    raise refusal(ErrorReason.ERROR_REASON_INTERNAL, "the router ended the call without a Final")


def _stream(frames: bytes, headers: Lines) -> Answer:
    """A stream that is there as a whole."""
    return Answer(frames, headers + sse.HEADERS, sse.MEDIA_TYPE)


def _missed(reason: cache_pb2.Miss.Reason.ValueType) -> cache_pb2.LookupResponse:
    return cache_pb2.LookupResponse(miss=cache_pb2.Miss(reason=reason))
