"""The real openai SDK for Node. Its tests are `node/gateway.test.mjs`; here they are run, and their report is read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.gateway import Gateway

SUITE = Path(__file__).with_name("node")
TIMEOUT_S = 110


@pytest.mark.timeout(TIMEOUT_S + 10)
def test_the_node_sdk(gateway: Gateway, limited_key: str) -> None:
    node = shutil.which("node")
    assert node is not None, "node is not installed; Tallygate's tests need Node 20 or later"
    assert (SUITE / "node_modules" / "openai").is_dir(), (
        "tests/conformance/node/node_modules is missing: run `make setup`, or `npm ci` in that folder"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "BASE_URL": gateway.base_url,
        "API_KEY": gateway.api_key,
        "POOR_KEY": gateway.poor_key,
        "REVOKED_KEY": gateway.revoked_key,
        "LIMITED_KEY": limited_key,
    }
    # Named reporter: without a terminal its default depends on the version of Node.
    finished = subprocess.run(
        [node, "--test", "--test-reporter=tap", "gateway.test.mjs"],
        cwd=SUITE, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    counted = dict(line[2:].rsplit(" ", 1) for line in finished.stdout.splitlines() if line.startswith("# "))
    assert int(counted["tests"]) >= 36, finished.stdout
    assert (counted["fail"], counted["skipped"], counted["cancelled"]) == ("0", "0", "0"), finished.stdout
