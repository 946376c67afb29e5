"""The audit trail over HTTP: what was done is told, to whom it concerns, and can be proved and exported."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

import edge.routes.account.audit
from ledger_svc.domain.signing import JwsKind, public_key_from_jwk, verify_jws
from tallygate_deploy.key_trust import pinned_by_jwks
from tallygate_deploy.verify import Evidence, verify
from tests.account.installation import Installation, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _entries(tenant: Tenant, **params: Any) -> list[dict[str, Any]]:
    answer = await tenant.http.get("/v1/audit-log", params=params)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_a_change_is_told_with_who_did_it_and_from_where(tenant: Tenant) -> None:
    made = await tenant.http.post("/v1/projects", json={"name": "web"})
    entry = (await _entries(tenant, subject=made.json()["id"]))[0]
    assert entry["id"].startswith("aud_")
    assert (entry["object"], entry["scope"], entry["action"]) == ("audit_entry", "organization", "project.created")
    assert (entry["before"], entry["after"]) == ({}, {"name": "web"})
    assert (entry["actor"]["kind"], entry["actor"]["address"]) == ("api_key", "127.0.0.1")
    assert entry["actor"]["id"].startswith("key_")
    assert entry["actor"]["trace_id"] == made.headers["x-trace-id"]
    by_key = await _entries(tenant, actor=entry["actor"]["id"])
    assert [found["id"] for found in by_key] == [entry["id"]]


async def test_what_is_done_to_what_the_cache_keeps_is_told_and_what_is_refused_is_not(tenant: Tenant) -> None:
    for body in ({}, {"project_id": tenant.project_id}, {"key_prefix": "9f86d081"}):
        assert (await tenant.http.post("/v1/cache/purge", json=body)).status_code == 200
    assert (await tenant.http.post("/v1/cache/purge", json={"project_id": "prj_none"})).status_code == 404
    assert (await tenant.http.get("/v1/cache/recordings")).status_code == 200
    assert (await tenant.http.delete("/v1/cache/recordings")).status_code == 200
    told = [*await _entries(tenant, action="recordings."), *await _entries(tenant, action="cache.")]
    assert {(entry["action"], entry["subject"], json.dumps(entry["after"])) for entry in told} == {
        ("cache.purged", tenant.org_id, '{"scope": "organization"}'),
        ("cache.purged", tenant.project_id, '{"scope": "project"}'),
        ("cache.purged", "9f86d081", '{"scope": "key_prefix"}'),
        ("recordings.exported", tenant.org_id, '{"from_ms": 0}'),
        ("recordings.forgotten", tenant.org_id, "{}"),
    }
    assert len(told) == 5
    assert {entry["actor"]["kind"] for entry in told} == {"api_key"}
    assert {entry["actor"]["address"] for entry in told} == {"127.0.0.1"}


async def test_entries_come_newest_first_in_pages_and_filtered(tenant: Tenant) -> None:
    for n in range(3):
        await tenant.http.post("/v1/projects", json={"name": f"p{n}"})
    ids, cursor = [], ""
    while cursor is not None:
        page = (await tenant.reading.get("/v1/audit-log", params={"limit": 2, "cursor": cursor})).json()
        ids += [(item["created_at"], item["id"]) for item in page["data"]]
        cursor = page["next_cursor"]
    assert len(ids) == len(set(ids))
    everything = await _entries(tenant, limit=200)
    assert [item["id"] for item in everything] == [name for _, name in ids]
    assert [at for at, _ in ids] == sorted((at for at, _ in ids), reverse=True)
    names = [item["after"].get("name") for item in await _entries(tenant, action="project.created")]
    assert names == ["p2", "p1", "p0", "default"]
    assert await _entries(tenant, action="project.", to=1) == []
    assert await _entries(tenant, action="PROJECT.") == []
    at = everything[0]["created_at"]
    assert {item["id"] for item in await _entries(tenant, **{"from": at - 60, "to": at + 60, "limit": 200})} == {
        name for _, name in ids
    }


async def test_an_organisation_sees_its_own_and_those_of_the_installation(
    installation: Installation, tenant: Tenant
) -> None:
    other = await installation.tenant("Other")
    mine, theirs = await _entries(tenant, limit=200), await _entries(other, limit=200)
    shared = {item["id"] for item in mine} & {item["id"] for item in theirs}
    assert {item["scope"] for item in mine if item["id"] in shared} <= {"installation"}
    assert {item["scope"] for item in mine if item["id"] not in shared} == {"organization"}
    own = next(item["id"] for item in theirs if item["scope"] == "organization")
    for path in (f"/v1/audit-log/{own}", f"/v1/audit-log/{own}/proof", "/v1/audit-log/aud_none"):
        answer = await tenant.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    by_inference = await tenant.chatting.get("/v1/audit-log")
    assert by_inference.status_code == 403


async def test_an_entry_is_signed_and_proved_offline(
    installation: Installation, tenant: Tenant, tmp_path: Path
) -> None:
    await tenant.chat()
    entry = (await _entries(tenant, action="key.created"))[0]
    found = (await tenant.http.get(f"/v1/audit-log/{entry['id']}")).json()
    assert {name: found[name] for name in entry} == entry
    keys = (await tenant.http.get("/.well-known/jwks.json")).json()
    _, document = verify_jws(found["jws"], dict(map(public_key_from_jwk, keys["keys"])), JwsKind.AUDIT_ENTRY)
    signed = json.loads(document)
    assert (signed["entry_id"], signed["after"], signed["org_id"]) == (entry["id"], entry["after"], tenant.org_id)
    checkpoint = await tenant.http.get("/v1/log/checkpoint")
    await tenant.http.post("/v1/projects", json={"name": "later"})
    size = int(checkpoint.text.split("\n")[1])
    proof = await tenant.http.get(f"/v1/audit-log/{entry['id']}/proof", params={"since": size})
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(keys))
    checks = [str(passed) for passed in verify(Evidence(proof.json(), pinned_by_jwks(jwks), checkpoint.text))]
    assert any("key.created" in line for line in checks)
    assert checks[-1].startswith("ok       consistency")
    too_small = await tenant.http.get(f"/v1/audit-log/{entry['id']}/proof", params={"tree_size": 10**6})
    assert (too_small.status_code, too_small.json()["error"]["param"]) == (400, "tree_size")


@pytest.mark.parametrize("page_size", [2, 500])
async def test_an_export_has_every_entry_and_its_checksum(
    tenant: Tenant, page_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.routes.account.audit, "_EXPORT_PAGE_SIZE", page_size)
    for n in range(5):
        await tenant.http.post("/v1/projects", json={"name": f'p{n}, "quoted"'})
    listed = await _entries(tenant, limit=200)
    lines = (await tenant.http.get("/v1/exports/audit-log")).content.splitlines(keepends=True)
    assert [json.loads(line) for line in lines[:-1]] == listed
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert json.loads(lines[-1]) == {"object": "export.summary", "rows": len(listed), "sha256": digest}
    answer = await tenant.http.get("/v1/exports/audit-log", params={"format": "csv", "action": "project."})
    assert answer.headers["content-type"].startswith("text/csv")
    before, _, last = answer.content.rpartition(b"# ")
    digest = hashlib.sha256(before).hexdigest()
    rows = list(csv.DictReader(io.StringIO(before.decode(), newline="")))
    assert last.decode().strip() == f"rows={len(rows)} sha256={digest}"
    assert [json.loads(row["after"])["name"] for row in rows] == [
        item["after"]["name"] for item in listed if item["action"].startswith("project.")
    ]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/audit-log?from=x", "from"),
        ("/v1/audit-log?to=-1", "to"),
        ("/v1/audit-log?cursor=x", "cursor"),
        ("/v1/audit-log?action=%00", "action"),
        ("/v1/exports/audit-log?format=xml", "format"),
        ("/v1/exports/audit-log?subject=%00", "subject"),
    ],
)
async def test_what_is_not_a_filter_is_refused_before_anything_is_sent(tenant: Tenant, path: str, param: str) -> None:
    answer = await tenant.http.get(path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
