"""The router's use cases: complete and plan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import structlog

from meshkit.clock import Clock
from meshkit.digests import NewSalt
from meshkit.regions import RegionPolicy
from router_svc.domain.catalog import WireFormat
from router_svc.domain.errors import DuplicateRequest, RouterBusy
from router_svc.domain.own_key import NO_KEYS
from router_svc.domain.plan import Plan, plan
from router_svc.domain.request import ChatRequest, read_chat_request
from router_svc.domain.tokenizer import CountTokens
from router_svc.service.completion import Completion, CompletionLimits, CompletionTools
from router_svc.service.fill import Fill
from router_svc.service.flight import Lead
from router_svc.service.pipe import Event, EventPipe
from router_svc.service.ports import (
    Cache,
    Catalog,
    CompletionCall,
    Ending,
    Fills,
    Flights,
    Ledger,
    ProviderKeys,
    SourceClient,
)
from router_svc.service.seam import CallSeam
from router_svc.service.settlement import Settlement, Sleep
from router_svc.service.sources import Sources

_STOP_S = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the router; see RouterSettings for what each means."""

    request_timeout_s: float = 600.0
    drain_max_s: float = 60.0
    drain_max_bytes: int = 4 * 1024 * 1024
    max_answer_bytes: int = 16 * 1024 * 1024
    client_stall_s: float = 30.0
    client_queue_bytes: int = 256 * 1024
    max_inflight: int = 2_000
    max_inflight_per_source: int = 500
    hold_ttl_s: float = 120.0
    settle_patience_s: float = 60.0
    store_wait_s: float = 0.25
    flight_lease_s: float = 15.0
    flight_patience_s: float = 10.0


class CompletionHandle:
    """A fresh call as its RPC sees it."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion

    def events(self) -> AsyncIterator[Event]:
        """Route, chunks, final; raises what the call failed with."""
        return self._completion.pipe.events()

    def leave(self) -> None:
        """The RPC is over, by its end or by its client's. The call goes on and settles."""
        self._completion.leave()


class RouterService:
    """Plans and completes. ``aclose`` waits for calls under way."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        ledger: Ledger,
        provider_keys: ProviderKeys,
        cache: Cache,
        flights: Flights,
        fills: Fills,
        clients: Mapping[WireFormat, SourceClient],
        has_secret: Callable[[str], bool],
        count_tokens: CountTokens,
        new_salt: NewSalt,
        clock: Clock,
        limits: Limits,
        sleep: Sleep = asyncio.sleep,
        seam: CallSeam | None = None,
    ) -> None:
        self._catalog = catalog
        self._provider_keys = provider_keys
        self._flights = flights
        self._fills = fills
        self._clock = clock
        self._sleep = sleep
        self._has_secret = has_secret
        self._limits = limits
        self._sources = Sources(clients, max_inflight_per_source=limits.max_inflight_per_source)
        self._tools = CompletionTools(
            settlement=Settlement(
                ledger,
                clock,
                hold_ttl_ms=round(1_000 * limits.hold_ttl_s),
                patience_s=limits.settle_patience_s,
                sleep=sleep,
            ),
            cache=cache,
            sources=self._sources,
            clock=clock,
            count_tokens=count_tokens,
            new_salt=new_salt,
            limits=CompletionLimits(
                request_timeout_s=limits.request_timeout_s,
                drain_max_s=limits.drain_max_s,
                drain_max_bytes=limits.drain_max_bytes,
                max_answer_bytes=limits.max_answer_bytes,
                store_wait_s=limits.store_wait_s,
            ),
            seam=seam or CallSeam(),
        )
        self._running: dict[tuple[str, str], Completion] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def plan(self, org_id: str, model: str, body: bytes, region: RegionPolicy = RegionPolicy.ANY) -> Plan:
        """What a call of an organisation ("": of one without keys) would do, without doing it; also where nobody can be
        tried.

        Raises:
            InvalidRequest, ModelNotFound, CatalogUnavailable, LedgerUnavailable.
        """
        return await self._plan(org_id, model, read_chat_request(body), region)

    async def complete(self, call: CompletionCall) -> CompletionHandle:
        """Begin a fresh call in a task of its own; nothing is held yet when this raises.

        The lead of a flight is taken over first, and abandoned where this raises.

        Raises:
            InvalidRequest, ModelNotFound, PriceUnknown, NoSource, CatalogUnavailable, LedgerUnavailable, RouterBusy,
            DuplicateRequest, FlightLost, CacheUnavailable.
        """
        fill = None
        if call.fill is not None:
            fill = Fill(self._fills, call.fill, lease_s=self._limits.flight_lease_s, stream=call.stream)
        try:
            return await self._begin_led(call, fill)
        except BaseException as error:
            if fill is not None:
                await fill.quit(error if isinstance(error, Exception) else None)
            raise

    async def _begin_led(self, call: CompletionCall, fill: Fill | None) -> CompletionHandle:
        if call.flight is None:
            return await self._begin(call, None, fill)
        lead = Lead(
            self._flights,
            call.flight,
            self._clock,
            lease_s=self._limits.flight_lease_s,
            patience_s=self._limits.flight_patience_s,
            sleep=self._sleep,
        )
        await lead.take_over()
        try:
            return await self._begin(call, lead, fill)
        except DuplicateRequest:
            await lead.abandon(Ending.UNKNOWN)
            raise
        except BaseException:
            await lead.abandon(Ending.NOTHING_HELD)
            raise

    async def _begin(self, call: CompletionCall, lead: Lead | None, fill: Fill | None) -> CompletionHandle:
        request = read_chat_request(call.body)
        chosen = await self._plan(call.principal.org_id, call.model, request, call.region)
        chosen.require_candidate()
        key = (call.principal.org_id, call.request_id)
        if self._closing:
            raise RouterBusy("the router is stopping")
        if len(self._tasks) >= self._limits.max_inflight:
            raise RouterBusy(f"{self._limits.max_inflight} calls are under way")
        if key in self._running:
            raise DuplicateRequest(f"request {call.request_id} is under way")
        pipe = EventPipe(most_bytes=self._limits.client_queue_bytes, stall_s=self._limits.client_stall_s)
        completion = self._running[key] = Completion(call, request, chosen, self._tools, pipe, lead, fill)
        task = asyncio.create_task(self._conduct(key, completion), name=f"completion {call.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return CompletionHandle(completion)

    async def _conduct(self, key: tuple[str, str], completion: Completion) -> None:
        try:
            await completion.run()
        finally:
            # Before others are told that they may begin, as that may be here and under the same request id.
            self._running.pop(key, None)
            await completion.abandon_flight()

    async def aclose(self, drain_s: float) -> None:
        """Take no more calls and wait for those under way; after ``drain_s`` settle what they delivered."""
        self._closing = True
        if self._tasks:
            await self._drain(drain_s)
        await self._tools.settlement.aclose()

    async def _drain(self, drain_s: float) -> None:
        _, pending = await asyncio.wait(self._tasks, timeout=drain_s)
        if not pending:
            return
        _log.warning("calls_broken_off", calls=len(pending))
        for completion in list(self._running.values()):
            completion.stop()
        # What was delivered is settled: as long as the ledger is given for that.
        _, pending = await asyncio.wait(pending, timeout=_STOP_S + self._limits.settle_patience_s)
        for task in pending:
            _log.error("call_abandoned", task=task.get_name())
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _plan(self, org_id: str, model: str, request: ChatRequest, region: RegionPolicy) -> Plan:
        snapshot = await self._catalog.snapshot()
        own_keys = await self._provider_keys.of(org_id) if org_id else NO_KEYS
        return plan(
            request,
            model,
            snapshot,
            formats=self._sources.formats,
            has_secret=self._has_secret,
            own_keys=own_keys,
            region=region,
        )
