"""The router as its neighbours see it: wired by ``build``, over stubs, on every transport."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from router_neighbours import Neighbours, meshed, neighbours_at_rest, request_of, snapshot_of
from router_rig import (
    ScriptedSource,
    chunk,
    completion_body,
    hang,
    json_answer,
    sse,
    stream_answer,
    usage_block,
    usage_chunk,
)

from meshkit.errors import MeshError, mesh_errors
from meshkit.testing import TRANSPORTS, SpanCollector
from router_svc.settings import source_secret
from router_svc.sources.http.by_aiohttp import AiohttpHttp
from router_svc.sources.http.own import OwnHttp
from tallygate.cache.v1 import cache_pb2
from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1 import actor_pb2, money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tallygate.router.v1 import router_pb2

if TYPE_CHECKING:
    from tallygate.router.v1.router_pb2_grpc import RouterServiceAsyncStub


@pytest.fixture
def neighbours(source: ScriptedSource) -> Neighbours:
    made = neighbours_at_rest()
    made.snapshots.put_nowait(snapshot_of(source.base_url, cancel_stops_billing=True))
    return made


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_fresh_stream(neighbours: Neighbours, transport: str) -> None:
    asked = cache_pb2.Asked(at_ms=1, controls=cache_pb2.CacheControls(allow_sampled=True))
    ticket = cache_pb2.Ticket(key=b"k" * 32, endpoint="chat/completions", model="m", policy_epoch="e1", asked=asked)
    async with meshed(neighbours, transport) as router:
        events = [e async for e in router.Complete(request_of(cache_ticket=ticket), timeout=10)]

    assert events[0].WhichOneof("event") == "route"
    assert (events[0].route.source_id, events[0].route.held_nano_usd) == ("a", neighbours.reserved[0].amount_nano_usd)
    payloads = [payload for event in events for payload in event.chunks.payloads]
    assert payloads == [chunk("Hel"), chunk("lo!"), chunk(finish="stop")]
    final = events[-1].final
    assert (final.receipt_id, final.charged_nano_usd, final.usage_chunk) == ("rcpt_1", 7, usage_chunk())
    assert final.usage.provenance == money_pb2.USAGE_PROVENANCE_PROVIDER
    (settle,) = neighbours.settled
    assert (settle.facts.requested_model, settle.facts.model, settle.facts.upstream_model) == ("alias", "m", "up")
    assert settle.facts.served_mode == ledger_pb2.SERVED_MODE_FRESH
    assert settle.facts.outcome == ledger_pb2.OUTCOME_COMPLETE
    assert settle.attempts[0].won
    (store,) = neighbours.stored
    assert store.ticket == ticket
    assert list(store.answer_chunks) == [*payloads, usage_chunk()]


async def test_a_fresh_plain_answer(neighbours: Neighbours, source: ScriptedSource) -> None:
    source.script = [json_answer(completion_body(usage=usage_block()))]
    async with meshed(neighbours) as router:
        events = [e async for e in router.Complete(request_of(stream=False), timeout=10)]
    assert [event.WhichOneof("event") for event in events] == ["route", "final"]
    assert events[-1].final.openai_body == completion_body(usage=usage_block())


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("reads", [0, 2])
async def test_a_cancelled_call_ends_in_the_ledger(
    neighbours: Neighbours, source: ScriptedSource, transport: str, reads: int
) -> None:
    source.script = [stream_answer(sse(chunk("one two"), done=False), asyncio.Event()) if reads else hang]
    async with meshed(neighbours, transport) as router:
        call = router.Complete(request_of(), timeout=10)
        for _ in range(reads):
            await call.read()
        async with asyncio.timeout(10):
            await source.called.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await neighbours.ended.wait()
    if reads:
        assert neighbours.settled[0].facts.outcome == ledger_pb2.OUTCOME_CLIENT_GONE
        assert neighbours.settled[0].facts.usage.provenance == money_pb2.USAGE_PROVENANCE_ESTIMATED
    else:
        assert neighbours.released[0].attempts[0].failure == "client_gone"
    assert len(neighbours.settled) + len(neighbours.released) == 1


async def test_a_call_whose_deadline_passes_ends_in_the_ledger(neighbours: Neighbours, source: ScriptedSource) -> None:
    source.script = [stream_answer(sse(chunk("one"), done=False), asyncio.Event())]
    async with meshed(neighbours) as router:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in router.Complete(request_of(), timeout=0.5):
                pass
        async with asyncio.timeout(10):
            await neighbours.ended.wait()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert neighbours.settled[0].facts.outcome == ledger_pb2.OUTCOME_CLIENT_GONE


async def test_a_settlement_outlives_a_ledger_that_restarts(neighbours: Neighbours) -> None:
    neighbours.settle_failures = 2
    async with meshed(neighbours) as router:
        events = [e async for e in router.Complete(request_of(), timeout=10)]
    assert events[-1].final.receipt_id == "rcpt_1"
    assert len(neighbours.settled) == 1


async def plan_of(router: RouterServiceAsyncStub) -> router_pb2.PlanResponse:
    request = router_pb2.PlanRequest(endpoint="chat/completions", model="m", openai_body=request_of().openai_body)
    return await router.Plan(request, timeout=10)


async def refusal_of(router: RouterServiceAsyncStub, request: router_pb2.CompleteRequest) -> MeshError:
    with pytest.raises(MeshError) as raised, mesh_errors():
        async for _ in router.Complete(request, timeout=10):
            pass
    return raised.value


async def test_the_ledgers_refusal_arrives_as_it_is(neighbours: Neighbours, source: ScriptedSource) -> None:
    neighbours.refuse_reserve = True
    async with meshed(neighbours) as router:
        error = await refusal_of(router, request_of())
    assert error.reason == ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE
    assert error.metadata == {"available_usd": "0.1"}
    assert error.status is grpc.StatusCode.FAILED_PRECONDITION
    assert source.calls == 0
    assert neighbours.released == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "nope"}, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND),
        ({"model": "unpriced"}, ErrorReason.ERROR_REASON_PRICE_UNKNOWN),
        ({"openai_body": b"{"}, ErrorReason.ERROR_REASON_INVALID_REQUEST),
        ({"endpoint": "embeddings"}, ErrorReason.ERROR_REASON_INVALID_REQUEST),
        (
            {"openai_body": b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]}'},
            ErrorReason.ERROR_REASON_INVALID_REQUEST,
        ),
    ],
)
async def test_what_can_not_be_planned_is_refused_before_anything_is_held(
    neighbours: Neighbours, fields: dict[str, Any], reason: int
) -> None:
    async with meshed(neighbours) as router:
        error = await refusal_of(router, request_of(**fields))
    assert error.reason == reason
    assert neighbours.reserved == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json_answer(b"{}", 500), ErrorReason.ERROR_REASON_UPSTREAM_ERROR),
        (json_answer(b"{}", 429), ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED),
        (json_answer(b'{"error":{"message":"no","param":"p"}}', 400), ErrorReason.ERROR_REASON_UPSTREAM_REJECTED),
    ],
)
async def test_failures_of_sources_have_their_reasons(
    neighbours: Neighbours, source: ScriptedSource, answer: Any, reason: int
) -> None:
    source.script = [answer]
    async with meshed(neighbours) as router:
        error = await refusal_of(router, request_of())
    assert error.reason == reason
    assert len(neighbours.released) == 1


async def test_plan_tells_whom_it_would_try_and_whom_not(neighbours: Neighbours, source: ScriptedSource) -> None:
    async with meshed(neighbours) as router:
        plan = await plan_of(router)
    assert [(c.offer_id, c.upstream_model, c.price.offer_id) for c in plan.candidates] == [("a/m", "up", "a/m")]
    assert plan.hold_nano_usd == plan.candidates[0].worst_case_nano_usd > 0
    (rejection,) = plan.rejections
    assert (rejection.offer_id, rejection.reason) == ("keyless/m", router_pb2.Rejection.REASON_NOT_CONFIGURED)
    assert rejection.detail == "TALLYGATE_TEST_UNSET_KEY is not set"
    assert plan.catalog_revision == "rev1"
    assert source.calls == 0
    assert neighbours.reserved == []


async def test_requests_before_the_first_snapshot_wait_a_bounded_time(source: ScriptedSource) -> None:
    late = neighbours_at_rest()
    async with meshed(late, catalog_wait_s=0.1) as router:
        error = await refusal_of(router, request_of())
        assert error.reason == ErrorReason.ERROR_REASON_UNAVAILABLE
        call = router.Complete(request_of(), timeout=10)
    async with meshed(late, catalog_wait_s=5.0) as router:
        call = router.Complete(request_of(), timeout=10)
        late.snapshots.put_nowait(snapshot_of(source.base_url))
        assert [event async for event in call][-1].final.receipt_id == "rcpt_1"


async def test_the_watch_is_taken_up_again_and_follows_revisions(
    neighbours: Neighbours, source: ScriptedSource
) -> None:
    async with meshed(neighbours) as router:
        await router.Plan(
            router_pb2.PlanRequest(endpoint="chat/completions", model="m", openai_body=request_of().openai_body),
            timeout=10,
        )
        neighbours.snapshots.put_nowait(catalog_pb2.Snapshot())
        neighbours.snapshots.put_nowait(snapshot_of(source.base_url, "rev2"))
        async with asyncio.timeout(10):
            while (await plan_of(router)).catalog_revision != "rev2":  # noqa: ASYNC110 - no event crosses an RPC
                await asyncio.sleep(0.01)
    assert neighbours.watches == ["", "rev1"]


async def test_a_call_of_a_source_is_a_span_and_carries_the_trace(
    neighbours: Neighbours, source: ScriptedSource
) -> None:
    spans = SpanCollector()
    async with meshed(neighbours, spans=spans) as router:
        async for _ in router.Complete(request_of(), timeout=10):
            pass
    (span,) = [s for s in spans.finished("router") if s.name == "chat up"]
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "a",
        "gen_ai.request.model": "up",
        "gen_ai.response.model": "up",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": int(source.base_url.split(":")[2].split("/")[0]),
        "http.response.status_code": 200,
    }
    assert span.context is not None
    trace_id, span_id = f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"
    assert source.headers[0]["traceparent"].startswith(f"00-{trace_id}-{span_id}-")
    assert neighbours.settled[0].facts.trace_id == trace_id
    background = {"WatchSnapshot", "GetSnapshot", "RecordCatalogRevision", "WatchProviderKeys"}
    assert {
        s.context.trace_id for s in spans.finished("router") if s.context and s.name.split("/")[-1] not in background
    } == {span.context.trace_id}


@pytest.mark.parametrize(
    ("settings", "client"),
    [({}, "OwnHttp"), ({"source_http": "own"}, "OwnHttp"), ({"source_http": "aiohttp"}, "AiohttpHttp")],
)
async def test_sources_are_called_with_the_http_client_that_was_asked_for(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], client: str
) -> None:
    used: list[str] = []
    for each in (OwnHttp, AiohttpHttp):
        plain = each.post

        async def post(self: object, *args: Any, plain: Any = plain, **fields: Any) -> Any:
            used.append(type(self).__name__)
            return await plain(self, *args, **fields)

        monkeypatch.setattr(each, "post", post)
    async with meshed(neighbours, **settings) as router:
        async for _ in router.Complete(request_of(), timeout=10):
            pass
    assert used == [client]


async def test_the_http_client_logs_no_requests(neighbours: Neighbours, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with meshed(neighbours) as router:
        async for _ in router.Complete(request_of(), timeout=10):
            pass
    assert [record for record in caplog.records if record.name.startswith(("httpx", "aiohttp"))] == []


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SOURCE_KEY", "sk-1")
    monkeypatch.setenv("EMPTY_SOURCE_KEY", "")
    secret = source_secret("SOME_SOURCE_KEY")
    assert secret is not None
    assert (secret.get_secret_value(), "sk-1" in repr(secret)) == ("sk-1", False)
    assert source_secret("EMPTY_SOURCE_KEY") is None
    assert source_secret("NO_SUCH_SOURCE_KEY") is None
    assert source_secret("") is None


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_audit_trail_is_told_of_each_revision(neighbours: Neighbours, transport: str) -> None:
    async with meshed(neighbours, transport):
        first = await neighbours.told.get()
        dear = snapshot_of("http://a", "rev2")
        dear.offers[0].price.rate_tiers[0].rates.input_pico_usd += 1
        del dear.offers[1]
        neighbours.snapshots.put_nowait(dear)
        second = await neighbours.told.get()
    assert (first.revision, first.previous_revision) == ("rev1", "")
    assert list(first.added_offer_ids) == ["a/m", "a/unpriced", "keyless/m"]
    assert (second.revision, second.previous_revision, second.price_change_count) == ("rev2", "rev1", 1)
    (change,) = second.price_changes
    rates = [price.rate_tiers[0].rates.input_pico_usd for price in (change.before, change.after)]
    assert (change.offer_id, rates[1] - rates[0]) == ("a/m", 1)
    assert list(second.removed_offer_ids) == ["keyless/m"]
    assert (second.actor.kind, second.actor.id) == (actor_pb2.ACTOR_KIND_SYSTEM, "catalog")
