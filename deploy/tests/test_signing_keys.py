"""What an installation keeps: secrets that are made once and read by their owner only."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.settings import LedgerSettings
from tallygate_deploy.allinone import ledger_settings
from tallygate_deploy.data_dir import DataDir


def test_a_signing_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys = DataDir(tmp_path).signing_keys()
    assert DataDir(tmp_path).signing_keys() == keys
    assert DataDir(tmp_path / "other").signing_keys().keys() != keys.keys()
    assert stat.S_IMODE((tmp_path / "signing-keys.json").stat().st_mode) == 0o600
    (kid,) = keys
    assert ledger_settings(DataDir(tmp_path)).keyring().signing_kid == kid


def test_a_key_added_to_the_file_signs_and_the_old_one_stays(tmp_path: Path) -> None:
    keys = DataDir(tmp_path).signing_keys()
    (tmp_path / "signing-keys.json").write_text(json.dumps(keys | {"9999-01-01": "b25l" * 10 + "b24"}))
    ring = Keyring({kid: load_private_key(seed) for kid, seed in DataDir(tmp_path).signing_keys().items()})
    assert ring.signing_kid == "9999-01-01"
    assert ring.public.keys() == {*keys, "9999-01-01"}


def test_a_secrets_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys = DataDir(tmp_path).secrets_keys()
    assert DataDir(tmp_path).secrets_keys() == keys
    assert not keys.items() & DataDir(tmp_path).signing_keys().items()
    assert stat.S_IMODE((tmp_path / "secrets-keys.json").stat().st_mode) == 0o600
    decoded = ledger_settings(DataDir(tmp_path)).secrets_key_bytes()
    assert [(kid, len(key)) for kid, key in decoded.items()] == [(kid, 32) for kid in keys]


@pytest.mark.parametrize("bad", [{"k": "c2hvcnQ"}, {"k": "not base64"}, {"": "b25l" * 10 + "b24"}])
def test_a_secrets_key_is_whole(bad: dict[str, str]) -> None:
    signing = {"k": SecretStr("b25l" * 10 + "b24")}
    with pytest.raises(ValidationError, match="secrets_keys"):
        LedgerSettings(
            peppers={1: SecretStr("a pepper for the test")},
            signing_keys=signing,
            secrets_keys={kid: SecretStr(key) for kid, key in bad.items()},
        )
