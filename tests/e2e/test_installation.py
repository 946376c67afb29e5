"""An installation over its life: first start, restart, the operator's commands, the end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import MODES
from tests.harness.commands import tallygate
from tests.harness.gateway import COMMAND, Gateway, RunningGateway, running_gateway
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

QUESTION = [{"role": "user", "content": "hello"}]


@pytest.fixture
def catalog(upstream_server: ScriptedUpstream, tmp_path: Path) -> Path:
    upstream_server.reset()
    return upstream_server.write_overlay(tmp_path / "overlay.yaml")


def chat(base_url: str, key: str, model: str = "test/ok") -> httpx.Response:
    body = {"model": model, "messages": QUESTION, "temperature": 0}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=30)


def test_keys_balance_and_receipts_survive_a_restart(catalog: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS) as first:
        assert json.loads((data / "ready.json").read_text())["pid"] == first.process.pid
        answer = chat(first.base_url, first.api_key)
        receipt_id = answer.headers["x-receipt-id"]
    assert not (data / "ready.json").exists(), "a ready-file stands only while requests are served"
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS) as second:
        assert second.api_key != first.api_key
        headers = {"Authorization": f"Bearer {first.api_key}"}
        receipt = httpx.get(f"{second.base_url}/receipts/{receipt_id}", headers=headers).json()
        assert receipt["charged_usd"] == answer.headers["x-cost-usd"]
        assert chat(second.base_url, second.api_key).status_code == 200
    assert first.api_key in first.log.read_text(), "the first start shows its key to the operator"
    stored = b"".join(path.read_bytes() for path in data.glob("ledger.db*"))
    assert first.api_key.encode() not in stored


def test_two_processes_can_not_serve_from_one_folder(catalog: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS):
        second = subprocess.run(
            [COMMAND, "up", "--port", "0", "--data", str(data)], capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == 1
    assert "another tallygate serves from" in second.stderr


@pytest.mark.parametrize("overlay", ["models: [", "offers: {nowhere/nothing: {price: {input: 1}}}", "prices: {}"])
def test_a_wrong_overlay_refuses_to_start_and_says_where(tmp_path: Path, overlay: str) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(overlay, encoding="utf-8")
    started = tallygate("up", "--port", "0", "--data", tmp_path / "data", "--catalog", path)
    assert started.returncode == 1
    assert "overlay.yaml:" in started.stderr
    assert "Traceback" not in started.stderr


def test_a_taken_port_is_said_at_once(tmp_path: Path, gateway: Gateway) -> None:
    port = gateway.base_url.split(":")[-1].removesuffix("/v1")
    mode = "up" if gateway.process.mode == "allinone" else "mesh"
    started = subprocess.run(
        [COMMAND, mode, "--port", port, "--data", str(tmp_path / "data"), "--no-local-model"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert re.search(rf"tallygate: .*{port}", started.stderr)
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_running_stream_ends_whole_before_sigterm_ends_the_process(
    mode: str, catalog: Path, upstream_server: ScriptedUpstream, tmp_path: Path
) -> None:
    with running_gateway(mode, tmp_path / "data", catalog=catalog, environment=API_KEYS) as gateway:
        body = {"model": "test/gated", "messages": QUESTION, "stream": True}
        headers = {"Authorization": f"Bearer {gateway.api_key}"}
        url = f"{gateway.base_url}/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {")
            gateway.process.send_signal(signal.SIGTERM)
            threading.Timer(0.5, upstream_server.release).start()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        gateway.process.wait(40)
    assert gateway.process.returncode == 0


@pytest.fixture(params=["serving", "stopped"])
def installation(request: pytest.FixtureRequest, catalog: Path, tmp_path: Path) -> Iterator[RunningGateway]:
    data = tmp_path / "data"
    with running_gateway("allinone", data, catalog=catalog, environment=API_KEYS) as gateway:
        chat(gateway.base_url, gateway.api_key)
        if request.param == "serving":
            yield gateway
            return
    yield gateway


def test_the_operators_commands_work_while_it_serves_and_while_it_does_not(installation: RunningGateway) -> None:
    command = [str(COMMAND), "key", "create", "ci", "--model", "test/*", "--data", str(installation.data)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    secret = made.stdout.strip()
    assert (made.returncode, secret[:3], len(secret)) == (0, "tg-", 46), made.stderr
    listed = installation.tallygate("key", "list").stdout
    assert secret not in listed
    (key_id,) = re.findall(r"(key_\w+)\W+ci\b", listed)
    added = installation.tallygate("credit", "add", "2.50", "--idempotency-key", "invoice-7")
    again = installation.tallygate("credit", "add", "2.50", "--idempotency-key", "invoice-7")
    assert added.stdout == again.stdout
    assert "balance $12.4999" in added.stdout
    revoked = installation.tallygate("key", "revoke", key_id)
    assert revoked.stdout.startswith(f"{key_id} revoked 20")
    assert "revoked" in installation.tallygate("key", "list").stdout
    missing = installation.tallygate("receipt", "show", "rcpt_missing")
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    wrong = installation.tallygate("credit", "add", "1e3")
    assert wrong.returncode == 2
    assert "decimals" in wrong.stderr


def test_the_operator_restricts_and_rotates_keys(gateway: Gateway) -> None:
    run = gateway.process.tallygate
    key_id = re.findall(r"(key_\w+) made", run("key", "create", "turning").stderr)[0]
    rotated = run("key", "rotate", key_id, "--overlap-hours", "1")
    assert (len(rotated.stdout.strip()), "ends 20" in rotated.stderr) == (46, True), rotated.stderr
    admin = run(
        "key", "create", "admin", "--scope", "account", "--read-only", "--allow-cidr", "10.0.0.0/8", "--region",
        "overseas-only", "--requests-per-minute", "7", "--tokens-per-minute", "0", "--cache", "off",
    )  # fmt: skip
    assert admin.returncode == 0, admin.stderr
    (admin_id,) = re.findall(r"(key_\w+) made", admin.stderr)
    assert re.search(rf"{admin_id}\W+admin\W+account, only reads", run("key", "list").stdout)
    shown = json.loads(run("key", "show", admin_id).stdout)
    assert (shown["scope"], shown["read_only"], shown["allowed_cidrs"]) == ("account", True, ["10.0.0.0/8"])
    assert (shown["region"], shown["requests_per_minute"], shown["cache_default"]) == ("overseas-only", 7, "off")


def test_the_operator_bounds_spending_and_gives_money_back(gateway: Gateway) -> None:
    run = gateway.process.tallygate
    key_id = re.findall(r"(key_\w+)", run("key", "list").stdout)[-1]
    bounded = run("cap", "set", key_id, "--usd", "50", "--period", "day").stdout
    assert re.search(rf"{key_id} .* day .* \$50 .* \$\d.* \$0 .* 20\d\d-\d\d-\d\d 00:00:00Z", bounded), bounded
    assert key_id in run("cap", "list").stdout
    assert run("cap", "clear", key_id, "--period", "day").stdout == f"{key_id} has no cap in USD for a day\n"
    run("credit", "add", "3")
    run("credit", "add", "2", "--promotional", "--expires-in-days", "30")
    lots = run("credit", "list").stdout
    assert lots.index("20") < lots.index("never") < lots.index(" paid "), lots
    assert "balance $" in run("credit", "refund", "1", "--reason", "asked").stdout
    too_much = run("credit", "refund", "100000")
    assert (too_much.returncode, "does not cover this refund" in too_much.stderr) == (1, True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("cap", "set", "key_1"), "give one of --usd and --tokens"),
        (("cap", "set", "gpt-x", "--usd", "1"), "is not an id of a key"),
        (("credit", "add", "1", "--expires-in-days", "3"), "add --promotional"),
    ],
)
def test_a_wrong_command_says_what_to_do(wrong: tuple[str, ...], said: str, tmp_path: Path) -> None:
    refused = tallygate(*wrong, "--data", tmp_path)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


def test_a_receipt_can_be_corrected_by_the_operator(gateway: Gateway) -> None:
    answer = chat(gateway.base_url, gateway.process.api_key, "test/cached-usage")
    receipt_id, cost = answer.headers["x-receipt-id"], answer.headers["x-cost-usd"]
    corrected = gateway.process.tallygate("receipt", "correct", receipt_id, cost, "--reason", "a bad answer")
    assert (corrected.returncode, "balance $" in corrected.stdout) == (0, True), corrected.stderr
    again = gateway.process.tallygate("receipt", "correct", receipt_id, cost)
    assert (again.returncode, "only 0 are left" in again.stderr) == (1, True)
    headers = {"Authorization": f"Bearer {gateway.process.api_key}"}
    receipt = httpx.get(f"{gateway.base_url}/receipts/{receipt_id}", headers=headers).json()
    assert (receipt["charged_usd"], receipt["corrected_usd"]) == (cost, cost)


def test_a_receipt_can_be_shown_by_the_operator(gateway: Gateway) -> None:
    answer = chat(gateway.base_url, gateway.process.api_key, "test/cached-usage")
    shown = gateway.process.tallygate("receipt", "show", answer.headers["x-receipt-id"])
    headers = {"Authorization": f"Bearer {gateway.process.api_key}"}
    over_http = httpx.get(f"{gateway.base_url}/receipts/{answer.headers['x-receipt-id']}", headers=headers)
    assert json.loads(shown.stdout) == over_http.json()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", ["up", "mesh"])
def test_the_demo_shows_a_fresh_answer_its_replay_and_both_receipts(mode: str) -> None:
    shown = subprocess.run([COMMAND, "demo", "--mode", mode], capture_output=True, text=True, timeout=200, check=False)
    assert shown.returncode == 0, shown.stderr + shown.stdout
    summary = json.loads(shown.stdout.splitlines()[-1])
    assert summary["model"] == "local/smollm2-135m-instruct"
    assert (summary["replay_ratio"], summary["upstream_calls"]) == (0.25, 1)
    assert summary["trace_spans"] >= 15
    assert float(summary["fresh_usd"]) > 0
    assert len(set(re.findall(r"rcpt_\w{26}", shown.stdout))) == 2
