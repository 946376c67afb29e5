"""`make account-demo`, in one of its modes."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.harness.gateway import COMMAND


@pytest.mark.timeout(150)
def test_the_account_is_run_over_http_from_its_first_project_to_its_last_nano_dollar() -> None:
    told = subprocess.run(
        [COMMAND, "account-demo", "--mode", "up"], capture_output=True, text=True, timeout=140, check=False
    )
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout.splitlines()[-1])
    assert summary["steps"] == summary["passed"] > 20
    assert summary["reconciled_nano_usd_difference"] == 0
