"""The trace, the ids and the log line of every request; and the bound on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from opentelemetry.trace import SpanKind, StatusCode

from meshkit.errors import MeshError
from meshkit.testing import SpanCollector
from tallygate.common.v1.errors_pb2 import ErrorReason

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/readyz"),
        ("GET", "/api/health"),
        ("GET", "/nowhere"),
        ("DELETE", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/receipts/none"),
    ],
)
async def test_every_response_has_its_ids(world: Any, method: str, path: str) -> None:
    first, second = [(await world.client.request(method, path)).headers for _ in range(2)]
    assert len(first["x-trace-id"]) == 32
    assert int(first["x-trace-id"], 16)
    assert first["x-trace-id"] != second["x-trace-id"]
    assert first["x-request-id"].startswith("req_")
    assert first["x-request-id"] != second["x-request-id"]


async def test_the_clients_trace_is_continued_into_the_mesh(world: Any) -> None:
    world.router.answers()
    response = await world.chat({"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert response.headers["x-trace-id"] == TRACE
    assert world.router.traceparents[0].startswith(f"00-{TRACE}-")


async def test_a_garbled_traceparent_begins_a_new_trace(world: Any) -> None:
    response = await world.client.get("/api/health", headers={"traceparent": f"00-{TRACE}-zz-01"})
    assert response.headers["x-trace-id"] not in {TRACE, "0" * 32}


async def test_the_span_of_a_request(traced: Any) -> None:
    world, spans = traced
    world.router.streams()
    await world.chat({"traceparent": f"00-{TRACE}-{PARENT}-01"}, stream=True)
    (span,) = [span for span in spans.finished("edge") if span.kind is SpanKind.SERVER and span.parent]
    assert span.name == "POST /v1/chat/completions"
    assert f"{span.parent.span_id:016x}" == PARENT
    attributes = dict(span.attributes)
    assert (
        attributes
        | {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.usage.input_tokens": 9,
            "gen_ai.usage.output_tokens": 6,
            "tallygate.served_mode": "fresh",
            "tallygate.receipt_id": "rcpt_fresh",
            "tallygate.key_id": "key_1",
        }
        == attributes
    )
    assert not any("Hello" in str(value) for value in attributes.values())
    calls = {call.name: call for call in spans.finished("edge") if call.kind is SpanKind.CLIENT}
    for name in ("cache.v1.CacheService/Lookup", "router.v1.RouterService/Complete"):
        assert calls[f"tallygate.{name}"].parent.span_id == span.context.span_id


async def test_the_span_of_a_refusal(traced: Any) -> None:
    world, spans = traced
    world.router.script = [MeshError(ErrorReason.ERROR_REASON_UPSTREAM_ERROR, "no")]
    await world.chat()
    await world.client.get("/v1/models/some/thing")
    await world.client.get("/nowhere")
    by_name = {span.name: span for span in spans.finished("edge") if span.kind is SpanKind.SERVER}
    failed = by_name["POST /v1/chat/completions"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "upstream_error"
    missing = by_name["GET /v1/models/{model_id}"]
    assert missing.status.status_code is StatusCode.UNSET
    assert missing.attributes["error.type"] == "model_not_found"
    assert "http.route" not in by_name["GET"].attributes


async def test_the_log_line_of_a_request_has_ids_and_no_content(world: Any) -> None:
    world.router.answers()
    with structlog.testing.capture_logs() as lines:
        response = await world.chat(messages=[{"role": "user", "content": "a secret prompt"}])
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["key_id"], line["org_id"]) == ("key_1", "org_1")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert line["receipt_id"] == "rcpt_fresh"
    assert "duration_ms" in line
    everything = repr(lines)
    assert "secret prompt" not in everything
    assert "tg-" not in everything


async def test_a_client_that_leaves_is_logged_as_such(world: Any, served: str) -> None:
    world.router.script = [asyncio.Event()]
    with structlog.testing.capture_logs() as lines:
        async with world.new_client(served) as client:
            asking = asyncio.create_task(
                client.post("/v1/chat/completions", content=b'{"model": "gpt-4o-mini", "messages": [{"role": "user"}]}')
            )
            await world.router.begun.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

            async def logged() -> bool:
                return any(line["event"] == "request" for line in lines)

            await world.until(logged)
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["status"], line["error_code"]) == (499, "client_gone")


async def test_one_more_than_the_bound_is_refused_and_health_still_answers(make_world: Any) -> None:
    world = await make_world(max_inflight=2)
    gate = asyncio.Event()
    world.router.script = [world.router.route(), gate, world.router.final(openai_body=b"{}")]
    running = [asyncio.create_task(world.chat()) for _ in range(2)]

    async def both_run() -> bool:
        return len(world.router.requests) == 2

    await world.until(both_run)
    refused = await world.chat()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert (await world.client.get("/readyz")).status_code == 200
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*running)] == [200, 200]
    assert (await world.chat()).status_code == 200


@pytest.fixture
async def traced(fresh_world: Any) -> Any:
    """A world whose edge records its spans, and the spans."""
    spans = SpanCollector()
    fresh_world.telemetry = spans.telemetry("edge")
    await fresh_world.start_edge()
    await fresh_world.ready()
    return fresh_world, spans
