"""Webhooks and alerts over HTTP, delivered to a receiver over TLS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tallygate.ledger.v1 import ledger_pb2
from tests.account.installation import TIMEOUT_S, Installation, Tenant, installed
from tests.webhooks.receiver import LOOPBACK, Receiver, receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_THERE = "whk_00000000000000000000000000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Receiver]:
    async with receiver(tmp_path_factory.mktemp("receiver")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(there: Receiver) -> AsyncIterator[Installation]:
    settings = {
        "webhook_allow_private": LOOPBACK,
        "webhook_ca_file": there.ca_file,
        "alert_interval_s": 0.05,
        "webhook_poll_s": 0.05,
    }
    async with installed(settings) as running:
        yield running


async def made(tenant: Tenant, url: str, **fields: Any) -> dict[str, Any]:
    answer = await tenant.http.post("/v1/webhooks", json={"url": url} | fields)
    assert answer.status_code == 201, answer.text
    webhook: dict[str, Any] = answer.json()
    return webhook


async def ended(tenant: Tenant, delivery: dict[str, Any]) -> dict[str, Any]:
    """The delivery, when it is no longer pending."""
    path = f"/v1/webhooks/{delivery['webhook_id']}/deliveries/{delivery['id']}"
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found: dict[str, Any] = (await tenant.http.get(path)).json()
            if found["state"] != "pending":
                return found
            await asyncio.sleep(0.01)


async def capped(installation: Installation, tenant: Tenant, limit_nano_usd: int) -> None:
    """Bounds what the tenant's inference key may spend in a month."""
    cap = ledger_pb2.SetCapRequest(
        org_id=tenant.org_id,
        scope=ledger_pb2.CAP_SCOPE_KEY,
        scope_id=tenant.inference_key,
        period=ledger_pb2.CAP_PERIOD_MONTH,
        unit=ledger_pb2.CAP_UNIT_NANO_USD,
        limit=limit_nano_usd,
    )
    await installation.ledger.SetCap(cap, timeout=TIMEOUT_S)


async def spent(tenant: Tenant) -> int:
    """What one completion costs, in nano-USD."""
    answer = await tenant.chat("how much", temperature=1)
    assert answer.status_code == 200, answer.text
    whole, _, fraction = answer.headers["x-cost-usd"].partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))


async def test_a_webhook_is_made_shown_without_its_secret_changed_and_deleted(tenant: Tenant, there: Receiver) -> None:
    webhook = await made(tenant, there.url(), events=["cap.threshold_reached"], description="pager")
    assert webhook["id"].startswith("whk_")
    assert webhook.pop("secret").startswith("whsec_")
    assert (webhook["object"], webhook["url"], webhook["enabled"]) == ("webhook", there.url(), True)
    path = f"/v1/webhooks/{webhook['id']}"
    assert (await tenant.reading.get(path)).json() == webhook
    assert (await tenant.reading.get("/api/v1/webhooks")).json()["data"] == [webhook]
    changed = (await tenant.http.patch(path, json={"events": ["*"], "enabled": False})).json()
    assert changed == webhook | {"events": ["*"], "enabled": False, "disabled_reason": "disabled by its owner"}
    assert (await tenant.http.delete(path)).json() == {"id": webhook["id"], "object": "webhook", "deleted": True}
    assert (await tenant.http.get(path)).status_code == 404


async def test_a_test_call_shows_what_became_of_it(tenant: Tenant, there: Receiver) -> None:
    webhook = await made(tenant, there.url())
    queued = await tenant.http.post(f"/v1/webhooks/{webhook['id']}/test")
    assert queued.status_code == 202
    delivery = await ended(tenant, queued.json())
    (got,) = there.at("/hook")
    assert got.verified(webhook["secret"]) == delivery["payload"]
    assert (delivery["state"], delivery["last_status"], delivery["last_error"]) == ("delivered", 204, None)
    assert [attempt["status"] for attempt in delivery["attempt_log"]] == [204]
    assert got.headers["webhook-id"] == delivery["event_id"]
    listed = (await tenant.http.get(f"/v1/webhooks/{webhook['id']}/deliveries")).json()
    assert [item["id"] for item in listed["data"]] == [delivery["id"]]


async def test_a_failed_delivery_says_why_and_is_retried_on_request(tenant: Tenant, there: Receiver) -> None:
    webhook = await made(tenant, there.url())
    there.answering("/hook", 503, 204)
    path = f"/v1/webhooks/{webhook['id']}"
    queued = (await tenant.http.post(f"{path}/test")).json()
    await there.until(1)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = (await tenant.http.get(f"{path}/deliveries/{queued['id']}")).json()
            if found["attempts"]:
                break
            await asyncio.sleep(0.01)
    assert (found["state"], found["last_status"], found["last_error"]) == ("pending", 503, "it answered 503")
    assert found["next_attempt_at"] >= found["created_at"] + 4
    again = await tenant.http.post(f"{path}/deliveries/{queued['id']}/retry")
    assert again.status_code == 202
    delivery = await ended(tenant, queued)
    assert [attempt["status"] for attempt in delivery["attempt_log"]] == [503, 204]


async def test_both_secrets_sign_after_a_rotation(tenant: Tenant, there: Receiver) -> None:
    webhook = await made(tenant, there.url("/rotated"))
    path = f"/v1/webhooks/{webhook['id']}"
    rotated = (await tenant.http.post(f"{path}/rotate-secret", json={"overlap_s": 600})).json()
    assert rotated["secret"] != webhook["secret"]
    assert 500 < rotated["previous_secret_until"] - rotated["created_at"] < 700
    await ended(tenant, (await tenant.http.post(f"{path}/test")).json())
    (got,) = there.at("/rotated")
    assert got.verified(webhook["secret"]) == got.verified(rotated["secret"])
    by_default = (await tenant.http.post(f"{path}/rotate-secret")).json()
    assert by_default["previous_secret_until"] - rotated["previous_secret_until"] > 80_000


async def test_a_cap_that_is_reached_is_told_once_to_the_organisation_and_to_the_key(
    installation: Installation, tenant: Tenant, there: Receiver
) -> None:
    webhook = await made(tenant, there.url("/org"))
    path = f"/v1/keys/{tenant.inference_key}/alert-webhook"
    assert (await tenant.reading.get(path)).json()["url"] is None
    mine = (await tenant.http.patch(path, json={"url": there.url("/key")})).json()
    assert mine["secret"].startswith("whsec_")
    assert "secret" not in {name for name, value in (await tenant.http.get(path)).json().items() if value}
    cost = await spent(tenant)
    await capped(installation, tenant, cost * 2)
    for where, secret in (("/org", webhook["secret"]), ("/key", mine["secret"])):
        (got,) = await there.until(1, where)
        told = got.verified(secret)
        assert told["type"] == "cap.threshold_reached"
        assert told["data"]["scope_id"] == tenant.inference_key
        assert (told["data"]["threshold_percent"], told["data"]["name"]) == (50, "chat")
    listed = (await tenant.reading.get("/v1/alerts")).json()["data"]
    assert [(alert["threshold_percent"], alert["scope"], alert["period"]) for alert in listed] == [(50, "key", "month")]
    alert = listed[0]
    assert alert["cap_tokens"] is None
    assert alert["spent_usd"] == told["data"]["spent_usd"]
    assert (await tenant.http.patch(path, json={"clear": True})).json()["url"] is None
    await capped(installation, tenant, cost * 100)
    await capped(installation, tenant, cost * 5 // 4)  # 80 percent is reached, and 50 was told
    assert len(await there.until(2, "/org")) == 2
    assert [item["threshold_percent"] for item in (await tenant.http.get("/v1/alerts")).json()["data"]] == [80, 50]
    assert len(there.at("/key")) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"url": "http://example.com/"}, "https://"),
        ({"url": "https://169.254.169.254/latest/meta-data/"}, "not an IP address"),
        ({"url": "https://user:pass@localhost:8443/"}, "user name"),
        ({"url": "https://localhost:22/"}, "port"),
        ({"url": "https://no-such-name.invalid/"}, "resolved"),
        ({"url": "https://localhost:8443/\x00"}, "control"),
        ({"url": ""}, "url"),
        ({"url": "https://localhost:8443/", "events": ["everything"]}, "not one of"),
        ({"url": "https://localhost:8443/", "events": []}, "events"),
        ({"url": "https://localhost:8443/", "description": "\x00"}, "control"),
        ({"url": "https://localhost:8443/", "colour": "red"}, "colour"),
        ({}, "url"),
    ],
)
async def test_a_webhook_that_may_not_be_is_refused_and_says_why(
    tenant: Tenant, body: dict[str, Any], said: str
) -> None:
    answer = await tenant.http.post("/v1/webhooks", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_a_private_address_is_refused_where_the_operator_allows_none() -> None:
    async with installed() as running:
        tenant = await running.tenant()
        answer = await tenant.http.post("/v1/webhooks", json={"url": "https://localhost:8443/"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url")
        assert "not public" in answer.json()["error"]["message"]


async def test_without_a_key_for_secrets_the_setting_is_named() -> None:
    async with installed({"secrets_keys": {}}) as running:
        tenant = await running.tenant()
        answer = await tenant.http.post("/v1/webhooks", json={"url": "https://example.com/"})
        assert answer.status_code == 400
        assert "TALLYGATE_LEDGER_SECRETS_KEYS" in answer.json()["error"]["message"]


async def test_another_organisations_webhook_is_not_there(
    installation: Installation, tenant: Tenant, there: Receiver
) -> None:
    webhook = await made(tenant, there.url())
    queued = (await tenant.http.post(f"/v1/webhooks/{webhook['id']}/test")).json()
    other = await installation.tenant("Other")
    path = f"/v1/webhooks/{webhook['id']}"
    asked: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PATCH", path, {"enabled": False}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", {}),
        ("POST", f"{path}/test", None),
        ("GET", f"{path}/deliveries", None),
        ("GET", f"{path}/deliveries/{queued['id']}", None),
        ("POST", f"{path}/deliveries/{queued['id']}/retry", None),
        ("GET", f"/v1/keys/{tenant.inference_key}/alert-webhook", None),
        ("PATCH", f"/v1/keys/{tenant.inference_key}/alert-webhook", {"url": there.url()}),
        ("PATCH", f"/v1/keys/{tenant.inference_key}/alert-webhook", {"clear": True}),
    ]
    for method, where, body in asked:
        answer = (
            await other.http.request(method, where, json=body)
            if body is not None
            else await _bare(other, method, where)
        )
        assert answer.status_code == 404, (method, where, answer.text)
    assert (await tenant.http.get(f"/v1/webhooks/{NOT_THERE}")).status_code == 404
    assert (await tenant.reading.post(f"{path}/test")).status_code == 403


async def _bare(tenant: Tenant, method: str, where: str) -> httpx.Response:
    return await tenant.http.request(method, where)


@pytest.mark.parametrize(
    "body", [{}, {"url": None}, {"enabled": "yes"}, {"events": "*"}, {"url": None, "enabled": True}]
)
async def test_a_change_of_nothing_or_to_null_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    assert (await tenant.http.patch(f"/v1/webhooks/{NOT_THERE}", json=body)).status_code == 400


@pytest.mark.parametrize("body", [{}, {"clear": False}, {"url": "https://localhost:8443/", "clear": True}])
async def test_an_alert_webhook_is_set_or_cleared(tenant: Tenant, body: dict[str, Any]) -> None:
    answer = await tenant.http.patch(f"/v1/keys/{tenant.inference_key}/alert-webhook", json=body)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "position", [[2**70, "x"], [-1, "x"], [1, "\x00"], [1, "\ud800"], [1, "x" * 250], [1.5, "x"], 7]
)
async def test_a_cursor_that_no_page_gave_is_refused(tenant: Tenant, position: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(position).encode()).decode()
    for path in ("/v1/alerts", "/v1/webhooks"):
        answer = await tenant.http.get(path, params={"cursor": cursor})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor")
