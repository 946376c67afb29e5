"""Spend caps over HTTP: what is set there refuses the next request."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.account.installation import Installation, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_CAPS = {"monthly": None, "daily": None}


async def test_a_cap_is_set_read_and_taken_away(tenant: Tenant) -> None:
    path = f"/v1/keys/{tenant.inference_key}/spend-cap"
    none = await tenant.reading.get(path)
    identity = {"object": "spend_cap", "scope": "key", "scope_id": tenant.inference_key}
    assert (none.status_code, none.json()) == (200, identity | NO_CAPS)
    both = await tenant.http.patch(path, json={"monthly_spend_cap_usd": "100.00", "daily_spend_cap_usd": "5"})
    cap = both.json()["monthly"]
    assert cap.pop("resets_at") > time.time()
    assert cap == {"cap_usd": "100", "spent_usd": "0", "held_usd": "0", "remaining_usd": "100"}
    assert both.json()["daily"]["cap_usd"] == "5"
    assert (await tenant.reading.get(path)).json() == both.json()
    one = (await tenant.http.patch(path, json={"daily_spend_cap_usd": "0.000000001"})).json()
    assert (one["monthly"]["cap_usd"], one["daily"]["cap_usd"]) == ("100", "0.000000001")
    less = (await tenant.http.patch(path, json={"monthly_spend_cap_usd": None})).json()
    assert (less["monthly"], less["daily"]["cap_usd"]) == (None, "0.000000001")
    assert (await tenant.http.patch(path, json={"clear": True})).json() == identity | NO_CAPS


@pytest.mark.parametrize("scope", ["key", "project", "organization"])
async def test_a_cap_refuses_the_next_completion_and_is_named(tenant: Tenant, scope: str) -> None:
    assert (await tenant.chat("before")).status_code == 200
    paths = {
        "key": (f"/v1/keys/{tenant.inference_key}/spend-cap", tenant.inference_key),
        "project": (f"/v1/projects/{tenant.project_id}/spend-cap", tenant.project_id),
        "organization": ("/v1/organization/spend-cap", tenant.org_id),
    }
    path, scope_id = paths[scope]
    set_to = (await tenant.http.patch(path, json={"monthly_spend_cap_usd": "0.00001"})).json()
    assert (set_to["scope"], set_to["scope_id"]) == (scope, scope_id)
    assert set_to["monthly"]["spent_usd"] != "0", "what was spent in the month before counts"
    refused = await tenant.chat("after")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "monthly_cap_exceeded")
    assert scope in error["message"]
    assert "0.00001" in error["message"]
    await tenant.http.patch(path, json={"monthly_spend_cap_usd": None, "daily_spend_cap_usd": "0"})
    refused = await tenant.chat("after")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "daily_cap_exceeded")
    await tenant.http.patch(path, json={"clear": True})
    assert (await tenant.chat("after")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"clear": False},
        {"clear": None},
        {"clear": True, "monthly_spend_cap_usd": "1"},
        {"monthly_spend_cap_usd": 100},
        {"monthly_spend_cap_usd": "-1"},
        {"monthly_spend_cap_usd": "1e3"},
        {"monthly_spend_cap_usd": "1.0000000001"},
        {"monthly_spend_cap_usd": "9" * 40},
        {"monthly_spend_cap_usd": "1", "weekly_spend_cap_usd": "1"},
    ],
)
async def test_a_cap_that_can_not_be_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    path = f"/v1/projects/{tenant.project_id}/spend-cap"
    answer = await tenant.http.patch(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert {name: (await tenant.http.get(path)).json()[name] for name in NO_CAPS} == NO_CAPS


async def test_caps_of_what_is_not_there_are_not_there(installation: Installation, tenant: Tenant) -> None:
    for path in ("/v1/keys/key_none/spend-cap", "/v1/projects/prj_none/spend-cap", "/v1/keys/a%00b/spend-cap"):
        answers = [await tenant.http.get(path), await tenant.http.patch(path, json={"clear": True})]
        assert {answer.status_code for answer in answers} <= {404, 400}
    other = await installation.tenant("Other")
    await other.http.patch("/v1/organization/spend-cap", json={"monthly_spend_cap_usd": "1"})
    assert (await tenant.http.get("/v1/organization/spend-cap")).json()["monthly"] is None
