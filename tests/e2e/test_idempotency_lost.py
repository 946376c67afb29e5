"""`Idempotency-Key` when its record is lost: the ledger alone bars a second charge, and says which receipt it was."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.harness.background import BackgroundLoop
from tests.harness.gateway import RunningGateway, running_gateway
from tests.harness.tenants import Tenants
from tests.upstream.behaviour import Behaviour
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream


def ask(gateway: RunningGateway, secret: str, key: str, model: str, content: str = "lost") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": key}
    return httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, timeout=60)


@pytest.mark.timeout(180)
def test_after_a_restart_that_forgets_it_nothing_is_charged_twice(
    background: BackgroundLoop, upstream_server: ScriptedUpstream, tmp_path: Path
) -> None:
    """All-in-one keeps its records in memory and its ledger on disk."""
    upstream_server.reset()
    catalog = upstream_server.write_overlay(tmp_path / "overlay.yaml")
    data = tmp_path / "data"
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS) as gateway:
        tenant = Tenants(background, gateway.ledger_addr).make(credit_nano_usd=10**9)
        charged = ask(gateway, tenant.secret, "charged", "test/ok")
        failed = [ask(gateway, tenant.secret, "failed", "test/500").status_code for _ in range(3)]
    assert (charged.status_code, failed) == (200, [502, 502, 502])
    calls_before = len(upstream_server.calls)
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS) as gateway:
        again = [ask(gateway, tenant.secret, "charged", "test/ok") for _ in range(2)]
        changed = ask(gateway, tenant.secret, "charged", "test/ok", "changed")
        assert len(upstream_server.calls) == calls_before, "no source is asked for what was charged already"
        upstream_server.script("test/500", Behaviour())
        mended = ask(gateway, tenant.secret, "failed", "test/500")
        tenants = Tenants(background, gateway.ledger_addr)
        balance, receipts = tenants.balance(tenant.org_id), tenants.receipts(tenant.org_id)
    receipt_id = charged.headers["x-receipt-id"]
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "idempotency_conflict")
    for answer in again:
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotent_answer_gone")
        assert receipt_id in answer.json()["error"]["message"]
        assert answer.headers["x-receipt-id"] == receipt_id
    assert mended.status_code == 200, "three runs that cost nothing, each with its hold given back, are passed over"
    assert {receipt.receipt_id for receipt in receipts} == {receipt_id, mended.headers["x-receipt-id"]}
    assert balance.posted_nano_usd == 10**9 - sum(receipt.charged_nano_usd for receipt in receipts)
    assert balance.open_holds == 0
