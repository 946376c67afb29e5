"""`tallygate account`, against a running gateway: what it prints, and how it says that something is wrong."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from meshkit.money import NANO_PER_USD
from tests.harness.gateway import COMMAND, Gateway

pytestmark = pytest.mark.parametrize("running", ["allinone"], indirect=True, scope="session")


def run(gateway: Gateway, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TALLYGATE_URL": gateway.base_url, "TALLYGATE_ACCOUNT_KEY": key}
    command = [str(COMMAND), "account", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def key(running: Gateway) -> str:
    """An account key of an organisation of its own."""
    return running.tenants.account_key(running.tenants.make(10 * NANO_PER_USD))


def test_projects_are_made_and_listed(running: Gateway, key: str) -> None:
    made = run(running, key, "project", "create", "from-the-shell", "--json")
    assert made.returncode == 0, made.stderr
    project = json.loads(made.stdout)
    listed = run(running, key, "project", "list")
    assert project["id"] in listed.stdout
    assert "from-the-shell" in listed.stdout


def test_a_refusal_is_one_line_and_says_what_to_do(running: Gateway, key: str) -> None:
    refused = run(running, key, "project", "create", "")
    assert refused.returncode == 1
    assert refused.stderr.startswith("tallygate: ")
    assert "name" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    unknown = run(running, "tg-nobody", "project", "list")
    assert (unknown.returncode, "401" in unknown.stderr) == (1, True)
    without = run(running, "", "project", "list")
    assert (without.returncode, "TALLYGATE_ACCOUNT_KEY" in without.stderr) == (2, True)
    away = run(running, key, "--url", "http://127.0.0.1:9/v1", "project", "list")
    assert (away.returncode, "nothing answers" in away.stderr) == (1, True)
