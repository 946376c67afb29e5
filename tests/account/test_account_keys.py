"""Keys over HTTP: made, listed, changed, given new secrets, ended; and the organisation that they belong to."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.account.installation import Installation, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY_S = 86_400


async def code_of(client: httpx.AsyncClient, path: str = "/v1/models") -> tuple[int, str | None]:
    answer = await client.get(path)
    return answer.status_code, None if answer.is_success else answer.json()["error"]["code"]


async def test_a_key_is_made_with_a_secret_that_is_shown_once(installation: Installation, tenant: Tenant) -> None:
    body = {
        "name": "team-a",
        "project_id": tenant.project_id,
        "allowed_models": ["test/*"],
        "allowed_cidrs": ["127.0.0.1", "2001:DB8::/32"],
        "region": "overseas-only",
        "requests_per_minute": 5,
        "tokens_per_minute": 0,
        "cache_default": "off",
        "expires_at": int(time.time()) + DAY_S,
    }
    made = await tenant.http.post("/v1/keys", json=body)
    assert made.status_code == 201
    key = made.json()
    secret = key.pop("secret")
    assert (len(secret), secret.startswith(key["prefix"]), key["object"]) == (46, True, "api_key")
    assert key | body | {"allowed_cidrs": ["127.0.0.1/32", "2001:db8::/32"]} == key
    assert (key["scope"], key["read_only"], key["status"], key["revoked_at"]) == ("inference", False, "active", None)
    got = await tenant.reading.get(f"/v1/keys/{key['id']}")
    assert got.json() == key
    assert secret not in (await tenant.http.get("/v1/keys")).text
    own = await (await installation.client(secret)).get("/v1/key")
    assert own.json() == key


async def test_what_a_new_key_is_not_told_is_the_installations_default(
    installation: Installation, tenant: Tenant
) -> None:
    key, client = await installation.key(tenant, name="plain")
    assert (key["project_id"], key["requests_per_minute"], key["tokens_per_minute"]) == (tenant.project_id, None, None)
    assert (key["allowed_models"], key["allowed_cidrs"], key["region"], key["cache_default"]) == ([], [], "any", "on")
    own = (await client.get("/api/v1/key")).json()
    assert (own["requests_per_minute"], own["tokens_per_minute"]) == (60, 0), "the limits in force"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\u0000"}, "name"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "region": "mars"}, "region"),
        ({"name": "x", "cache_default": True}, "cache_default"),
        ({"name": "x", "allowed_cidrs": ["10.0.0.0/40"]}, "allowed_cidrs"),
        ({"name": "x", "allowed_models": [""]}, "allowed_models"),
        ({"name": "x", "requests_per_minute": -1}, "requests_per_minute"),
        ({"name": "x", "requests_per_minute": "60"}, "requests_per_minute"),
        ({"name": "x", "expires_at": 1}, "expires_at"),
        ({"name": "x", "expires_at": 10**15}, "expires_at"),
        ({"name": "x", "secret": "tg-mine"}, "secret"),
    ],
)
async def test_a_key_that_can_not_be_is_refused_by_its_field(tenant: Tenant, body: dict[str, Any], param: str) -> None:
    answer = await tenant.http.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert "_ms" not in answer.text


async def test_another_organisations_things_are_not_there(installation: Installation, tenant: Tenant) -> None:
    other = await installation.tenant("Other")
    assert (await tenant.http.post("/v1/keys", json={"name": "x", "project_id": other.project_id})).status_code == 404
    path = f"/v1/keys/{other.inference_key}"
    for answer in (
        await tenant.http.get(path),
        await tenant.http.patch(path, json={"name": "mine"}),
        await tenant.http.delete(path),
        await tenant.http.post(f"{path}/rotate", json={"overlap_s": 0}),
        await tenant.http.get(f"{path}/spend-cap"),
        await tenant.http.patch(f"{path}/spend-cap", json={"clear": True}),
        await tenant.http.patch(f"/v1/projects/{other.project_id}", json={"name": "mine"}),
        await tenant.http.get(f"/v1/projects/{other.project_id}/spend-cap"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    listed = (await tenant.http.get("/v1/keys", params={"project_id": other.project_id})).json()
    assert listed["data"] == []


async def test_keys_come_in_pages_by_project_and_state(installation: Installation, tenant: Tenant) -> None:
    project = (await tenant.http.post("/v1/projects", json={"name": "app"})).json()["id"]
    made = [(await installation.key(tenant, name=f"k{n}", project_id=project))[0]["id"] for n in range(3)]
    await tenant.http.delete(f"/v1/keys/{made[0]}")
    found, cursor = [], ""
    while cursor is not None:
        page = (await tenant.http.get("/v1/keys", params={"limit": 2, "cursor": cursor})).json()
        found += [key["id"] for key in page["data"]]
        cursor = page["next_cursor"]
    assert (len(found), found[:3]) == (6, made[::-1])
    active = (await tenant.http.get("/v1/keys", params={"project_id": project, "status": "active"})).json()
    assert [key["id"] for key in active["data"]] == [made[2], made[1]]
    revoked = (await tenant.http.get("/v1/keys", params={"status": "revoked"})).json()
    assert [(key["id"], key["status"]) for key in revoked["data"]] == [(made[0], "revoked")]
    wrong = await tenant.http.get("/v1/keys", params={"status": "lost"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "status")


async def test_what_is_changed_holds_for_the_next_request(installation: Installation, tenant: Tenant) -> None:
    key, client = await installation.key(tenant, allowed_models=["test/ok"], expires_at=int(time.time()) + DAY_S)
    assert await code_of(client) == (200, None)
    path = f"/v1/keys/{key['id']}"
    unchanged = await tenant.http.patch(path, json={})
    assert unchanged.json() == {name: value for name, value in key.items() if name != "secret"}
    changed = await tenant.http.patch(path, json={"allowed_cidrs": ["192.0.2.0/24"], "expires_at": None, "name": "far"})
    assert changed.json() == unchanged.json() | {
        "allowed_cidrs": ["192.0.2.0/24"],
        "expires_at": None,
        "name": "far",
    }
    assert await code_of(client) == (403, "permission_denied")
    await tenant.http.patch(path, json={"allowed_cidrs": [], "requests_per_minute": 7})
    assert (await client.get("/v1/key")).json()["requests_per_minute"] == 7
    await tenant.http.patch(path, json={"requests_per_minute": None})
    assert (await client.get("/v1/key")).json()["requests_per_minute"] == 60
    for wrong, param in (({"name": None}, "name"), ({"scope": "account"}, "scope"), ({"expires_at": 5}, "expires_at")):
        answer = await tenant.http.patch(path, json=wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_revoked_key_is_refused_at_once_and_stays_so(installation: Installation, tenant: Tenant) -> None:
    key, client = await installation.key(tenant)
    assert await code_of(client) == (200, None)
    path = f"/v1/keys/{key['id']}"
    revoked = await tenant.http.delete(path)
    assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
    assert await code_of(client) == (401, "invalid_api_key")
    assert (await tenant.http.delete(path)).json() == revoked.json()
    assert (await tenant.http.patch(path, json={"name": "x"})).status_code == 400
    assert (await tenant.http.post(f"{path}/rotate", json={"overlap_s": 0})).status_code == 400


async def test_both_secrets_work_while_they_overlap(installation: Installation, tenant: Tenant) -> None:
    key, old = await installation.key(tenant)
    rotated = await tenant.http.post(f"/v1/keys/{key['id']}/rotate", json={"overlap_s": DAY_S})
    assert rotated.status_code == 200
    body = rotated.json()
    assert (body["id"], body["secret"].startswith(body["prefix"])) == (key["id"], True)
    assert abs(body["former_secret_expires_at"] - time.time() - DAY_S) < 60
    new = await installation.client(body["secret"])
    for client in (old, new):
        assert (await client.get("/v1/key")).json()["id"] == key["id"]
    again = await tenant.http.post(f"/v1/keys/{key['id']}/rotate", json={"overlap_s": 0})
    newest = await installation.client(again.json()["secret"])
    for client in (old, new):
        assert await code_of(client) == (401, "invalid_api_key")
    assert await code_of(newest) == (200, None)
    for wrong in ({}, {"overlap_s": -1}, {"overlap_s": 30 * DAY_S + 1}, {"overlap_s": 1.5}):
        answer = await tenant.http.post(f"/v1/keys/{key['id']}/rotate", json=wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "overlap_s")


async def test_an_account_key_makes_another_and_may_end_itself(installation: Installation, tenant: Tenant) -> None:
    key, second = await installation.key(tenant, name="second", scope="account")
    assert (await second.get("/v1/keys")).status_code == 200
    reader, reading = await installation.key(tenant, name="looks", scope="account", read_only=True)
    assert (await reading.get("/v1/keys")).status_code == 200
    for answer in (
        await reading.post("/v1/keys", json={"name": "x"}),
        await reading.delete(f"/v1/keys/{key['id']}"),
        await reading.patch(f"/v1/keys/{reader['id']}", json={"read_only": False}),
        await reading.post(f"/v1/keys/{reader['id']}/rotate", json={"overlap_s": 0}),
        await reading.patch("/v1/organization/spend-cap", json={"clear": True}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert (await second.delete(f"/v1/keys/{key['id']}")).status_code == 200
    assert await code_of(second, "/v1/keys") == (401, "invalid_api_key")
    assert (await tenant.chatting.get("/v1/keys")).status_code == 403


async def test_the_organisation_and_its_projects(tenant: Tenant) -> None:
    organization = (await tenant.reading.get("/v1/organization")).json()
    assert (organization["id"], organization["object"], organization["name"]) == (tenant.org_id, "organization", "Acme")
    path = f"/v1/projects/{tenant.project_id}"
    changed = await tenant.http.patch(path, json={"name": "site"})
    assert (changed.json()["id"], changed.json()["name"]) == (tenant.project_id, "site")
    assert (await tenant.http.get(path)).json() == changed.json()
    await tenant.http.post("/v1/projects", json={"name": "app"})
    for wrong in ({"name": "app"}, {"name": " "}, {}):
        answer = await tenant.http.patch(path, json=wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
