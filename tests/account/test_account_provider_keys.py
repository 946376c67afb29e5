"""Own keys over HTTP: brought, used for that organisation only, billed at the fee, and never seen again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from meshkit.testing import SpanCollector
from tallygate.ledger.v1 import ledger_pb2
from tests.account.installation import TIMEOUT_S, Installation, Tenant, installed
from tests.upstream.behaviour import BAD_CREDENTIALS, Behaviour, Refusal
from tests.upstream.overlay import API_KEYS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET, OTHER = "sk-own-acme-0123456789abcd", "sk-own-acme-9876543210wxyz"
OPERATORS = API_KEYS["SCRIPTED_API_KEY"]
ON_BOTH = "test/500-once"
"""A model with an offer at both sources; the first call of it fails, unless it is scripted otherwise."""
FEE_USD = "0.0004"
WITH_FEE = "billing: {byok_fee_per_call: 0.0004}"
WITHOUT_OPERATORS_KEY = "sources: {scripted: {api_key_env: NOBODY_SET_THIS}}"


async def bring(tenant: Tenant, secret: str = SECRET, source: str = "scripted", **fields: Any) -> dict[str, Any]:
    body = {"source": source, "name": "production", "secret": secret} | fields
    made = await tenant.http.post("/v1/provider-keys", json=body)
    assert made.status_code == 201, made.text
    key: dict[str, Any] = made.json()
    return key


async def balance(installation: Installation, tenant: Tenant) -> ledger_pb2.Balance:
    request = ledger_pb2.GetBalanceRequest(org_id=tenant.org_id)
    return (await installation.ledger.GetBalance(request, timeout=TIMEOUT_S)).balance


async def receipt(tenant: Tenant, answer: httpx.Response) -> dict[str, Any]:
    receipt_id = answer.headers.get("x-receipt-id") or said_at_the_end(answer)["receipt_id"]
    found: dict[str, Any] = (await tenant.chatting.get(f"/v1/receipts/{receipt_id}")).json()
    return found


def said_at_the_end(answer: httpx.Response) -> dict[str, Any]:
    """What the last event of a stream says of its charge."""
    *_, last, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    said: dict[str, Any] = orjson.loads(last)["tallygate"]
    return said


def sent_with(installation: Installation) -> list[tuple[str, str]]:
    return [(call.source, call.api_key) for call in installation.upstream.calls]


@pytest_asyncio.fixture(loop_scope="module")
async def with_fee() -> AsyncIterator[Installation]:
    async with installed(overlay=WITH_FEE) as running:
        yield running


async def test_a_key_is_brought_shown_rotated_and_revoked(tenant: Tenant) -> None:
    made = await bring(tenant)
    assert made["id"].startswith("pk_")
    assert made == {
        "id": made["id"],
        "object": "provider_key",
        "source": "scripted",
        "name": "production",
        "hint": "...abcd",
        "fallback": True,
        "created_at": made["created_at"],
        "rotated_at": None,
        "revoked_at": None,
        "status": "active",
    }
    path = f"/v1/provider-keys/{made['id']}"
    assert (await tenant.reading.get(path)).json() == made
    rotated = (await tenant.http.post(f"{path}/rotate", json={"secret": OTHER})).json()
    assert (rotated["hint"], rotated["status"]) == ("...wxyz", "active")
    assert rotated["rotated_at"] >= made["created_at"]
    second = await bring(tenant, source="scripted2", fallback=False)
    listed = (await tenant.reading.get("/api/v1/provider-keys")).json()
    assert (listed["object"], listed["has_more"], listed["data"]) == ("list", False, [rotated, second])
    revoked = (await tenant.http.delete(path)).json()
    assert (revoked["status"], revoked["hint"]) == ("revoked", "...wxyz")
    assert (await tenant.http.delete(path)).json() == revoked
    late = await tenant.http.post(f"{path}/rotate", json={"secret": SECRET})
    assert (late.status_code, "revoked" in late.json()["error"]["message"]) == (400, True)
    assert (await bring(tenant))["id"] != made["id"]


async def test_pages_and_strangers(installation: Installation, tenant: Tenant) -> None:
    made = [await bring(tenant, source=source) for source in ("scripted", "scripted2", "openai")]
    first = (await tenant.http.get("/v1/provider-keys", params={"limit": 2})).json()
    rest = (await tenant.http.get("/v1/provider-keys", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [key["id"] for key in first["data"] + rest["data"]] == [key["id"] for key in made]
    other, path = await installation.tenant("Other"), f"/v1/provider-keys/{made[0]['id']}"
    for answer in (
        await other.http.get(path),
        await other.http.delete(path),
        await other.http.post(f"{path}/rotate", json={"secret": OTHER}),
        await tenant.http.get("/v1/provider-keys/pk_unknown"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (await other.http.get("/v1/provider-keys")).json()["data"] == []
    body = {"source": "scripted", "name": "x", "secret": SECRET}
    assert (await tenant.reading.post("/v1/provider-keys", json=body)).status_code == 403
    assert (await tenant.chatting.get("/v1/provider-keys")).status_code == 403


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"source": "nowhere"}, "source", "scripted2"),
        ({"source": "local"}, "source", "takes a key"),
        ({"source": "nul\0"}, "source", "There is no source"),
        ({"secret": "short"}, "secret", "at least 8"),
        ({"secret": "x" * 513}, "secret", "at most 512"),
        ({"secret": "sk-with a space"}, "secret", "printable ASCII"),
        ({"secret": "sk-with-nul\0"}, "secret", "printable ASCII"),
        ({"secret": "sk-schlüssel"}, "secret", "printable ASCII"),
        ({"secret": 12345678}, "secret", "string"),
        ({"name": "\0"}, "name", "control characters"),
        ({"fallback": "yes"}, "fallback", "boolean"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
)
async def test_what_is_wrong_is_said_without_the_secret(
    tenant: Tenant, fields: dict[str, Any], param: str, said: str
) -> None:
    body = {"source": "scripted", "name": "x", "secret": SECRET} | fields
    answer = await tenant.http.post("/v1/provider-keys", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert said in error["message"]
    assert str(body["secret"]) not in answer.text


async def test_a_second_key_for_a_source_is_refused(tenant: Tenant) -> None:
    made = await bring(tenant)
    answer = await tenant.http.post("/v1/provider-keys", json={"source": "scripted", "name": "x", "secret": OTHER})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "source")
    assert made["id"] in error["message"]
    assert error["message"].startswith("source: ")


async def test_each_organisation_is_served_with_its_key_and_the_others_with_the_operators(
    installation: Installation,
) -> None:
    one, two, none = [await installation.tenant(name) for name in ("One", "Two", "None")]
    await bring(one)
    await bring(two, OTHER)
    before = [await balance(installation, tenant) for tenant in (one, two, none)]
    answers = await asyncio.gather(
        *(tenant.chat(f"{name} {n}") for n in range(8) for name, tenant in (("1", one), ("2", two), ("3", none)))
    )
    assert {answer.status_code for answer in answers} == {200}
    keys: dict[str, set[str]] = {}
    for call in installation.upstream.calls:
        keys.setdefault(call.body["messages"][0]["content"][0], set()).add(call.api_key)
    assert keys == {"1": {SECRET}, "2": {OTHER}, "3": {OPERATORS}}
    after = [await balance(installation, tenant) for tenant in (one, two, none)]
    assert [b.posted_nano_usd == a.posted_nano_usd for a, b in zip(after, before, strict=True)] == [True, True, False]
    assert [a.held_nano_usd for a in after] == [0, 0, 0]
    assert answers[0].headers["x-cost-usd"] == "0"
    assert (await receipt(one, answers[0]))["price"]["tier"] == "byok"
    assert (await receipt(none, answers[2]))["price"]["tier"] == "passthrough"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_fee_is_charged_and_a_quarter_of_it_for_a_replay(with_fee: Installation, stream: bool) -> None:
    tenant, other = await with_fee.tenant(), await with_fee.tenant("Other")
    await bring(tenant)
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    fresh = await tenant.chat(**fields)
    found = await receipt(tenant, fresh)
    assert (found["price"]["tier"], found["charged_usd"], found["served_mode"]) == ("byok", FEE_USD, "fresh")
    again = await tenant.chat(**fields)
    assert again.headers["x-served-mode"] == "exact"
    replayed = await receipt(tenant, again)
    assert (replayed["price"]["tier"], replayed["charged_usd"]) == ("byok", "0.0001")
    assert sent_with(with_fee) == [("scripted", SECRET)]
    # An answer that was paid for with an own key is replayed to nobody else.
    assert (await other.chat(**fields)).headers["x-served-mode"] == "fresh"
    assert sent_with(with_fee)[1:] == [("scripted", OPERATORS)]
    spent = 10**12 - (await balance(with_fee, tenant)).posted_nano_usd
    assert spent == 400_000 + 100_000


async def test_a_key_opens_a_source_that_the_operator_has_no_key_for() -> None:
    async with installed(overlay=WITHOUT_OPERATORS_KEY) as installation:
        one, none = await installation.tenant("One"), await installation.tenant("None")
        await bring(one)
        assert (await one.chat()).status_code == 200
        without = await none.chat()
        assert (without.status_code, without.json()["error"]["code"]) == (503, "no_source")
        assert sent_with(installation) == [("scripted", SECRET)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_key_is_an_error_that_names_the_source(
    installation: Installation, tenant: Tenant, stream: bool
) -> None:
    installation.upstream.script(ON_BOTH, Behaviour(refusal=BAD_CREDENTIALS, refuse_first=1))
    key, before = await bring(tenant), await balance(installation, tenant)
    refused = await tenant.chat(model=ON_BOTH, stream=stream)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (424, "provider_key_rejected", "upstream_error")
    assert error["message"].startswith("scripted refused the provider key")
    assert "/v1/provider-keys" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    # The second source, where the operator has a key, would have answered: it was not asked.
    assert sent_with(installation) == [("scripted", SECRET)]
    assert await balance(installation, tenant) == before
    await tenant.http.post(f"/v1/provider-keys/{key['id']}/rotate", json={"secret": OTHER})
    assert (await tenant.chat(model=ON_BOTH, stream=stream)).status_code == 200
    assert sent_with(installation)[1:] == [("scripted", OTHER)]


async def test_a_source_that_fails_gives_way_unless_the_key_forbids_it(
    installation: Installation, tenant: Tenant
) -> None:
    loose, strict = tenant, await installation.tenant("Strict")
    await bring(loose)
    await bring(strict, fallback=False)
    answered = await loose.chat(model=ON_BOTH)
    assert answered.status_code == 200
    assert sent_with(installation) == [("scripted", SECRET), ("scripted2", API_KEYS["SCRIPTED2_API_KEY"])]
    assert (await receipt(loose, answered))["price"]["tier"] == "passthrough"
    installation.upstream.reset()
    failed = await strict.chat(model=ON_BOTH)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_error")
    assert sent_with(installation) == [("scripted", SECRET)]
    assert (await balance(installation, strict)).held_nano_usd == 0


async def test_an_idempotency_key_gets_one_answer_for_one_fee(with_fee: Installation) -> None:
    tenant = await with_fee.tenant()
    await bring(tenant)
    tenant.chatting.headers["idempotency-key"] = "once"
    answers = await asyncio.gather(*(tenant.chat("sampled", temperature=1) for _ in range(4)))
    answers.append(await tenant.chat("sampled", temperature=1))
    assert {answer.status_code for answer in answers} <= {200, 409}
    kept = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.headers["x-receipt-id"] for answer in kept}) == 1
    assert sent_with(with_fee) == [("scripted", SECRET)]
    assert 10**12 - (await balance(with_fee, tenant)).posted_nano_usd == 400_000


async def test_a_bad_key_frees_its_idempotency_key(installation: Installation, tenant: Tenant) -> None:
    installation.upstream.script("test/ok", Behaviour(refusal=BAD_CREDENTIALS, refuse_first=1))
    await bring(tenant)
    tenant.chatting.headers["idempotency-key"] = "once"
    assert (await tenant.chat()).status_code == 424
    assert (await tenant.chat()).status_code == 200


async def test_a_revoked_or_rotated_key_is_not_sent_within_a_second(installation: Installation, tenant: Tenant) -> None:
    key = await bring(tenant)
    await tenant.chat("first")
    path = f"/v1/provider-keys/{key['id']}"
    for number, (change, expected) in enumerate(
        ((tenant.http.post(f"{path}/rotate", json={"secret": OTHER}), OTHER), (tenant.http.delete(path), OPERATORS))
    ):
        await change
        began_s, tries = time.monotonic(), 0
        while True:
            assert (await tenant.chat(f"{number} {tries}")).status_code == 200
            if installation.upstream.calls[-1].api_key == expected:
                break
            assert time.monotonic() - began_s < 1, "the former key was still used"
            tries += 1


async def test_the_secret_is_nowhere(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Not in the database, a log, a span, a receipt, the audit trail, or any answer; after a rotation neither is."""
    caplog.set_level(logging.DEBUG)  # of every library, the database's drivers among them
    spans, shown = SpanCollector(), list[str]()
    with capture_logs() as logs:
        async with installed(overlay=WITH_FEE, make_telemetry=spans.telemetry) as installation:
            tenant = await installation.tenant()

            async def see(answer: httpx.Response) -> None:
                shown.append(answer.text + str(answer.headers))
                if receipt_id := answer.headers.get("x-receipt-id"):
                    shown.append((await tenant.chatting.get(f"/v1/receipts/{receipt_id}")).text)
                    shown.append((await tenant.chatting.get(f"/v1/receipts/{receipt_id}/proof")).text)

            said = f"bad: {SECRET} {OTHER}"
            installation.upstream.script("test/400", Behaviour(refusal=Refusal(400, {"error": {"message": said}})))
            made = await tenant.http.post(
                "/v1/provider-keys", json={"source": "scripted", "name": "x", "secret": SECRET}
            )
            path = f"/v1/provider-keys/{made.json()['id']}"
            await see(made)
            await see(await tenant.http.post("/v1/provider-keys", json={"source": "x", "name": "x", "secret": SECRET}))
            await see(await tenant.http.post("/v1/provider-keys", json={"secret": SECRET, "sekret": SECRET}))
            await see(await tenant.chat("fresh"))
            await see(await tenant.chat("stream", stream=True))
            await see(await tenant.chat("rejected", model="test/400"))
            await see(await tenant.chat("bad", model="test/401"))
            await see(await tenant.http.post(f"{path}/rotate", json={"secret": OTHER}))
            await see(await tenant.chat("again"))
            await see(await tenant.http.get("/v1/provider-keys"))
            await see(await tenant.http.delete(path))
            assert {SECRET, OTHER} <= {call.api_key for call in installation.upstream.calls}
            stored = b"".join(file.read_bytes() for file in installation.folder.glob("ledger.db*"))
            assert b"provider_key.rotated" in stored
    everything = [repr(logs), caplog.text, *capsys.readouterr(), *shown, *(span.to_json() for span in spans.finished())]
    assert len(spans.finished()) > 20
    for secret in (SECRET, OTHER):
        assert secret.encode() not in stored
        assert [text for text in everything if secret in text] == []
