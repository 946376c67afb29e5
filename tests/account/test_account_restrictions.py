"""What a key may not do, it can't do: models, addresses, regions, time, the cache, and spending by one that only
reads.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tallygate.ledger.v1 import ledger_pb2
from tests.account.installation import MODEL, TIMEOUT_S, Installation, Tenant, installed
from tests.upstream.overlay import PRICE

pytestmark = pytest.mark.asyncio(loop_scope="module")

IN_BOTH = {
    "sources": {"scripted": {"region": "cn"}, "scripted2": {"region": "us"}},
    "offers": {f"scripted2/{MODEL}": {"upstream_model": MODEL, "price": PRICE}},
}
"""One source in mainland China, one in the US; the model at both, for the same price."""


async def chat(client: httpx.AsyncClient, text: str, **headers: str) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/v1/chat/completions", json=body, headers=named)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        ({}, 200),
        ({"allowed_models": ["test/*"]}, 200),
        ({"allowed_models": ["other", "test/o?"]}, 200),
        ({"allowed_models": ["TEST/*", "test", "ok"]}, (403, "model_not_allowed")),
        ({"allowed_cidrs": ["127.0.0.0/8"]}, 200),
        ({"allowed_cidrs": ["::ffff:127.0.0.1/128"]}, 200),
        ({"allowed_cidrs": ["127.0.0.2", "2001:db8::/32", "::/0"]}, (403, "permission_denied")),
        ({"region": "any"}, 200),
        ({"region": "cn-only"}, (503, "no_source")),
        ({"region": "overseas-only"}, (503, "no_source")),
        ({"read_only": True}, (403, "permission_denied")),
        ({"scope": "account"}, (403, "permission_denied")),
    ],
)
async def test_a_restriction_holds(
    installation: Installation, tenant: Tenant, restriction: dict[str, Any], expected: int | tuple[int, str]
) -> None:
    _, client = await installation.key(tenant, **restriction)
    calls = len(installation.upstream.calls)
    answer = await chat(client, "hello")
    assert (answer.status_code if answer.is_success else error_of(answer)) == expected
    if not answer.is_success:
        request = ledger_pb2.GetBalanceRequest(org_id=tenant.org_id)
        balance = (await installation.ledger.GetBalance(request, timeout=TIMEOUT_S)).balance
        assert (balance.posted_nano_usd, balance.held_nano_usd) == (1_000 * 10**9, 0), "nothing was spent"
        assert len(installation.upstream.calls) == calls


async def test_a_restriction_that_is_set_later_holds_for_replays_too(
    installation: Installation, tenant: Tenant
) -> None:
    assert (await tenant.chat("again")).status_code == 200
    assert (await tenant.chat("again")).headers["x-served-mode"] == "exact"
    path = f"/v1/keys/{tenant.inference_key}"
    await tenant.http.patch(path, json={"allowed_models": ["claude-*"]})
    assert error_of(await tenant.chat("again")) == (403, "model_not_allowed")
    await tenant.http.patch(path, json={"allowed_models": [], "read_only": True})
    assert error_of(await tenant.chat("again")) == (403, "permission_denied")
    assert (await tenant.chatting.get("/v1/models")).status_code == 200


async def test_a_refused_address_is_named_and_reads_nothing(installation: Installation, tenant: Tenant) -> None:
    key, client = await installation.key(tenant, allowed_cidrs=["192.0.2.0/24"])
    for path in ("/v1/models", "/v1/key", "/v1/receipts/rcpt_1"):
        answer = await client.get(path, headers={"x-forwarded-for": "192.0.2.7"})
        assert error_of(answer) == (403, "permission_denied")
        assert "127.0.0.1" in answer.json()["error"]["message"]
        assert "192.0.2" not in answer.text, "where it may be used from is not told"
    await tenant.http.patch(f"/v1/keys/{key['id']}", json={"allowed_cidrs": []})
    assert (await client.get("/v1/key")).status_code == 200


async def test_behind_a_proxy_its_word_is_taken_and_no_other() -> None:
    async with installed(trusted_proxies=1) as installation:
        tenant = await installation.tenant()
        bound = {"allowed_cidrs": ["192.0.2.0/24", "2001:db8::/32"]}
        _, client = await installation.key(tenant, **bound)
        _, admin = await installation.key(tenant, scope="account", **bound)
        for header in ("192.0.2.7", "6.6.6.6, 192.0.2.7:81", "::ffff:192.0.2.7", "[2001:db8::9]:443"):
            assert (await client.get("/v1/models", headers={"x-forwarded-for": header})).status_code == 200
            assert (await admin.get("/v1/keys", headers={"x-forwarded-for": header})).status_code == 200
        for header, said in (("192.0.2.7, 6.6.6.6", "6.6.6.6"), ("192.0.2.7, x", "not known"), ("", "not known")):
            answer = await client.get("/v1/models", headers={"x-forwarded-for": header})
            assert error_of(answer) == (403, "permission_denied")
            assert said in answer.json()["error"]["message"]
        assert error_of(await client.get("/v1/models")) == (403, "permission_denied")
        assert (await tenant.chatting.get("/v1/models")).status_code == 200, "a key without a list is not asked for it"


@pytest_asyncio.fixture(loop_scope="module")
async def in_both() -> AsyncIterator[Installation]:
    """A gateway with a source in mainland China and one in the US."""
    async with installed(overlay=json.dumps(IN_BOTH)) as running:
        yield running


async def test_a_region_policy_chooses_among_sources_and_among_cached_answers(in_both: Installation) -> None:
    tenant = await in_both.tenant()
    _, at_home = await in_both.key(tenant, region="cn-only")
    _, overseas = await in_both.key(tenant, region="overseas-only")

    async def served(client: httpx.AsyncClient, **headers: str) -> tuple[str, str]:
        answer = await chat(client, "where", **headers)
        assert answer.status_code == 200, answer.text
        receipt = (await tenant.chatting.get(f"/v1/receipts/{answer.headers['x-receipt-id']}")).json()
        return str(answer.headers["x-served-mode"]), str(receipt["source_id"])

    assert await served(at_home) == ("fresh", "scripted")
    assert await served(at_home) == ("exact", "scripted")
    only = await chat(overseas, "where", x_tallygate_cache="only")
    assert error_of(only) == (404, "cache_miss")
    assert await served(overseas) == ("fresh", "scripted2")
    assert await served(overseas) == ("exact", "scripted2")
    assert await served(tenant.chatting) == ("exact", "scripted2")
    assert await served(at_home) == ("fresh", "scripted")
    assert await served(tenant.chatting) == ("exact", "scripted")


async def test_where_no_source_is_in_the_region_the_policy_is_named() -> None:
    async with installed(overlay=json.dumps({"sources": {"scripted": {"region": "us"}}})) as installation:
        tenant = await installation.tenant()
        _, client = await installation.key(tenant, region="cn-only")
        refused = await chat(client, "hello")
        assert error_of(refused) == (503, "no_source")
        assert refused.headers["x-should-retry"] == "false"
        for said in ("region policy", "cn-only", "scripted", "'us'"):
            assert said in refused.json()["error"]["message"]


async def test_a_key_whose_cache_is_off_uses_it_where_a_request_says_so(
    installation: Installation, tenant: Tenant
) -> None:
    _, client = await installation.key(tenant, cache_default="off")
    modes = [
        (await chat(client, "once")).headers["x-served-mode"],
        (await chat(tenant.chatting, "once")).headers["x-served-mode"],
        (await chat(client, "once")).headers["x-served-mode"],
        (await chat(client, "once", cache_control="max-age=60")).headers["x-served-mode"],
        (await chat(client, "once", x_tallygate_cache="on")).headers["x-served-mode"],
    ]
    assert modes == ["fresh", "fresh", "fresh", "fresh", "exact"], "it neither reads nor stores by itself"
