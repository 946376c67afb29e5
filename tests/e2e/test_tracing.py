"""One trace over every hop, received over real OTLP."""

from __future__ import annotations

import secrets
from collections.abc import Set

import httpx
import pytest

from tallygate_deploy.span_receiver import Span
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import Gateway

WITHIN_S = 20.0
FRESH = {"tallygate-edge", "tallygate-cache", "tallygate-ledger", "tallygate-router"}


def spans_of(gateway: Gateway, trace_id: str, services: Set[str], background: BackgroundLoop) -> list[Span]:
    return background.run(gateway.spans.trace(trace_id, services=services, within_s=WITHIN_S))


@pytest.mark.parametrize("sent_by_client", [True, False], ids=["clients-context", "own-context"])
def test_a_fresh_stream_and_its_replay_are_one_trace_each(
    gateway: Gateway, background: BackgroundLoop, sent_by_client: bool
) -> None:
    question = [{"role": "user", "content": f"trace me, {secrets.token_hex(4)}"}]
    body = {"model": "test/ok", "messages": question, "temperature": 0, "stream": True}
    for served_mode, services in (("fresh", FRESH), ("exact", FRESH - {"tallygate-router"})):
        trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
        headers = {"Authorization": f"Bearer {gateway.api_key}"}
        if sent_by_client:
            headers["traceparent"] = f"00-{trace_id}-{parent_id}-01"
        answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.headers["x-served-mode"] == served_mode
        if sent_by_client:
            assert answer.headers["x-trace-id"] == trace_id
        spans = spans_of(gateway, answer.headers["x-trace-id"], services, background)
        by_id = {span.span_id: span for span in spans}
        (root,) = [span for span in spans if span.parent_id not in by_id]
        assert (root.service_name, root.kind) == ("tallygate-edge", "SERVER")
        assert root.parent_id == (parent_id if sent_by_client else "")
        source_calls = [span for span in spans if span.is_source_call]
        if served_mode == "exact":
            assert source_calls == []
            continue
        (source_call,) = source_calls
        assert source_call.service_name == "tallygate-router"
        assert source_call.attributes["gen_ai.usage.output_tokens"] > 0
        (call,) = gateway.upstream.calls
        assert (call.trace_id, call.parent_span_id) == (source_call.trace_id, source_call.span_id)


def test_no_span_holds_a_prompt_an_answer_or_a_secret(gateway: Gateway, background: BackgroundLoop) -> None:
    marker = f"private-{secrets.token_hex(8)}"
    body = {"model": "test/ok", "messages": [{"role": "user", "content": marker}], "temperature": 0}
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=60)
    spans = spans_of(gateway, answer.headers["x-trace-id"], FRESH, background)
    written = repr(spans) + gateway.process.log.read_text(encoding="utf-8", errors="replace")
    for log in gateway.process.data.glob("logs/*.log"):
        written += log.read_text(encoding="utf-8", errors="replace")
    assert marker not in written
    assert gateway.api_key not in repr(spans)
    assert "sk-scripted" not in written
