"""`tallygate provider-key`: a data key is replaced, and an old secrets key can be dropped once nothing is under it."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger_svc.domain.signing import base64url
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate.ledger.v1 import provider_keys_pb2 as pb
from tallygate.ledger.v1.provider_keys_pb2_grpc import ProviderKeyServiceStub
from tallygate_deploy.allinone import ledger_alone
from tallygate_deploy.cli import app
from tallygate_deploy.data_dir import DataDir

TIMEOUT_S = 20.0
SECRET = "sk-for-the-command-line"


async def _with_a_key(data: DataDir) -> str:
    async with ledger_alone(data) as channel:
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        org = await ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(name="Acme"), timeout=TIMEOUT_S)
        request = pb.CreateProviderKeyRequest(org_id=org.org_id, source_id="openai", name="a", secret=SECRET)
        await ProviderKeyServiceStub(channel).CreateProviderKey(request, timeout=TIMEOUT_S)
        return org.org_id


async def _secret(data: DataDir, org_id: str) -> str:
    async with ledger_alone(data) as channel:
        request = pb.ListProviderSecretsRequest(org_id=org_id)
        found = await ProviderKeyServiceStub(channel).ListProviderSecrets(request, timeout=TIMEOUT_S)
        return found.secrets[0].secret


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path)
    found.claim("up")
    return found


def run(data: DataDir, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["provider-key", *words, "--data", str(data.root)])
    return result.exit_code, result.output


def test_a_data_key_is_replaced(data: DataDir) -> None:
    org_id = asyncio.run(_with_a_key(data))
    before = data.ledger_db.read_bytes()
    assert run(data, "rewrap", "--org", org_id) == (0, "1 provider keys are encrypted under a new data key\n")
    assert data.ledger_db.read_bytes() != before
    assert asyncio.run(_secret(data, org_id)) == SECRET
    assert run(data, "rewrap", "--org", "org_unknown")[0] == 1


def test_an_old_secrets_key_is_dropped_when_nothing_is_under_it(data: DataDir) -> None:
    org_id = asyncio.run(_with_a_key(data))
    ((old, old_key),) = data.secrets_keys().items()
    assert run(data, "wrapping-keys") == (0, f"{old}: 1 data keys, current\n")
    new_key = base64url(secrets.token_bytes(32))
    data.write_private("secrets-keys.json", json.dumps({"9999": new_key}))
    code, shown = run(data, "wrapping-keys")
    assert (code, f"{old}: 1 data keys, not set" in shown) == (1, True)
    # With both, a start moves what is under the old one.
    data.write_private("secrets-keys.json", json.dumps({old: old_key, "9999": new_key}))
    for _ in range(100):
        code, shown = run(data, "wrapping-keys")
        if "9999: 1 data keys, current" in shown:
            break
    assert (code, f"{old}: 0 data keys, may be dropped" in shown) == (0, True)
    data.write_private("secrets-keys.json", json.dumps({"9999": new_key}))
    assert run(data, "wrapping-keys") == (0, "9999: 1 data keys, current\n")
    assert asyncio.run(_secret(data, org_id)) == SECRET
