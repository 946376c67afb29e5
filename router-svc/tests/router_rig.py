"""A scripted source on loopback, fakes of the router's neighbours, and a router over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web
from pydantic import SecretStr
from router_fills import FakeFills

from meshkit.clock import SystemClock
from meshkit.digests import new_salt
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier
from meshkit.principal import Principal
from meshkit.telemetry import Telemetry
from router_svc.domain.answer import Attempt
from router_svc.domain.catalog import Capabilities, CatalogSnapshot, Model, Offer, Source, WireFormat
from router_svc.domain.errors import CacheUnavailable, HoldUnknown, LedgerUnavailable
from router_svc.domain.own_key import OwnKey, OwnKeys
from router_svc.service.pipe import Event
from router_svc.service.ports import (
    CacheTicket,
    Charge,
    CompletionCall,
    Ending,
    FillLead,
    FlightPass,
    FreshAnswer,
    Hold,
    Landing,
    SettleFacts,
)
from router_svc.service.router import CompletionHandle, Limits, RouterService
from router_svc.service.seam import CallSeam
from router_svc.sources.http.opening import open_http
from router_svc.sources.http.port import SourceHttp
from router_svc.sources.openai import OpenAISourceClient, OpenAITimeouts

SECRET = "sk-source-secret"
PRINCIPAL = Principal("org_1", "prj_1", "key_1")
MODEL = Model("m", 8_000, 1_000, Capabilities(tools=True, vision=True, json_object=True, json_schema=True))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def price(offer_id: str = "a/m", *, input_usd: int = 1, output_usd: int = 2) -> PriceSnapshot:
    rates = Rates(
        input_pico_usd=input_usd * 10**6,
        cached_input_pico_usd=input_usd * 10**5,
        output_pico_usd=output_usd * 10**6,
        reasoning_pico_usd=output_usd * 10**6,
    )
    return PriceSnapshot(offer_id, BillingTier.PASSTHROUGH, (RateTier(0, rates),), markup_bps=500)


def fee(offer_id: str, *, call_pico_usd: int = 0) -> PriceSnapshot:
    return PriceSnapshot(offer_id, BillingTier.BYOK, (RateTier(0, Rates(call_pico_usd=call_pico_usd)),))


def chunk(text: str | None = None, *, finish: str | None = None, **extra: Any) -> bytes:
    delta = {"content": text} if text is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return orjson.dumps({"id": "c1", "object": "chat.completion.chunk", "model": "up", "choices": [choice], **extra})


def usage_block(prompt: int = 10, completion: int = 2, **extra: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **extra}


def usage_chunk(prompt: int = 10, completion: int = 2, **extra: Any) -> bytes:
    return orjson.dumps({"id": "c1", "model": "up", "choices": [], "usage": usage_block(prompt, completion, **extra)})


def sse(*payloads: bytes, done: bool = True) -> bytes:
    events = [b"data: " + payload + b"\n\n" for payload in payloads]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def completion_body(text: str = "Hello!", usage: dict[str, Any] | None = None, **extra: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "model": "up", "choices": [choice], **extra}
    return orjson.dumps({**body, "usage": usage} if usage else body)


HAPPY_STREAM = sse(chunk("Hel"), chunk("lo!"), chunk(finish="stop"), usage_chunk())


@dataclass
class ScriptedSource:
    """An HTTP server that answers each call with the next handler of its script, the last one for ever."""

    base_url: str = ""
    script: list[Handler] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        number = len(self.bodies)
        self.bodies.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        handler = self.script[min(number, len(self.script) - 1)]
        self.called.set()
        return await handler(request)

    @property
    def calls(self) -> int:
        return len(self.bodies)


def json_answer(body: bytes, status: int = 200, **headers: str) -> Handler:
    """``headers``: their names with underscores for hyphens."""

    async def handler(request: web.Request) -> web.StreamResponse:
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, content_type="application/json", headers=extra)

    return handler


def stream_answer(*reads: bytes | asyncio.Event, cut: bool = False) -> Handler:
    """Writes each of ``reads``; waits where it is an event. ``cut``: breaks the connection at the end."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for read in reads:
            if isinstance(read, asyncio.Event):
                await read.wait()
            else:
                await response.write(read)
        if cut:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    return handler


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def serve_source(*script: Handler) -> AsyncIterator[ScriptedSource]:
    source = ScriptedSource(script=list(script))
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", source.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    source.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield source
    finally:
        await runner.cleanup()


@dataclass
class FakeLedger:
    """Holds in memory; every command is logged. ``away`` counts down failures per command before it answers again."""

    log: list[tuple[str, str]] = field(default_factory=list)
    open_holds: dict[str, int] = field(default_factory=dict)
    settled: dict[str, tuple[SettleFacts, tuple[Attempt, ...]]] = field(default_factory=dict)
    released: dict[str, tuple[str, tuple[Attempt, ...]]] = field(default_factory=dict)
    away: dict[str, int] = field(default_factory=dict)
    refusal: Exception | None = None
    reserving: asyncio.Event | None = None
    settling: asyncio.Event | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(
        self,
        principal: Principal,
        request_id: str,
        *,
        amount_nano_usd: int,
        amount_tokens: int,
        ttl_ms: int,
        model: str,
    ) -> Hold:
        self._fail_if_away("reserve")
        if self.reserving is not None:
            await self.reserving.wait()
        if self.refusal is not None:
            raise self.refusal
        self.log.append(("reserve", request_id))
        self.open_holds[request_id] = amount_nano_usd
        return Hold("hold_1", amount_nano_usd)

    async def extend(self, org_id: str, request_id: str, *, ttl_ms: int) -> None:
        self._fail_if_away("extend")
        if request_id not in self.open_holds:
            raise HoldUnknown(RuntimeError("no open hold"))
        self.log.append(("extend", request_id))

    async def settle(self, org_id: str, request_id: str, facts: SettleFacts, attempts: Sequence[Attempt]) -> Charge:
        self._fail_if_away("settle")
        if self.settling is not None:
            await self.settling.wait()
        self.log.append(("settle", request_id))
        assert request_id in self.open_holds, "settled without a hold, or twice"
        del self.open_holds[request_id]
        self.settled[request_id] = (facts, tuple(attempts))
        self.done.set()
        return Charge(f"rcpt_{request_id}", 42)

    async def release(self, org_id: str, request_id: str, *, reason: str, attempts: Sequence[Attempt]) -> None:
        self._fail_if_away("release")
        self.log.append(("release", request_id))
        self.done.set()
        if request_id not in self.open_holds:
            raise HoldUnknown(RuntimeError("no hold"))
        del self.open_holds[request_id]
        self.released[request_id] = (reason, tuple(attempts))

    def _fail_if_away(self, command: str) -> None:
        if self.away.get(command, 0):
            self.away[command] -= 1
            self.log.append((f"{command} away", ""))
            raise LedgerUnavailable("away")


@dataclass
class FakeProviderKeys:
    """The keys of each organisation; ``away``: they can't be known."""

    by_org: dict[str, dict[str, OwnKey]] = field(default_factory=dict)
    away: bool = False

    async def of(self, org_id: str) -> OwnKeys:
        if self.away:
            raise LedgerUnavailable("away")
        return self.by_org.get(org_id, {})


@dataclass
class FakeCache:
    """Keeps what it is offered; ``fills``: the flights that ended with it."""

    stored: list[tuple[CacheTicket, bytes, FreshAnswer]] = field(default_factory=list)
    failure: Exception | None = None
    storing: asyncio.Event | None = None
    """Storing waits until it is set."""

    fills: list[FillLead | None] = field(default_factory=list)

    async def store(
        self,
        principal: Principal,
        ticket: CacheTicket,
        request_body: bytes,
        answer: FreshAnswer,
        fill: FillLead | None = None,
    ) -> None:
        if self.failure is not None:
            raise self.failure
        if self.storing is not None:
            await self.storing.wait()
        self.stored.append((ticket, request_body, answer))
        self.fills.append(fill)


@dataclass
class FakeFlights:
    """One flight that is led as long as ``leads``. ``away`` counts down failures per command."""

    leads: bool = True
    renewed: int = 0
    landings: list[Landing] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    away: dict[str, int] = field(default_factory=dict)

    async def renew(self, ticket: FlightPass, lease_s: float) -> bool:
        self._fail_if_away("renew")
        self.renewed += 1
        return self.leads

    async def land(self, ticket: FlightPass, landing: Landing) -> None:
        self._fail_if_away("land")
        self.landings.append(landing)

    async def abandon(self, ticket: FlightPass, ending: Ending) -> None:
        self._fail_if_away("abandon")
        self.endings.append(ending)

    def _fail_if_away(self, command: str) -> None:
        if self.away.get(command, 0):
            self.away[command] -= 1
            raise CacheUnavailable("away")


@dataclass
class FakeCatalog:
    """One snapshot."""

    value: CatalogSnapshot

    async def snapshot(self) -> CatalogSnapshot:
        return self.value


def catalog_of(*sources: Source, model: Model = MODEL, prices: Sequence[PriceSnapshot] = ()) -> FakeCatalog:
    """Each source offers the model; without ``prices``, the first is the cheapest, then the next."""
    offers = tuple(
        Offer(
            f"{source.source_id}/m",
            model.model_id,
            source.source_id,
            f"up-{source.source_id}",
            prices[number] if prices else price(f"{source.source_id}/m", input_usd=number + 1, output_usd=number + 2),
            byok_price=fee(f"{source.source_id}/m", call_pico_usd=1_000_000),
        )
        for number, source in enumerate(sources)
    )
    return FakeCatalog(
        CatalogSnapshot("rev1", {model.model_id: model}, {s.source_id: s for s in sources}, {model.model_id: offers})
    )


@dataclass
class Rig:
    """A router service with fakes round it."""

    service: RouterService
    ledger: FakeLedger
    cache: FakeCache
    http: SourceHttp
    flights: FakeFlights
    fills: FakeFills
    provider_keys: FakeProviderKeys

    async def begin(
        self, body: dict[str, Any] | None = None, *, stream: bool = True, **fields: Any
    ) -> CompletionHandle:
        return await self.service.complete(call_of(body, stream=stream, **fields))

    async def complete(self, body: dict[str, Any] | None = None, *, stream: bool = True, **fields: Any) -> list[Event]:
        handle = await self.begin(body, stream=stream, **fields)
        return [event async for event in handle.events()]


def call_of(body: dict[str, Any] | None = None, *, stream: bool = True, **fields: Any) -> CompletionCall:
    content = {"model": "m", "messages": [{"role": "user", "content": "Hi there"}], **(body or {})}
    if stream:
        content.setdefault("stream", True)
    call = CompletionCall(PRINCIPAL, "req_1", "m", "m", orjson.dumps(content), stream)
    return replace(call, **fields)


@asynccontextmanager
async def rig_over(
    catalog: FakeCatalog,
    *,
    limits: Limits | None = None,
    timeouts: OpenAITimeouts | None = None,
    ledger: FakeLedger | None = None,
    max_answer_bytes: int = 2**20,
    telemetry: Telemetry | None = None,
    seam: CallSeam | None = None,
) -> AsyncIterator[Rig]:
    limits = limits or Limits(settle_patience_s=5.0)
    ledger, cache, flights, fills = ledger or FakeLedger(), FakeCache(), FakeFlights(), FakeFills()
    provider_keys, secrets = FakeProviderKeys(), {"A_KEY": SecretStr(SECRET)}
    async with open_http(max_connections=100) as http:
        client = OpenAISourceClient(
            http,
            (telemetry or Telemetry.off()).tracer,
            secrets.get,
            timeouts=timeouts or OpenAITimeouts(),
            max_answer_bytes=max_answer_bytes,
        )
        service = RouterService(
            catalog=catalog,
            ledger=ledger,
            provider_keys=provider_keys,
            cache=cache,
            flights=flights,
            fills=fills,
            clients={WireFormat.OPENAI: client},
            has_secret=secrets.__contains__,
            count_tokens=lambda text, _: len(text.split()),
            new_salt=new_salt,
            clock=SystemClock(),
            limits=limits,
            seam=seam,
        )
        try:
            yield Rig(service, ledger, cache, http, flights, fills, provider_keys)
        finally:
            await service.aclose(5.0)
