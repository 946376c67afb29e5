"""`tallygate demo`: a real model answers, the same request is replayed, and both receipts are proved."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from meshkit.clock import SystemClock
from tallygate_deploy.checking import VerificationError
from tallygate_deploy.key_trust import Pinned, pinned_by_document
from tallygate_deploy.ledger_check import DEFAULT_GRACE_S
from tallygate_deploy.ledger_inspection import check, subject
from tallygate_deploy.processes import service_process, wait_for_file
from tallygate_deploy.span_receiver import Span, SpanReceiver, span_receiver
from tallygate_deploy.verify import Evidence, verify

MODEL = "local/smollm2-135m-instruct"
REQUEST = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "In one sentence: what was a tally stick used for?"}],
    "temperature": 0,
    "max_tokens": 60,
    "stream": True,
    "stream_options": {"include_usage": True},
}
REPLAY_OF_SERVICES = frozenset({"tallygate-edge", "tallygate-cache", "tallygate-ledger"})
FRESH_SERVICES = REPLAY_OF_SERVICES | {"tallygate-router"}
_TRACE_WITHIN_S = 20.0
_READY_WITHIN_S = 90.0
_STOP_AFTER_S = 45.0
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer, as a client sees it."""

    text: str
    served_mode: str
    trace_id: str
    receipt_id: str
    first_token_ms: float
    total_ms: float
    sent: bytes
    received: bytes
    """The request's body and the stream, to be held against the receipt."""


class DemoFailedError(Exception):
    """The demo did not show what it promises."""


async def run(mode: str) -> None:
    """The whole demo, on an installation of its own that is gone afterwards. ``mode`` is "mesh" or "up".

    Raises:
        DemoFailedError: a step did not show what it promises.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tallygate-demo-")))
        spans = await stack.enter_async_context(span_receiver())
        what = "five services" if mode == "mesh" else "all services in one process"
        _console.print(f"[bold]Starting[/] {what} and a chat model ...")
        ready = folder / "ready.json"
        child = await stack.enter_async_context(
            service_process(
                f"tallygate {mode}",
                "tallygate_deploy",
                spans.otel_environment(),
                arguments=(
                    mode,
                    "--port",
                    "0",
                    "--local-model",
                    "--data",
                    str(folder / "data"),
                    "--ready-file",
                    str(ready),
                ),
                log=folder / "output.log",
                stop_after_s=_STOP_AFTER_S,
            )
        )
        await wait_for_file(child, ready, within_s=_READY_WITHIN_S)
        facts = json.loads(ready.read_text(encoding="utf-8"))
        _console.print(f"Ready at {facts['base_url']}\n")
        await _story(facts["base_url"], facts["api_key"], spans, folder / "data")


async def _story(base_url: str, api_key: str, spans: SpanReceiver, data: Path) -> None:
    headers = {"Authorization": f"Bearer {api_key}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=120) as client:
        _console.print(f"[bold]1. Fresh[/]  {REQUEST['messages'][0]['content']}")  # type: ignore[index]
        fresh = await _ask(client)
        _console.print("\n[bold]2. The same request again[/]")
        replay = await _ask(client)
        receipts = [await _receipt(client, answer.receipt_id) for answer in (fresh, replay)]
        keys = await client.get(base_url.removesuffix("/v1") + "/.well-known/jwks.json")
        proofs = [(await client.get(f"/receipts/{answer.receipt_id}/proof")).json() for answer in (fresh, replay)]
    _print_receipts(receipts)
    _verify(list(zip(proofs, (fresh, replay), strict=True)), pinned_by_document(keys.json(), "jwks.json"))
    traces = [
        await spans.trace(fresh.trace_id, services=FRESH_SERVICES, within_s=_TRACE_WITHIN_S),
        await spans.trace(replay.trace_id, services=REPLAY_OF_SERVICES, within_s=_TRACE_WITHIN_S),
    ]
    for title, trace in zip(("fresh", "replay"), traces, strict=True):
        _console.print(f"\n[bold]The trace of the {title} answer[/]")
        _print_trace(trace)
    await _check_books(data)
    _conclude(fresh, replay, receipts, traces)


async def _check_books(data: Path) -> None:
    """As `tallygate ledger check` does, beside the running ledger."""
    async with subject(data, None, swept=True, pinned=None) as books:
        rulings = await check(books, now_ms=SystemClock().now_ms(), grace_s=DEFAULT_GRACE_S)
    for ruling in rulings:
        if not ruling.holds:
            raise DemoFailedError(f"the books are wrong: {ruling.rule}: {ruling.breaks[0].detail}")
    held = [ruling for ruling in rulings if not ruling.left_out]
    _console.print(f"\n[bold]The books[/]  {len(held)} rules hold, from double entry to the root of the log")


def _conclude(fresh: Answer, replay: Answer, receipts: list[dict[str, Any]], traces: list[list[Span]]) -> None:
    upstream_calls = sum(span.is_source_call for trace in traces for span in trace)
    fresh_usd, replay_usd = (Decimal(receipt["charged_usd"]) for receipt in receipts)
    checks = {
        "the first answer is fresh": fresh.served_mode == "fresh",
        "the second is an exact replay": replay.served_mode == "exact",
        "both have the same text": fresh.text == replay.text != "",
        "the source was called once": upstream_calls == 1,
        "the fresh answer cost something": fresh_usd > 0,
    }
    broken = [what for what, holds in checks.items() if not holds]
    if broken:
        raise DemoFailedError("; ".join(f"not shown: {what}" for what in broken))
    _console.print()
    summary = {
        "model": MODEL,
        "fresh_usd": str(receipts[0]["charged_usd"]),
        "replay_usd": str(receipts[1]["charged_usd"]),
        "replay_ratio": float(replay_usd / fresh_usd),
        "upstream_calls": upstream_calls,
        "trace_spans": sum(len(trace) for trace in traces),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


async def _ask(client: httpx.AsyncClient) -> Answer:
    """Send the request; print the tokens as they arrive."""
    began, first, text, receipt_id = time.monotonic(), None, "", ""
    lines: list[str] = []
    async with client.stream("POST", "/chat/completions", json=REQUEST) as response:
        if response.status_code != httpx.codes.OK:
            raise DemoFailedError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for event in _events(response, lines):
            if "error" in event:
                raise DemoFailedError(event["error"]["message"])
            receipt_id = event.get("tallygate", {}).get("receipt_id", receipt_id)
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and first is None:
                    first = time.monotonic()
                text += piece
                _console.print(piece, end="", style="cyan")
    ended = time.monotonic()
    answer = Answer(
        text=text,
        served_mode=response.headers["x-served-mode"],
        trace_id=response.headers["x-trace-id"],
        receipt_id=receipt_id,
        first_token_ms=((first or ended) - began) * 1000,
        total_ms=(ended - began) * 1000,
        sent=response.request.content,
        received="\n".join(lines).encode(),
    )
    _console.print(
        f"\n   [dim]{answer.served_mode}: first token after {answer.first_token_ms:.0f} ms, "
        f"whole answer after {answer.total_ms:.0f} ms[/]"
    )
    return answer


async def _events(response: httpx.Response, lines: list[str]) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; each of its lines is added to ``lines``."""
    async for line in response.aiter_lines():
        lines.append(line)
        payload = line.removeprefix("data: ")
        if payload not in {line, "[DONE]"}:
            yield json.loads(payload)


async def _receipt(client: httpx.AsyncClient, receipt_id: str) -> dict[str, Any]:
    response = await client.get(f"/receipts/{receipt_id}")
    response.raise_for_status()
    receipt: dict[str, Any] = response.json()
    return receipt


def _verify(proofs: list[tuple[dict[str, Any], Answer]], keys: Pinned) -> None:
    """Both proofs as `tallygate verify` checks them, and tampered copies of the last."""
    for proof, answer in proofs:
        _console.print(f"\n[bold]The proof of {proof['receipt_id']}[/]")
        try:
            for passed in verify(Evidence(proof, keys, request=answer.sent, answer=answer.received)):
                _console.print(f"   {passed}", highlight=False)
        except VerificationError as error:
            raise DemoFailedError(f"not proved: {error.check}: {error}") from error
    tampered = {
        "A copy with another place in the log": Evidence(
            proof | {"inclusion": proof["inclusion"] | {"leaf_index": 0}}, keys
        ),
        "One letter of the answer changed": Evidence(
            proof, keys, answer=answer.received.replace(b"content", b"Content", 1)
        ),
    }
    for what, evidence in tampered.items():
        try:
            list(verify(evidence))
        except VerificationError as error:
            _console.print(f"\n[bold]{what}[/]\n   [red]FAILED[/] {error.check}: {error}")
        else:
            raise DemoFailedError(f"not shown: a tampered proof is found: {what}")


def _print_receipts(receipts: list[dict[str, Any]]) -> None:
    table = Table(
        "receipt", "mode", "tokens in", "tokens out", "counted by", "held $", "charged $", "saved $", title="Receipts"
    )
    for receipt in receipts:
        usage = receipt["usage"]
        table.add_row(
            receipt["receipt_id"],
            receipt["served_mode"],
            str(usage["input_tokens"] + usage["cached_input_tokens"] + usage["cache_write_tokens"]),
            str(usage["output_tokens"] + usage["reasoning_tokens"]),
            usage["provenance"],
            receipt["held_usd"],
            receipt["charged_usd"],
            receipt["saved_usd"],
        )
    _console.print()
    _console.print(table)


def _print_trace(trace: list[Span]) -> None:
    """Spans as a tree, in order of their start."""
    known = {span.span_id for span in trace}
    children: dict[str, list[Span]] = {}
    for span in sorted(trace, key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def show(parent_id: str, depth: int) -> None:
        for span in children.get(parent_id, []):
            service = span.service_name.removeprefix("tallygate-")
            _console.print(f"   {'  ' * depth}{service:8} {span.name}  [dim]{span.duration_ms:.1f} ms[/]")
            show(span.span_id, depth + 1)

    show("", 0)
