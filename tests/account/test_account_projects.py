"""Projects over HTTP, and what stands before every route of the account."""

from __future__ import annotations

import pytest

from tests.account.installation import Installation, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_project_is_made_listed_and_found(tenant: Tenant) -> None:
    made = await tenant.http.post("/v1/projects", json={"name": "web"})
    assert made.status_code == 201
    project = made.json()
    assert project["id"].startswith("prj_")
    assert (project["object"], project["name"]) == ("project", "web")
    assert (await tenant.http.get(f"/v1/projects/{project['id']}")).json() == project
    listed = (await tenant.reading.get("/api/v1/projects")).json()
    assert [item["name"] for item in listed["data"]] == ["default", "web"]
    assert (listed["object"], listed["has_more"], listed["next_cursor"]) == ("list", False, None)


async def test_projects_come_in_pages(tenant: Tenant) -> None:
    for n in range(4):
        await tenant.http.post("/v1/projects", json={"name": f"p{n}"})
    names, cursor = [], ""
    while cursor is not None:
        page = (await tenant.http.get("/v1/projects", params={"limit": 2, "cursor": cursor})).json()
        names += [item["name"] for item in page["data"]]
        cursor = page["next_cursor"]
    assert names == ["default", "p0", "p1", "p2", "p3"]


async def test_another_organisations_project_is_not_there(installation: Installation, tenant: Tenant) -> None:
    other = await installation.tenant("Other")
    answer = await tenant.http.get(f"/v1/projects/{other.project_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_who_may_not_is_told_why(installation: Installation, tenant: Tenant) -> None:
    nobody = await installation.client()
    assert (await nobody.get("/v1/projects")).status_code == 401
    by_inference = await tenant.chatting.get("/v1/projects")
    assert (by_inference.status_code, by_inference.json()["error"]["code"]) == (403, "permission_denied")
    assert "account key" in by_inference.json()["error"]["message"]
    by_reader = await tenant.reading.post("/v1/projects", json={"name": "x"})
    assert by_reader.status_code == 403
    by_account = await tenant.http.post("/v1/chat/completions", json={"model": "test/ok", "messages": []})
    assert by_account.status_code == 403
    assert "calls no model" in by_account.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "dictionary"),
        (b'{"name": "a", "name": "b"}', "name"),
        (b'{"name": ""}', "name"),
        (b'{"name": 7}', "name"),
        (b'{"name": "a", "colour": "red"}', "colour"),
        (b'{"name": "default"}', "default"),
        (b"{" + b" " * 70_000 + b"}", "larger"),
    ],
)
async def test_a_bad_body_is_refused_and_says_what_is_wrong(tenant: Tenant, body: bytes, said: str) -> None:
    answer = await tenant.http.post("/v1/projects", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 413}
    assert said in answer.json()["error"]["message"]


async def test_a_body_of_another_kind_and_a_foreign_cursor_are_refused(tenant: Tenant) -> None:
    form = await tenant.http.post("/v1/projects", data={"name": "x"})
    assert (form.status_code, "application/json" in form.text) == (400, True)
    cursor = await tenant.http.get("/v1/projects", params={"cursor": "x"})
    assert (cursor.status_code, cursor.json()["error"]["param"]) == (400, "cursor")
    limit = await tenant.http.get("/v1/projects", params={"limit": 0})
    assert (limit.status_code, limit.json()["error"]["param"]) == (400, "limit")
