"""The lock that everything is installed from has what the members ask for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
MEMBERS = ("protos", "edge", "router-svc", "cache-svc", "ledger-svc", "catalog-svc", "deploy")


def locked() -> dict[str, Version]:
    text = (ROOT / "deploy/requirements/workspace.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pins}


@pytest.mark.parametrize("member", [*MEMBERS, "."])
def test_every_declared_dependency_is_locked_at_a_version_that_fits(member: str) -> None:
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [*project["project"]["dependencies"], *project.get("dependency-groups", {}).get("dev", [])]
    declared += [each for extra in project["project"].get("optional-dependencies", {}).values() for each in extra]
    versions = locked()
    for requirement in map(Requirement, declared):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if not name.startswith("tallygate"):
            assert name in versions, f"{name} is not in the lock: run `make lock`"
            assert requirement.specifier.contains(versions[name], prereleases=True), f"{name} {versions[name]}"


def test_every_pin_has_a_hash_and_none_an_address() -> None:
    for path in (ROOT / "deploy/requirements").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        pins = re.findall(r"^\S+==.*(?:\n    --hash=sha256:\w+.*)*", text, re.M)
        assert pins
        assert all("--hash=sha256:" in pin for pin in pins)
