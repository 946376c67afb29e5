"""Cache policies over HTTP, what they do to requests, purges, and what the cache did."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from meshkit.money import parse_usd
from tests.account.installation import MODEL, Installation, Tenant, installed
from tests.upstream.overlay import PRICE

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEMANTIC = {"up_to": "semantic", "max_error": "0.01"}


async def patched(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.patch(f"/v1/{path}/cache", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def asked(client: httpx.AsyncClient, text: str = "hello", header: str = "", **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
    headers = {"x-tallygate-cache": header} if header else {}
    answer = await client.post("/v1/chat/completions", json=body | fields, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def mode(client: httpx.AsyncClient, *arguments: Any, **fields: Any) -> str:
    return str((await asked(client, *arguments, **fields)).headers["x-served-mode"])


async def test_a_policy_is_read_and_changed_by_whoever_it_is_of(installation: Installation, tenant: Tenant) -> None:
    key, project = f"keys/{tenant.inference_key}", f"projects/{tenant.project_id}"
    nothing = dict.fromkeys(
        ("default", "up_to", "max_error", "ttl_s", "allow_sampled", "share_in_org", "record_requests")
    )
    installations = nothing | {"default": "on", "up_to": "exact"}
    installations |= dict.fromkeys(("allow_sampled", "share_in_org", "record_requests"), False)
    found = (await tenant.reading.get(f"/v1/{key}/cache")).json()
    assert found == {"object": "cache_policy", "scope": "key", "scope_id": tenant.inference_key} | nothing | {
        "in_force": installations
    }
    org = await patched(tenant.http, "organization", default="off", ttl_s=600, share_in_org=True, record_requests=True)
    assert (org["scope_id"], org["default"], org["in_force"]["ttl_s"]) == (tenant.org_id, "off", 600)
    await patched(tenant.http, project, max_error="0.02", ttl_s=60)
    own = await patched(tenant.http, key, default="on", up_to="semantic", allow_sampled=True)
    assert own["in_force"] == {
        "default": "on",
        "up_to": "semantic",
        "max_error": "0.02",
        "ttl_s": 60,
        "allow_sampled": True,
        "share_in_org": True,
        "record_requests": True,
    }
    shown = (await tenant.reading.get(f"/v1/{key}")).json()
    assert (shown["cache_default"], shown["cache"]["up_to"], shown["cache"]["ttl_s"]) == ("on", "semantic", None)
    own = await patched(tenant.http, key, default=None, up_to=None, allow_sampled=None)
    assert (own["default"], own["in_force"]["default"], own["in_force"]["up_to"]) == (None, "off", "exact")
    assert (await tenant.reading.get(f"/v1/{key}")).json()["cache_default"] == "off", "what is in force"
    entries = (await tenant.http.get("/v1/audit-log", params={"action": "organization.updated"})).json()["data"]
    (entry,) = entries
    assert (entry["before"]["cache_default"], entry["after"]["cache_default"]) == (None, "off")
    stranger = await installation.tenant("Other")
    for path in (key, project):
        assert (await stranger.http.get(f"/v1/{path}/cache")).status_code == 404
        assert (await stranger.http.patch(f"/v1/{path}/cache", json={"ttl_s": 1})).status_code == 404
    assert (await tenant.reading.patch("/v1/organization/cache", json={"ttl_s": 1})).status_code == 403
    assert (await tenant.chatting.get("/v1/organization/cache")).status_code == 403


async def test_a_key_is_made_and_changed_with_its_policy(installation: Installation, tenant: Tenant) -> None:
    plain, _ = await installation.key(tenant, cache={})
    assert (set(plain["cache"].values()), plain["cache_default"]) == ({None}, "on")
    made, _ = await installation.key(tenant, cache={"ttl_s": 5, "up_to": "canonical"}, cache_default="off")
    assert made["cache_default"] == "off"
    assert (made["cache"]["default"], made["cache"]["ttl_s"], made["cache"]["up_to"]) == ("off", 5, "canonical")
    path = f"/v1/keys/{made['id']}"
    changed = (await tenant.http.patch(path, json={"cache": {"ttl_s": 9}, "cache_default": "on"})).json()
    assert (changed["cache"]["ttl_s"], changed["cache"]["up_to"], changed["cache_default"]) == (9, "canonical", "on")
    changed = (await tenant.http.patch(path, json={"cache_default": None})).json()
    assert (changed["cache"]["default"], changed["cache"]["ttl_s"]) == (None, 9)
    changed = (await tenant.http.patch(path, json={"cache": None})).json()
    assert set(changed["cache"].values()) == {None}
    both = await tenant.http.patch(path, json={"cache": {"default": "on"}, "cache_default": "off"})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "cache_default")


REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("organization", {}, None, "send at least one of default"),
    ("organization", {"ttl_s": 0}, "ttl_s", "greater than or equal to 1"),
    ("organization", {"ttl_s": 30 * 86_400 + 1}, "ttl_s", "less than or equal to 2592000"),
    ("organization", {"up_to": "fuzzy"}, "up_to", "'exact', 'canonical' or 'semantic'"),
    ("organization", {"up_to": "semantic"}, "max_error", 'may be wrong, such as "0.01"'),
    ("organization", {"max_error": 0.01}, "max_error", 'as a string, such as "0.01"'),
    ("organization", {"max_error": "0.0"}, "max_error", "above 0"),
    ("organization", {"max_error": "1%"}, "max_error", "match pattern"),
    ("projects/PROJECT", {"share_in_org": True}, "share_in_org", "not permitted"),
    ("keys/KEY", {"record_requests": True}, "record_requests", "not permitted"),
    ("keys/KEY", {"colour": "red"}, "colour", "not permitted"),
]


async def test_a_policy_that_cannot_be_is_refused_by_name(tenant: Tenant) -> None:
    for template, body, param, said in REFUSED:
        path = template.replace("PROJECT", tenant.project_id).replace("KEY", tenant.inference_key)
        answer = await tenant.http.patch(f"/v1/{path}/cache", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), error
        assert said in error["message"]
    assert (await tenant.http.get("/v1/organization/cache")).json()["ttl_s"] is None, "nothing was changed"


async def test_a_policy_decides_where_a_request_does_not_say(installation: Installation, tenant: Tenant) -> None:
    assert [await mode(tenant.chatting) for _ in range(2)] == ["fresh", "exact"]
    await patched(tenant.http, "organization", default="off")
    assert await mode(tenant.chatting) == "fresh"
    assert await mode(tenant.chatting, "hello", "on") == "exact"
    await patched(tenant.http, f"projects/{tenant.project_id}", default="on", allow_sampled=True)
    assert await mode(tenant.chatting) == "exact"
    assert [await mode(tenant.chatting, "warm", temperature=1) for _ in range(2)] == ["fresh", "exact"]
    path = f"keys/{tenant.inference_key}"
    await patched(tenant.http, path, allow_sampled=False)
    assert await mode(tenant.chatting, "warm", temperature=1) == "fresh"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"x-tallygate-cache": "semantic"}
    answer = await tenant.chatting.post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    await patched(tenant.http, path, **SEMANTIC)
    assert await mode(tenant.chatting, "hello", "semantic, max-error=0.005") == "exact", "the tiers below it are first"


async def test_projects_replay_each_others_answers_where_their_organisation_says_so(
    installation: Installation, tenant: Tenant
) -> None:
    other_project = (await tenant.http.post("/v1/projects", json={"name": "other"})).json()["id"]
    _, other = await installation.key(tenant, project_id=other_project, requests_per_minute=0)
    stranger = await installation.tenant("Other")
    first = await asked(tenant.chatting)
    assert await mode(other) == "fresh", "nothing is shared by default"
    await patched(tenant.http, "organization", share_in_org=True)
    assert await mode(tenant.chatting) == "fresh", "what was stored before is its project's alone"
    shared = await asked(other)
    assert (shared.headers["x-served-mode"], shared.headers["age"]) == ("exact", "0")
    receipt = (await other.get(f"/v1/receipts/{shared.headers['x-receipt-id']}")).json()
    origin = (await other.get(f"/v1/receipts/{receipt['origin_receipt_id']}")).json()
    assert (receipt["project_id"], origin["project_id"]) == (other_project, tenant.project_id)
    assert await mode(other, user="ada") == "fresh"
    assert await mode(tenant.chatting, user="ada") == "exact"
    assert await mode(stranger.chatting) == "fresh"
    await patched(stranger.http, "organization", share_in_org=True)
    assert await mode(stranger.chatting) == "fresh", "another organisation shares with itself"
    await patched(tenant.http, "organization", share_in_org=None)
    again = await asked(tenant.chatting)
    assert again.headers["x-served-mode"] == "exact"
    paid = (await tenant.chatting.get(f"/v1/receipts/{again.headers['x-receipt-id']}")).json()
    assert paid["origin_receipt_id"] == first.headers["x-receipt-id"], "its own again, not the shared one"
    await asked(other, "of the other alone")
    assert await mode(tenant.chatting, "of the other alone") == "fresh"


async def test_sharing_gives_no_key_what_it_may_not_have() -> None:
    overlay = {
        "sources": {"scripted": {"region": "cn"}, "scripted2": {"region": "us"}},
        "offers": {f"scripted2/{MODEL}": {"upstream_model": MODEL, "price": PRICE}},
    }
    async with installed(overlay=json.dumps(overlay)) as installation:
        tenant = await installation.tenant()
        await patched(tenant.http, "organization", share_in_org=True)
        other = (await tenant.http.post("/v1/projects", json={"name": "other"})).json()["id"]
        _, at_home = await installation.key(tenant, region="cn-only")
        _, overseas = await installation.key(tenant, region="overseas-only", project_id=other)
        _, barred = await installation.key(tenant, allowed_models=["test/none"], project_id=other)
        assert [await mode(at_home) for _ in range(2)] == ["fresh", "exact"]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 16}
        for client, said in ((overseas, (404, "cache_miss")), (barred, (403, "model_not_allowed"))):
            answer = await client.post("/v1/chat/completions", json=body, headers={"x-tallygate-cache": "only"})
            assert (answer.status_code, answer.json()["error"]["code"]) == said
        assert await mode(overseas) == "fresh"


async def test_a_purge_forgets_what_it_names(installation: Installation, tenant: Tenant) -> None:
    async def purge(**body: Any) -> dict[str, Any]:
        answer = await tenant.http.post("/v1/cache/purge", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def kept() -> list[str]:
        return [await mode(tenant.chatting, text) for text in ("one", "two")]

    await kept()
    one = await asked(tenant.chatting, "one")
    key = one.headers["cache-status"].partition('key="')[2].partition('"')[0]
    assert (len(key), one.headers["cache-status"]) == (16, f'Tallygate; hit; key="{key}"; detail=exact')
    assert await purge(key_prefix=key[:8]) == {
        "object": "cache_purge",
        "scope": "key_prefix",
        "scope_id": key[:8],
        "forgotten": 1,
    }
    assert await kept() == ["fresh", "exact"]
    stranger = await installation.tenant("Other")
    assert (await stranger.http.post("/v1/cache/purge", json={"key_prefix": key})).json()["forgotten"] == 0
    assert (await stranger.http.post("/v1/cache/purge")).json()["scope_id"] == stranger.org_id
    assert await kept() == ["exact", "exact"]
    for body in ({"model": MODEL}, {"project_id": tenant.project_id}, {}):
        assert (await purge(**body))["forgotten"] is None
        assert await kept() == ["fresh", "fresh"], body
        assert await kept() == ["exact", "exact"], body
    for wrong, status, said in (
        ({"project_id": "prj_none"}, 404, "no project"),
        ({"model": "test/okay"}, 404, "test/ok"),
        ({"key_prefix": "9f86"}, 400, "pattern"),
        ({"key_prefix": key, "model": MODEL}, 400, "one of project_id, model and key_prefix"),
    ):
        answer = await tenant.http.post("/v1/cache/purge", json=wrong)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]["message"]
    assert (await tenant.reading.post("/v1/cache/purge", json={})).status_code == 403


async def test_statistics_equal_the_receipts(tenant: Tenant) -> None:
    answers = [await asked(tenant.chatting, text) for text in ("one", "two", "one", "one")]
    saved = 0
    for answer in answers:
        receipt = (await tenant.chatting.get(f"/v1/receipts/{answer.headers['x-receipt-id']}")).json()
        saved += parse_usd(receipt["saved_usd"])
    found = (await tenant.reading.get("/v1/cache/stats", params={"days": 1, "group_by": "model"})).json()
    total = found["total"]
    counts = ("requests", "replays", "replays_exact", "replays_canonical", "replays_semantic", "entries", "evictions")
    assert [total[name] for name in counts] == [4, 2, 2, 0, 0, 2, 0]
    assert (total["hit_rate"], parse_usd(total["saved_usd"])) == ("0.5000", saved)
    assert saved > 0
    assert total["bytes"] > 1_000
    assert found["data"] == [{"model": MODEL} | total]
    by_project = (await tenant.reading.get("/v1/cache/stats", params={"group_by": "project"})).json()
    assert by_project["data"] == [{"project": tenant.project_id} | total]
    assert (await tenant.reading.get("/v1/cache/stats")).json()["data"] == []


async def test_what_projects_share_is_counted_for_none_of_them(tenant: Tenant) -> None:
    await patched(tenant.http, "organization", share_in_org=True)
    await asked(tenant.chatting)
    found = (await tenant.reading.get("/v1/cache/stats", params={"group_by": "project"})).json()
    assert [(row["project"], row["requests"], row["entries"]) for row in found["data"]] == [
        (tenant.project_id, 1, 0),
        (None, 0, 1),
    ]
    assert (found["data"][1]["hit_rate"], found["total"]["entries"]) == (None, 1)
