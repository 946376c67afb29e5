"""`tallygate account`, against a running gateway: what it prints, and how it says that something is wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshkit.money import NANO_PER_USD
from tallygate_deploy.account import commands
from tests.harness.commands import tallygate
from tests.harness.gateway import Gateway

pytestmark = pytest.mark.parametrize("running", ["allinone"], indirect=True, scope="module")


def run(gateway: Gateway, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tallygate(
        "account", *arguments, environment={"TALLYGATE_URL": gateway.base_url, "TALLYGATE_ACCOUNT_KEY": key}
    )


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


class Shell:
    """The commands in this process, against a running gateway."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._environment = {"TALLYGATE_URL": gateway.base_url, "TALLYGATE_ACCOUNT_KEY": key}

    def __call__(self, *arguments: str) -> str:
        done = CliRunner().invoke(commands.app, arguments, env=self._environment)
        assert done.exit_code == 0, (arguments, done.output)
        return done.output

    def json(self, *arguments: str) -> dict[str, Any]:
        """What a command prints for programs."""
        found: dict[str, Any] = json.loads(self(*arguments, "--json"))
        return found


@pytest.fixture(scope="module")
def shell(running: Gateway, key: str) -> Shell:
    return Shell(running, key)


def test_a_key_is_made_changed_bounded_rotated_and_revoked(shell: Shell) -> None:
    project = shell.json("project", "create", "keys")["id"]
    assert shell.json("project", "rename", project, "renamed")["name"] == "renamed"
    assert shell.json("project", "spend-cap", project, "--daily", "3.50")["daily"]["cap_usd"] == "3.5"
    made = shell.json("key", "create", "a", "--project", project, "--model", "gpt-*", "--allow-cidr", "10.0.0.0/8")
    assert (made["allowed_models"], made["allowed_cidrs"]) == (["gpt-*"], ["10.0.0.0/8"])
    changed = shell.json("key", "update", made["id"], "--name", "b", "--requests-per-minute", "5", "--cache", "off")
    assert (changed["name"], changed["requests_per_minute"], changed["cache_default"]) == ("b", 5, "off")
    assert shell.json("key", "spend-cap", made["id"], "--monthly", "20")["monthly"]["cap_usd"] == "20"
    assert shell.json("key", "spend-cap", made["id"], "--clear")["monthly"] is None
    assert shell.json("key", "rotate", made["id"], "--overlap-s", "60")["secret"] != made["secret"]
    assert shell.json("key", "alert-webhook", made["id"])["url"] is None
    assert shell.json("key", "revoke", made["id"])["status"] == "revoked"
    assert shell.json("key", "show", made["id"])["status"] == "revoked"
    assert made["id"] in shell("key", "list")


def test_what_was_spent_is_shown(shell: Shell, tmp_path: Path) -> None:
    assert "total" in shell("usage", "--days", "2", "--group-by", "model")
    assert shell.json("usage")["object"] == "usage"
    shell("requests", "--limit", "5")
    shell("alerts")
    assert "project.created" in shell("audit-log", "--action", "project.")
    assert shell.json("organization", "show")["object"] == "organization"
    assert shell.json("organization", "spend-cap", "--monthly", "100")["monthly"]["cap_usd"] == "100"
    assert shell.json("billing", "balance")["balance_usd"] == "10"
    assert shell.json("billing", "plan")["object"]
    assert "hint" in shell.json("billing", "upgrade-hint")
    shell("billing", "payments")
    file = tmp_path / "ledger.jsonl"
    shell("export", "ledger", "--format", "jsonl", "-o", str(file))
    assert json.loads(file.read_text().splitlines()[-1])["object"] == "export.summary"


def test_the_cache_is_told_what_to_do_and_says_what_it_did(shell: Shell) -> None:
    assert shell.json("cache", "set", "--ttl", "600", "--share", "yes", "--default", "off")["ttl_s"] == 600
    project = shell.json("project", "create", "cached")["id"]
    changed = shell.json("cache", "set", "--of", project, "--up-to", "semantic", "--max-error", "0.02")
    assert (changed["in_force"]["max_error"], changed["in_force"]["share_in_org"]) == ("0.02", True)
    key = shell.json("key", "create", "cached", "--project", project)["id"]
    assert shell.json("cache", "set", "--of", key, "--sampled", "yes", "--default", "on")["allow_sampled"] is True
    assert "default=on" in shell("cache", "show", "--of", key)
    back = shell.json("cache", "set", "--ttl", "inherit", "--share", "no", "--default", "inherit")
    assert (back["ttl_s"], back["share_in_org"], back["in_force"]["default"]) == (None, False, "on")
    assert shell.json("cache", "purge", "--key-prefix", "0123abcd")["forgotten"] == 0
    assert shell.json("cache", "purge", "--all")["scope"] == "organization"
    assert "total" in shell("cache", "stats", "--group-by", "project")
    for wrong in (("purge",), ("set",), ("set", "--ttl", "soon"), ("show", "--of", "org_1")):
        assert CliRunner().invoke(commands.app, ["cache", *wrong], env=shell._environment).exit_code == 2


def test_provider_keys_and_webhooks_are_managed(shell: Shell) -> None:
    made = shell.json("provider-key", "add", "openai", "--secret", "sk-proj-0123456789abcdef")
    assert "0123456789" not in json.dumps(made)
    assert shell.json("provider-key", "rotate", made["id"], "--secret", "sk-proj-fedcba9876543210")["hint"] == "...3210"
    assert made["id"] in shell("provider-key", "list")
    assert shell.json("provider-key", "revoke", made["id"])["status"] == "revoked"
    assert shell("webhook", "list")
    refused = CliRunner().invoke(commands.app, ["webhook", "create", "https://127.0.0.1/"], env=shell._environment)
    assert (refused.exit_code, "400" in refused.output) == (1, True)
