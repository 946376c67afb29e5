"""Usage, requests and exports over HTTP, of real completions: fresh, replayed, refused, failed, tagged."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from meshkit.money import parse_usd
from tallygate.ledger.v1 import ledger_pb2, usage_pb2, usage_pb2_grpc
from tests.account.installation import MODEL, TIMEOUT_S, Installation, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(tenant: Tenant, path: str, **params: Any) -> Any:
    answer = await tenant.reading.get(f"/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest_asyncio.fixture(loop_scope="module")
async def history(installation: Installation, tenant: Tenant) -> dict[str, httpx.Response]:
    """A fresh answer, its replay, one with other tags, a failure of the source, a refusal."""
    search = {"team": "search", "env": "prod"}
    answers = {
        "fresh": await tenant.chat("one", metadata=search),
        "replay": await tenant.chat("one", metadata={"team": "ads"}),
        "untagged": await tenant.chat("two"),
        "failed": await tenant.chat("three", model="test/500", metadata=search),
        "unknown": await tenant.chat("four", model="no/such-model"),
    }
    assert [answer.status_code for answer in answers.values()] == [200, 200, 200, 502, 404]
    assert answers["replay"].headers["x-served-mode"] == "exact"  # tags are not of the cache's key
    await until_errors(tenant, 2)
    return answers


async def until_errors(tenant: Tenant, count: int) -> None:
    """The edge tells of failures every second; the test's own timeout ends it."""
    while (await get(tenant, "/usage"))["total"]["errors"] < count:
        pass


async def test_usage_is_summed_up_by_everything(tenant: Tenant, history: dict[str, httpx.Response]) -> None:
    costs = [parse_usd(history[name].headers["x-cost-usd"]) for name in ("fresh", "replay", "untagged")]
    total = (await get(tenant, "/usage"))["total"]
    assert (total["requests"], total["errors"]) == (3, 2)
    assert parse_usd(total["cost_usd"]) == sum(costs)
    assert parse_usd(total["saved_usd"]) > 0
    assert total["latency_ms"].keys() == {"p50", "p90", "p99"}
    expected: dict[str, dict[str | None, tuple[int, int]]] = {
        "key": {tenant.inference_key: (3, 2)},
        "project": {tenant.project_id: (3, 2)},
        "model": {MODEL: (3, 0), "test/500": (0, 1), None: (0, 1)},
        "source": {"scripted": (3, 0), None: (0, 2)},
        "tier": {"passthrough": (3, 0), None: (0, 2)},
        "served_mode": {"fresh": (2, 0), "exact": (1, 0), None: (0, 2)},
        "tag:team": {"search": (1, 1), "ads": (1, 0), None: (1, 1)},
    }
    for name, groups in expected.items():
        report = await get(tenant, "/usage", days=2, group_by=name)
        assert {row[name]: (row["requests"], row["errors"]) for row in report["data"]} == groups
        assert report["total"]["cost_usd"] == total["cost_usd"]
        assert (report["object"], report["group_by"]) == ("usage", [name])
    by_two = await get(tenant, "/usage", group_by="day,tag:env", key_id=tenant.inference_key)
    assert [(row["tag:env"], row["requests"]) for row in by_two["data"]] == [("prod", 1), (None, 2)]
    assert by_two["data"][0]["day"] <= by_two["data"][1]["day"]
    by_hour = await get(tenant, "/usage", group_by=["hour", "served_mode"], model=MODEL)
    assert all(row["hour"].endswith(":00:00Z") for row in by_hour["data"])
    assert sum(row["requests"] for row in by_hour["data"]) == 3


async def test_requests_are_listed_filtered_and_found(tenant: Tenant, history: dict[str, httpx.Response]) -> None:
    listed, cursor = [], ""
    while cursor is not None:
        page = await get(tenant, "/requests", limit=2, cursor=cursor)
        listed += page["data"]
        cursor = page["next_cursor"]
    by_id = {entry["id"]: entry for entry in listed}
    assert by_id.keys() == {answer.headers["x-request-id"] for answer in history.values()}
    assert [entry["at"] for entry in listed] == sorted((entry["at"] for entry in listed), reverse=True)
    fresh, failed = (by_id[history[name].headers["x-request-id"]] for name in ("fresh", "failed"))
    assert (fresh["status"], fresh["served_mode"], fresh["tags"]) == ("ok", "fresh", {"team": "search", "env": "prod"})
    assert fresh["receipt_id"] == history["fresh"].headers["x-receipt-id"]
    assert fresh["trace_id"] == history["fresh"].headers["x-trace-id"]
    assert fresh["cost_usd"] == history["fresh"].headers["x-cost-usd"]
    assert 0 <= fresh["latency_ms"] < 20_000
    assert (failed["status"], failed["http_status"], failed["error_code"]) == ("error", 502, "upstream_error")
    assert (failed["receipt_id"], failed["cost_usd"], failed["model"]) == (None, "0", "test/500")
    assert await get(tenant, f"/requests/{fresh['id']}") == fresh
    assert await get(tenant, f"/requests/{failed['id']}") == failed
    counts = {
        "status=ok": 3,
        "status=error": 2,
        "served_mode=exact": 1,
        "source=scripted": 3,
        "tag=team=search": 2,
        "tag=team=nobody": 0,
        "model=test/500": 1,
        f"key_id={tenant.inference_key}": 5,
        "project_id=prj_other": 0,
        f"from={fresh['at'] + 3_600}": 0,
    }
    for asked, count in counts.items():
        name, _, value = asked.partition("=")
        assert len((await get(tenant, "/requests", **{name: value}))["data"]) == count, asked


async def test_a_header_beats_metadata_and_stands_on_the_receipt(tenant: Tenant) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    sent = body | {"metadata": {"team": "search", "a": "b"}}
    headers = {"x-tallygate-tags": "team=ads, env = prod "}
    answer = await tenant.chatting.post("/v1/chat/completions", json=sent, headers=headers)
    receipt = (await tenant.reading.get(f"/v1/receipts/{answer.headers['x-receipt-id']}")).json()
    assert receipt["tags"] == {"team": "ads", "a": "b", "env": "prod"}
    assert receipt["started_at"] <= receipt["created_at"]


@pytest.mark.parametrize(
    ("metadata", "header"),
    [
        ({"a": 1}, ""),
        ([], ""),
        ({"a" * 65: "b"}, ""),
        ({"": "b"}, ""),
        ({"a": "b" * 513}, ""),
        ({"a": "b\0"}, ""),
        ({"\U0001f600": "b"}, ""),
        ({str(n): "" for n in range(17)}, ""),
        ({}, "a"),
        ({}, "a=b,a=c"),
        ({}, "=b"),
        ({str(n): "" for n in range(16)}, "one=more"),
    ],
)
async def test_tags_out_of_bounds_are_refused(tenant: Tenant, metadata: Any, header: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "metadata": metadata}
    headers = {"x-tallygate-tags": header} if header else {}
    answer = await tenant.chatting.post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "params",
    [
        {"days": 0},
        {"days": 367},
        {"days": 1, "from": 5},
        {"to": 5},
        {"from": 5, "to": 5},
        {"from": 0, "to": 2**40},
        {"from": 2**60},
        {"group_by": "colour"},
        {"group_by": "day,hour"},
        {"group_by": "key,model,tier"},
        {"group_by": "tag:a,tag:b"},
        {"group_by": "tag:"},
        {"group_by": "tag:\0"},
        {"model": "\0"},
    ],
)
async def test_a_question_that_means_nothing_is_refused(tenant: Tenant, params: dict[str, Any]) -> None:
    answer = await tenant.http.get("/v1/usage", params=params)
    assert answer.status_code == 400, answer.text


async def test_another_organisation_sees_nothing_of_it(
    installation: Installation, history: dict[str, httpx.Response]
) -> None:
    other = await installation.tenant("Other")
    assert (await get(other, "/usage"))["total"]["requests"] == 0
    assert (await get(other, "/requests"))["data"] == []
    request_id = history["fresh"].headers["x-request-id"]
    assert (await other.http.get(f"/v1/requests/{request_id}")).status_code == 404
    assert (await other.chatting.get("/v1/usage")).status_code == 403


def checked(export: bytes) -> list[dict[str, Any]]:
    """The rows of an export as JSON lines, whose checksum is right."""
    *lines, last = export.splitlines(keepends=True)
    summary = json.loads(last)
    assert (summary["object"], summary["rows"]) == ("export.summary", len(lines))
    assert summary["sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()
    return [json.loads(line) for line in lines]


async def test_the_ledger_is_exported_and_reconciles(
    installation: Installation, tenant: Tenant, history: dict[str, httpx.Response]
) -> None:
    for kind, amount in ((ledger_pb2.CREDIT_KIND_PROMOTIONAL, 1_000), (ledger_pb2.CREDIT_KIND_PAID, 7)):
        credit = ledger_pb2.AddCreditRequest(
            org_id=tenant.org_id, amount_nano_usd=amount, idempotency_key=str(amount), kind=kind
        )
        await installation.ledger.AddCredit(credit, timeout=TIMEOUT_S)
    await tenant.chat("promotional pays first")
    correction = ledger_pb2.CorrectChargeRequest(
        org_id=tenant.org_id,
        receipt_id=history["fresh"].headers["x-receipt-id"],
        amount_nano_usd=1_000,
        idempotency_key="c",
    )
    await installation.ledger.CorrectCharge(correction, timeout=TIMEOUT_S)
    refund = ledger_pb2.RefundCreditRequest(org_id=tenant.org_id, amount_nano_usd=5, idempotency_key="r")
    await installation.ledger.RefundCredit(refund, timeout=TIMEOUT_S)
    balance = await installation.ledger.GetBalance(
        ledger_pb2.GetBalanceRequest(org_id=tenant.org_id), timeout=TIMEOUT_S
    )
    answer = await tenant.reading.get("/v1/exports/ledger")
    assert answer.headers["content-type"] == "application/jsonl"
    opening, *movements, closing = checked(answer.content)
    assert (opening["kind"], opening["balance_usd"]) == ("opening", "0")
    assert (closing["kind"], closing["amount_usd"]) == ("closing", "0")
    assert parse_usd(closing["balance_usd"]) == balance.balance.posted_nano_usd
    assert sum(signed_usd(row["amount_usd"]) for row in movements) == balance.balance.posted_nano_usd
    assert movements[-1]["balance_usd"] == closing["balance_usd"]
    kinds = [row["kind"] for row in movements]
    assert {kind: kinds.count(kind) for kind in kinds} == {"credit": 3, "charge": 5, "correction": 1, "refund": 1}
    charged = {row["receipt_id"] for row in movements if row["kind"] == "charge"}
    assert {history[name].headers["x-receipt-id"] for name in ("fresh", "replay", "untagged")} < charged
    usage = await get(tenant, "/usage")
    assert -sum(signed_usd(row["amount_usd"]) for row in movements if row["kind"] == "charge") == parse_usd(
        usage["total"]["cost_usd"]
    )
    assert usage["total"]["corrected_usd"] == "0.000001"
    later = checked((await tenant.reading.get("/v1/exports/ledger", params={"from": 2**33})).content)
    assert [row["balance_usd"] for row in later] == [closing["balance_usd"]] * 2
    earlier = checked((await tenant.reading.get("/v1/exports/ledger", params={"to": 5})).content)
    assert [row["balance_usd"] for row in earlier] == ["0", "0"]


def signed_usd(text: str) -> int:
    return -parse_usd(text[1:]) if text.startswith("-") else parse_usd(text)


async def test_requests_are_exported_as_lines_and_as_a_table(
    tenant: Tenant, history: dict[str, httpx.Response]
) -> None:
    refused = await tenant.chat("five", model="=HYPERLINK(1)")
    assert refused.status_code == 404
    await until_errors(tenant, 3)
    rows = checked((await tenant.reading.get("/v1/exports/requests")).content)
    listed = (await get(tenant, "/requests"))["data"]
    assert rows == listed
    answer = await tenant.reading.get("/v1/exports/requests", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    body, _, last = answer.text.rstrip("\r\n").rpartition("\r\n")
    digest = hashlib.sha256(f"{body}\r\n".encode()).hexdigest()
    assert last == f"# rows=6 sha256={digest}"
    table = list(csv.DictReader(io.StringIO(body)))
    assert [row["id"] for row in table] == [entry["id"] for entry in listed]
    assert table[0]["requested_model"] == "'=HYPERLINK(1)"
    assert json.loads(table[-1]["tags"]) == {"team": "search", "env": "prod"}


async def test_an_export_of_many_rows_takes_little_memory(installation: Installation, tenant: Tenant) -> None:
    """100,000 requests, of which most are refusals: they are made quicker, and take the same way."""
    stub = usage_pb2_grpc.UsageServiceStub(installation.ledger_channel)
    for low in range(0, 100_000, 1_000):
        failures = [
            usage_pb2.FailedRequest(
                request_id=f"req_many{n:06}",
                org_id=tenant.org_id,
                project_id=tenant.project_id,
                key_id=tenant.inference_key,
                requested_model=MODEL,
                http_status=429,
                error_code="rate_limit_exceeded",
                at_ms=1_750_000_000_000 + n,
            )
            for n in range(low, low + 1_000)
        ]
        await stub.RecordFailures(usage_pb2.RecordFailuresRequest(failures=failures), timeout=TIMEOUT_S)
    rows, hashed, held, last = 0, hashlib.sha256(), b"", b""
    before, most = resident_bytes(), 0
    async for piece in streamed(installation, tenant):
        *lines, held = (held + piece).split(b"\n")
        for last in lines:
            hashed.update(b"" if b"export.summary" in last else last + b"\n")
            rows += 1
        most = max(most, resident_bytes())
    summary = json.loads(last)
    assert (summary["rows"], summary["sha256"]) == (100_000, hashed.hexdigest())
    assert rows == 100_001
    assert most - before < 24 * 1024 * 1024  # the export itself has 50 MB
    assert (await get(tenant, "/usage", **{"from": 1_750_000_000, "to": 1_750_090_000}))["total"]["errors"] == 100_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


async def streamed(installation: Installation, tenant: Tenant) -> Any:
    """The body of an export piece by piece: httpx's own transport for applications collects it first."""
    pieces: Any = asyncio.Queue(1)
    headers = [(b"authorization", tenant.reading.headers["authorization"].encode())]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/v1/exports/requests",
        "raw_path": b"/v1/exports/requests",
    }
    scope |= {"query_string": b"", "headers": headers, "client": None, "server": None, "scheme": "http"}
    scope |= {"http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": ""}
    gone = asyncio.Event()

    async def receive() -> Any:
        if gone.is_set():
            await asyncio.Event().wait()
        gone.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await pieces.put((message["body"], message.get("more_body", False)))

    task = asyncio.create_task(installation.app(scope, receive, send))
    more = True
    while more:
        piece, more = await pieces.get()
        yield piece
    await task
