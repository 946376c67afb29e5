"""What a customer does who does not believe us: fetch the proof of a receipt, and check it without us."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.harness.commands import tallygate
from tests.harness.gateway import Gateway


def verify(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return tallygate("verify", *arguments)


def ask(client: httpx.Client) -> dict[str, Any]:
    """One request; gives its receipt."""
    body = {"model": "test/ok", "temperature": 0, "messages": [{"role": "user", "content": "prove it"}]}
    answer = client.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = client.get(f"/receipts/{answer.headers['x-receipt-id']}").json()
    return receipt


def test_what_was_asked_and_answered_fits_its_receipt_in_every_form(gateway: Gateway, tmp_path: Path) -> None:
    """A stream, its replay as a body and its replay as a stream: three receipts, one answer that fits them all."""
    tenant = gateway.tenants.make(credit_nano_usd=10**9)
    headers = {"Authorization": f"Bearer {tenant.secret}", "Content-Type": "application/json"}
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    forms: dict[str, dict[str, Any]] = {"fresh": {"stream": True}, "plain": {}, "again": with_usage}
    question = {"model": "test/ok", "temperature": 0, "messages": [{"role": "user", "content": "prove"}]}
    with httpx.Client(base_url=gateway.base_url, headers=headers, timeout=30) as client:
        for form, fields in forms.items():
            asked = json.dumps(question | fields, indent=2)
            answer = client.post("/chat/completions", content=asked)
            assert answer.headers["x-served-mode"] == ("fresh" if form == "fresh" else "exact"), answer.text
            (tmp_path / f"{form}.request").write_text(asked, encoding="utf-8")
            (tmp_path / f"{form}.answer").write_bytes(answer.content)
            newest, *_ = gateway.tenants.receipts(tenant.org_id)
            (tmp_path / f"{form}.proof").write_bytes(client.get(f"/receipts/{newest.receipt_id}/proof").content)
    changed, trust = tmp_path / "changed", ("--trust-file", tmp_path / "trust.json")
    for form in forms:
        proof, request = tmp_path / f"{form}.proof", tmp_path / f"{form}.request"
        for other in forms:
            checked = verify(proof, *trust, "--request", request, "--answer", tmp_path / f"{other}.answer")
            assert checked.returncode == 0, checked.stdout + checked.stderr
        changed.write_bytes((tmp_path / f"{form}.answer").read_bytes().replace(b'"assistant"', b'"Assistant"', 1))
        failed = verify(proof, *trust, "--answer", changed)
        assert (failed.returncode, failed.stdout.splitlines()[-1][:16]) == (1, "FAILED   answer:")
        changed.write_bytes(request.read_bytes() + b" ")
        failed = verify(proof, *trust, "--request", changed)
        assert (failed.returncode, failed.stdout.splitlines()[-1][:17]) == (1, "FAILED   request:")


def test_a_fresh_answer_and_its_replay_are_proved_to_a_stranger(gateway: Gateway, tmp_path: Path) -> None:
    root = gateway.base_url.removesuffix("/v1")
    jwks, pinned, proof = (tmp_path / name for name in ("jwks.json", "checkpoint", "proof.json"))
    jwks.write_bytes(httpx.get(f"{root}/.well-known/jwks.json").content)
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    with httpx.Client(base_url=gateway.base_url, headers=headers, timeout=30) as client:
        for mode in ("fresh", "exact"):
            pinned.write_bytes(httpx.get(f"{gateway.base_url}/log/checkpoint").content)
            since = pinned.read_text(encoding="utf-8").splitlines()[1]
            receipt = ask(client)
            assert receipt["served_mode"] == mode
            proof.write_bytes(client.get(f"/receipts/{receipt['receipt_id']}/proof?since={since}").content)
            checked = verify(proof, "--jwks", jwks, "--checkpoint", pinned)
            assert checked.returncode == 0, checked.stdout + checked.stderr
            assert f"charge: ${receipt['charged_usd']} = usage x price snapshot ({mode}" in checked.stdout
            assert "inclusion: leaf" in checked.stdout
            bundle = json.loads(proof.read_text(encoding="utf-8"))
            assert bundle["jws"] == receipt["jws"]
            assert "prove it" not in proof.read_text(encoding="utf-8")
            changed = "A" if bundle["jws"][-9] != "A" else "B"
            proof.write_text(json.dumps(bundle | {"jws": bundle["jws"][:-9] + changed + bundle["jws"][-8:]}))
            tampered = verify(proof, "--jwks", jwks, "--checkpoint", pinned)
            assert (tampered.returncode, tampered.stdout.splitlines()[-1][:19]) == (1, "FAILED   signature:")
