"""What a customer does who does not believe us: fetch the proof of a receipt, and check it without us."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.harness.gateway import COMMAND, Gateway


def verify(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def ask(client: httpx.Client) -> dict[str, Any]:
    """One request; gives its receipt."""
    body = {"model": "test/ok", "temperature": 0, "messages": [{"role": "user", "content": "prove it"}]}
    answer = client.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = client.get(f"/receipts/{answer.headers['x-receipt-id']}").json()
    return receipt


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
