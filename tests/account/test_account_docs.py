"""The examples in the pages about the account work as they are printed: each ```sh block, in the order of its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.money import NANO_PER_USD
from tallygate_deploy.account_demo.receiver import Receiver, receiving
from tests.harness.background import BackgroundLoop
from tests.harness.gateway import RunningGateway, running_gateway
from tests.harness.tenants import Tenants
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream

PAGES = sorted((Path(__file__).parents[2] / "deploy/docs/account").glob("*.md"))
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are written for curl")


@pytest.fixture(scope="module")
def receiver(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Where the webhooks of the examples go."""
    with background.entered(receiving(tmp_path_factory.mktemp("receiver"))) as found:
        yield found


@pytest.fixture(scope="module")
def installed(
    upstream_server: ScriptedUpstream, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway that may call the receiver, and takes payments without a provider."""
    folder = tmp_path_factory.mktemp("docs")
    environment = {
        **API_KEYS,
        "TALLYGATE_LEDGER_WEBHOOK_CA_FILE": str(receiver.ca_file),
        "TALLYGATE_LEDGER_WEBHOOK_ALLOW_PRIVATE": json.dumps(["127.0.0.0/8", "::1/128"]),
        "TALLYGATE_LEDGER_BILLING_PROVIDER": "local",
    }
    catalog = upstream_server.write_overlay(folder / "overlay.yaml")
    with running_gateway("allinone", folder / "data", catalog=catalog, environment=environment) as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_work(
    installed: RunningGateway, background: BackgroundLoop, receiver: Receiver, page: Path, tmp_path: Path
) -> None:
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks, "a page without an example"
    tenants = Tenants(background, installed.ledger_addr)
    tenant = tenants.make(100 * NANO_PER_USD)
    facts = {
        "BASE": installed.base_url,
        "KEY": tenant.secret,
        "KEY_ID": tenant.key_id,
        "ACCOUNT_KEY": tenants.account_key(tenant),
        "PROJECT": tenant.project_id,
        "MODEL": "test/ok",
        "HOOK_URL": receiver.url,
    }
    command = ["bash", "-c", "set -euo pipefail\n" + "\necho\n".join(blocks)]
    environment = {**os.environ, **facts}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    assert '{"error"' not in done.stdout, done.stdout


def test_there_are_pages() -> None:
    assert PAGES
