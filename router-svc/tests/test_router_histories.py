"""Any history of a call, drawn at random: one end in the ledger, no hold left, and an honest stream to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from router_fills import FakeFills
from router_rig import (
    FakeCache,
    FakeFlights,
    FakeLedger,
    FakeProviderKeys,
    call_of,
    catalog_of,
    chunk,
    usage_chunk,
)

from meshkit.clock import SystemClock
from meshkit.digests import new_salt
from meshkit.money import Provenance, Usage
from router_svc.domain.answer import Outcome, PlainAnswer, StreamBatch
from router_svc.domain.catalog import Source, WireFormat
from router_svc.domain.errors import RouterError
from router_svc.domain.failure import FailureKind, SourceFailure
from router_svc.service.pipe import ChunksEvent, Event, FinalEvent, RouteEvent
from router_svc.service.ports import Attended, CacheTicket, FillLead, SourceCall
from router_svc.service.router import Limits, RouterService

USED = Usage(input_tokens=10, output_tokens=2, calls=1, provenance=Provenance.PROVIDER)
FILL = FillLead(b"n" * 40, "req_1", 5.0)
TICKET = CacheTicket(b"a ticket of the cache")
LIMITS = Limits(
    request_timeout_s=0.3, drain_max_s=0.05, client_stall_s=0.05, client_queue_bytes=300, settle_patience_s=5.0
)


@dataclass(frozen=True)
class Script:
    """What one source does: fail to begin, or give reads and then end in some way."""

    refuses: FailureKind | None
    reads: int
    usage: bool
    end: str
    pause: bool


@dataclass
class ScriptedClient:
    """Plays one script for each call."""

    scripts: list[Script]
    calls: list[str] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)

    def _next(self, call: SourceCall) -> Script:
        self.calls.append(call.candidate.source.source_id)
        script = self.scripts[len(self.calls) - 1]
        if script.refuses is not None:
            raise SourceFailure(script.refuses, "no", http_status=500)
        return script

    @asynccontextmanager
    async def stream(self, call: SourceCall) -> AsyncIterator[AsyncIterator[StreamBatch]]:
        yield self._batches(self._next(call))

    async def _batches(self, script: Script) -> AsyncIterator[StreamBatch]:
        for number in range(script.reads):
            if script.pause:
                await asyncio.sleep(0)
            payload = chunk(f"word{number} ")
            self.given.append(payload)
            yield StreamBatch((payload,))
        if script.end == "hang":
            await asyncio.Event().wait()
        if script.end == "cut":
            raise SourceFailure(FailureKind.CUT, "cut")
        last = chunk("!", finish="stop")
        self.given.append(last)
        yield StreamBatch(
            (last,),
            usage_chunk() if script.usage else b"",
            USED if script.usage else None,
            frozenset({0}),
            done=script.end == "done",
        )

    async def ask(self, call: SourceCall) -> PlainAnswer:
        script = self._next(call)
        if script.end == "hang":
            await asyncio.Event().wait()
        if script.end == "cut":
            raise SourceFailure(FailureKind.CUT, "cut")
        return PlainAnswer(b'{"choices":[{"message":{"content":"a b"}}]}', USED if script.usage else None)


_scripts = st.builds(
    Script,
    refuses=st.sampled_from([None, None, FailureKind.STATUS, FailureKind.RATE_LIMITED, FailureKind.REJECTED]),
    reads=st.integers(0, 6),
    usage=st.booleans(),
    end=st.sampled_from(["done", "finish", "cut", "hang"]),
    pause=st.booleans(),
)


@dataclass(frozen=True)
class Reader:
    """What the client does: reads so many events, then leaves, or stops reading, or goes on to the end."""

    events: int
    then: str


_readers = st.builds(Reader, events=st.integers(0, 6), then=st.sampled_from(["leave", "stall", "read", "read"]))


async def read(
    reader: Reader, service: RouterService, *, stream: bool, fill: FillLead | None
) -> tuple[list[Event], Exception | None]:
    seen: list[Event] = []
    try:
        handle = await service.complete(call_of(stream=stream, cache_ticket=TICKET, fill=fill))
        events = handle.events()
        while reader.then == "read" or len(seen) < reader.events:
            seen.append(await anext(events))
        if reader.then == "leave":
            handle.leave()
    except StopAsyncIteration:
        return seen, None
    except RouterError as error:
        return seen, error
    return seen, None


@settings(max_examples=150, deadline=None)
@given(
    scripts=st.lists(_scripts, min_size=2, max_size=2),
    reader=_readers,
    stream=st.booleans(),
    cancels=st.booleans(),
    away=st.fixed_dictionaries({name: st.integers(0, 2) for name in ("reserve", "settle", "release")}),
    stop_early=st.booleans(),
    followed=st.sampled_from([None, False, True]),
)
def test_every_history_ends_once(
    scripts: list[Script],
    reader: Reader,
    stream: bool,
    cancels: bool,
    away: dict[str, int],
    stop_early: bool,
    followed: bool | None,
) -> None:
    """``followed``: of a call that leads identical requests; None: it leads none."""

    async def history() -> None:
        ledger, cache, client = FakeLedger(away=away), FakeCache(), ScriptedClient(scripts)
        fills = FakeFills(Attended(True, bool(followed)))
        catalog = catalog_of(
            Source("a", "http://a", cancel_stops_billing=cancels), Source("b", "http://b", cancel_stops_billing=cancels)
        )
        service = RouterService(
            catalog=catalog,
            ledger=ledger,
            provider_keys=FakeProviderKeys(),
            cache=cache,
            flights=FakeFlights(),
            fills=fills,
            clients={WireFormat.OPENAI: client},
            has_secret=lambda _: True,
            count_tokens=lambda text, _: len(text.split()),
            new_salt=new_salt,
            clock=SystemClock(),
            limits=LIMITS,
            sleep=lambda _: asyncio.sleep(0),
        )
        reading = asyncio.create_task(read(reader, service, stream=stream, fill=None if followed is None else FILL))
        if not stop_early:
            await asyncio.wait([reading])
        await service.aclose(0.0 if stop_early else 5.0)
        seen, error = await reading
        check(ledger, cache, client, seen, error, reader)
        ends = [*fills.quits, *(fill for fill in cache.fills if fill)]
        assert len(ends) == (followed is not None), "a flight has one end"
        if followed and ledger.settled:
            assert ledger.settled["req_1"][0].outcome is not Outcome.CLIENT_GONE, "others wait for it"

    asyncio.run(history())


def check(
    ledger: FakeLedger,
    cache: FakeCache,
    client: ScriptedClient,
    seen: list[Event],
    error: Exception | None,
    reader: Reader,
) -> None:
    reserved = [name for name, _ in ledger.log if name == "reserve"]
    ends = [name for name, _ in ledger.log if name in {"settle", "release"}]
    assert len(ends) == len(reserved) <= 1, ledger.log
    assert not ledger.open_holds
    assert len(client.calls) == len(set(client.calls)) <= 2, "one retry at most, and on another source"
    payloads = [payload for event in seen if isinstance(event, ChunksEvent) for payload in event.payloads]
    assert payloads == client.given[: len(payloads)], "in order, nothing missing between"
    assert [type(event) for event in seen].count(RouteEvent) <= 1
    complete = bool(seen) and isinstance(seen[-1], FinalEvent)
    if complete:
        assert "req_1" in ledger.settled
        assert ledger.settled["req_1"][0].outcome is Outcome.COMPLETE
        assert payloads == client.given
    if reader.then == "read" and ledger.settled and not complete:
        assert error is not None, "who read to the end gets a last event or an error"
    for facts, attempts in ledger.settled.values():
        assert [attempt.won for attempt in attempts] == [False] * (len(attempts) - 1) + [True]
        if facts.usage.provenance is not Provenance.PROVIDER:
            assert all(cache.fills), "offered to who waits for it, not to be kept"
    if not ledger.settled:
        assert not cache.stored
