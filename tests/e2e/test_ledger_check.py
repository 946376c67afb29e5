"""The operator's check of the ledger while it serves, in both modes."""

from __future__ import annotations

import json

import httpx

from tests.harness.gateway import Gateway


def test_the_books_of_a_running_gateway_are_right_and_their_signatures_its_own(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    body = {"model": "test/ok", "messages": [{"role": "user", "content": "check me"}]}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", headers=headers, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    checked = gateway.process.tallygate("ledger", "check", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = {rule["rule"]: rule for rule in json.loads(checked.stdout)["rules"]}
    assert not any(rule["left_out"] for rule in rules.values())
    assert rules["a receipt is signed by a key of the log"]["checked"] >= 1
    assert rules["a hold past its time is ended by the next sweep"]["checked"] >= 1
