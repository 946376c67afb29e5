"""The examples in the pages about the account work as they are printed: each ```sh block, in the order of its page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meshkit.money import NANO_PER_USD
from tests.harness.gateway import Gateway

PAGES = sorted((Path(__file__).parents[2] / "deploy/docs/account").glob("*.md"))
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.parametrize("running", ["allinone"], indirect=True, scope="session"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are written for curl"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_work(running: Gateway, page: Path, tmp_path: Path) -> None:
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks, "a page without an example"
    tenant = running.tenants.make(100 * NANO_PER_USD)
    script = "set -euo pipefail\n" + "\n".join(blocks)
    facts = {
        "BASE": running.base_url,
        "KEY": tenant.secret,
        "ACCOUNT_KEY": running.tenants.account_key(tenant),
        "PROJECT": tenant.project_id,
        "KEY_ID": tenant.key_id,
        "MODEL": "test/ok",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=tmp_path,
        env={**os.environ, **facts},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    for line in done.stdout.splitlines():
        assert not line.startswith('{"error"'), line


def test_there_are_pages() -> None:
    assert PAGES
