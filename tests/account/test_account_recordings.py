"""Recorded requests over HTTP: none unless the organisation opted in, its own only, within bounds, and forgotten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from typer.testing import CliRunner

from meshkit.testing import SpanCollector
from tallygate_deploy.cli import app
from tests.account.installation import Installation, Tenant, installed
from tests.harness.waiting import next_millisecond

RECORDINGS = "/v1/cache/recordings"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation() -> AsyncIterator[Installation]:
    """One for all: every test has organisations of its own."""
    async with installed() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(installation: Installation) -> Tenant:
    """An organisation."""
    return await installation.tenant()


async def record(tenant: Tenant, *, on: bool = True) -> None:
    """Turns the recording of an organisation on or off, as its administrator does."""
    answer = await tenant.http.patch("/v1/organization/cache", json={"record_requests": on})
    assert (answer.status_code, answer.json()["in_force"]["record_requests"]) == (200, on), answer.text


async def export(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    """The records, after their number and checksum were checked."""
    answer = await client.get(RECORDINGS, params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonl"), answer.text
    assert answer.headers["cache-control"] == "no-store"
    *lines, last = answer.content.splitlines(keepends=True)
    assert orjson.loads(last) == {
        "object": "export.summary",
        "rows": len(lines),
        "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
    }
    return [orjson.loads(line) for line in lines]


async def status(tenant: Tenant) -> dict[str, Any]:
    found: dict[str, Any] = (await tenant.http.get(f"{RECORDINGS}/status")).json()
    return found


async def test_nothing_is_recorded_unless_the_organisation_opted_in(tenant: Tenant) -> None:
    for _ in range(2):
        assert (await tenant.chat()).status_code == 200
    assert await export(tenant.http) == []
    found = await status(tenant)
    assert (found["records"], found["bytes"], found["oldest_at"], found["newest_at"]) == (0, 0, None, None)


async def test_requests_are_recorded_with_their_answers_and_prices(tenant: Tenant) -> None:
    await record(tenant)
    fresh = await tenant.chat("a question", user="alice@example.com", metadata={"ticket": "4711"})
    replay = await tenant.chat("a question", user="alice@example.com")
    sampled = await tenant.chat("a question", temperature=1)
    streamed = await tenant.chat("another", stream=True)
    assert replay.headers["x-served-mode"] == "exact"
    first, second, third, fourth = await export(tenant.http)
    assert first["body"]["messages"] == [{"role": "user", "content": "a question"}]
    assert b"alice" not in orjson.dumps([first, second])
    assert b"4711" not in orjson.dumps(first)
    assert first["body"] == second["body"] != third["body"]
    assert (first["served_mode"], first["receipt_id"]) == ("fresh", fresh.headers["x-receipt-id"])
    assert (second["served_mode"], second["receipt_id"], second["origin_receipt_id"]) == (
        "exact", None, fresh.headers["x-receipt-id"],
    )  # fmt: skip
    assert first["fresh_usd"] == fresh.headers["x-cost-usd"] == second["fresh_usd"]
    assert second["replay_usd"] == replay.headers["x-cost-usd"]
    assert first["answer"]["choices"] == fresh.json()["choices"] == second["answer"]["choices"]
    assert (third["why_not_stored"], third["receipt_id"]) == (
        "sampled: `temperature` is not 0", sampled.headers["x-receipt-id"],
    )  # fmt: skip
    assert fourth["answer"]["choices"][0]["message"]["content"]
    assert fourth["answer"]["object"] == "chat.completion", streamed.text
    assert {row["project_id"] for row in (first, second, third, fourth)} == {tenant.project_id}
    assert first["usage"]["provenance"] == "provider"
    assert first["cache"]["mode"] == "default"
    found = await status(tenant)
    assert (found["records"], found["dropped"]) == (4, {"busy": 0, "away": 0, "unfit": 0})
    assert 0 < found["bytes"] < found["max_bytes"]


async def test_a_request_that_forbids_keeping_is_not_recorded_and_a_key_that_does_not_cache_is(
    installation: Installation, tenant: Tenant
) -> None:
    await record(tenant)
    for header in ({"cache-control": "no-store"}, {"x-tallygate-cache": "off"}):
        body = {"model": "test/ok", "messages": [{"role": "user", "content": "private"}], "temperature": 0}
        answer = await tenant.chatting.post("/v1/chat/completions", json=body, headers=header)
        assert answer.status_code == 200
    assert await export(tenant.http) == []
    _, chatting = await installation.key(tenant, cache_default="off")
    for _ in range(2):
        answer = await chatting.post("/v1/chat/completions", json=body)
        assert answer.headers["x-served-mode"] == "fresh"
    rows = await export(tenant.http)
    assert [(row["cache"]["mode"], row["why_not_stored"]) for row in rows] == [("off", "the cache was off")] * 2


async def test_only_an_account_key_of_the_organisation_reads_them(installation: Installation, tenant: Tenant) -> None:
    other = await installation.tenant("Other")
    await record(tenant)
    await tenant.chat("only ours")
    await other.chat("only theirs")
    assert [row["body"]["messages"][0]["content"] for row in await export(tenant.reading)] == ["only ours"]
    assert await export(other.http) == []
    assert (await status(other))["records"] == 0
    for path in (RECORDINGS, f"{RECORDINGS}/status"):
        refused = await tenant.chatting.get(path)
        assert (refused.status_code, "account key" in refused.text) == (403, True)
        assert (await (await installation.client()).get(path)).status_code == 401
    assert (await tenant.reading.delete(RECORDINGS)).status_code == 403
    assert (await tenant.chatting.delete(RECORDINGS)).status_code == 403
    assert (await other.http.delete(RECORDINGS)).json() == {"object": "cache.recordings", "forgotten": 0}
    assert len(await export(tenant.http)) == 1
    wrong = await tenant.http.get(RECORDINGS, params={"days": 367})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "days")
    assert len(await export(tenant.http, days="1")) == 1


async def test_forgetting_forgets_what_is_under_way_too(installation: Installation, tenant: Tenant) -> None:
    await record(tenant)
    await tenant.chat("before")
    under_way = asyncio.create_task(tenant.chat("slow", model="test/gated"))
    await installation.upstream.wait_until(lambda calls: calls[-1].model == "test/gated")
    assert (await tenant.http.delete(RECORDINGS)).json()["forgotten"] == 1
    installation.upstream.release()
    assert (await under_way).status_code == 200
    assert await export(tenant.http) == []
    next_millisecond()
    await tenant.chat("after")
    assert [row["body"]["messages"][0]["content"] for row in await export(tenant.http)] == ["after"]


async def test_turning_it_off_forgets(tenant: Tenant) -> None:
    await record(tenant)
    await tenant.chat("recorded")
    project = await tenant.http.patch(f"/v1/projects/{tenant.project_id}/cache", json={"ttl_s": 60})
    assert project.status_code == 200
    assert len(await export(tenant.http)) == 1, "other changes of the policy forget nothing"
    await record(tenant, on=False)
    assert await export(tenant.http) == []
    await tenant.chat("not recorded")
    await record(tenant)
    await tenant.chat("by an edge that may not have heard")
    assert await export(tenant.http) == []


async def test_a_purge_of_all_forgets_and_one_of_some_does_not(tenant: Tenant) -> None:
    await record(tenant)
    await tenant.chat("recorded")
    for narrowed in ({"model": "test/ok"}, {"project_id": tenant.project_id}, {"key_prefix": "0" * 8}):
        assert (await tenant.http.post("/v1/cache/purge", json=narrowed)).status_code == 200
    assert len(await export(tenant.http)) == 1
    assert (await tenant.http.post("/v1/cache/purge")).status_code == 200
    assert await export(tenant.http) == []


async def test_an_export_is_whole_in_pieces_and_leaves_no_prompt_behind() -> None:
    secret, spans = "what nobody else may read", SpanCollector()
    with capture_logs() as logs:
        async with installed(make_telemetry=spans.telemetry) as installation:
            tenant = await installation.tenant()
            await record(tenant)
            for number in range(5):
                await tenant.chat(secret + "x" * 300_000, seed=number)
            rows = await export(tenant.http)
            await tenant.http.delete(RECORDINGS)
    assert [row["body"]["seed"] for row in rows] == list(range(5)), "of more than one page"
    assert [log["org_id"] for log in logs if log["event"] == "recordings_exported"] == [tenant.org_id]
    everything = [repr(logs), *(span.to_json() for span in spans.finished())]
    assert len(everything) > 20
    assert not [text for text in everything if secret in text]


async def test_the_command_says_what_the_organisation_would_have_saved(
    installation: Installation, tenant: Tenant, tmp_path: Path
) -> None:
    """With a key that does not cache: each of the three repeats is fresh, and so is what it is compared with."""
    await record(tenant)
    _, chatting = await installation.key(tenant, cache_default="off")
    costs = []
    for text in ("one", "two", "one", "one", "two", "three"):
        body = {"model": "test/ok", "messages": [{"role": "user", "content": text}], "temperature": 0}
        answer = await chatting.post("/v1/chat/completions", json=body)
        costs.append(answer.headers["x-cost-usd"])
    path = tmp_path / "recorded.jsonl"
    path.write_bytes((await tenant.http.get(RECORDINGS)).content)
    arguments = ["cache-safety", "--from-log", "--file", str(path), "--tier", "exact"]
    told = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert told.exit_code == 0, told.output
    said = orjson.loads(told.stdout.splitlines()[-1])
    assert (said["requests"], said["hits"], said["judged"], said["differ"]) == (6, 3, 3, 0)
    repeated = sum(round(float(cost) * 1e9) for cost in (costs[2], costs[3], costs[4]))
    assert round(float(said["hits_fresh_usd"]) * 1e9) == repeated
    assert repeated // 4 <= round(float(said["hits_replay_usd"]) * 1e9) <= repeated // 4 + 3
