"""The folder of an installation: who may read it, who may serve from it, what it remembers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tallygate_deploy.data_dir import DataDir, DataDirError, DataDirInUseError, Tenant


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "new")
    data.pepper()
    data.save_tenant(Tenant("org_1", "prj_1"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data.root, *data.root.iterdir())}
    assert modes == {"new": 0o700, "pepper": 0o600, "tenant.json": 0o600}


def test_the_pepper_is_made_once_and_is_each_folders_own(tmp_path: Path) -> None:
    first, other = DataDir(tmp_path / "a"), DataDir(tmp_path / "b")
    assert first.pepper() == DataDir(tmp_path / "a").pepper()
    assert first.pepper() != other.pepper()
    assert len(first.pepper()) >= 32


def test_one_process_serves_from_it_at_a_time(tmp_path: Path) -> None:
    with (
        DataDir(tmp_path).locked(),
        pytest.raises(DataDirInUseError, match="stop it, or choose another"),
        DataDir(tmp_path).locked(),
    ):
        raise AssertionError("the lock was given twice")
    with DataDir(tmp_path).locked():
        pass


def test_it_belongs_to_one_mode(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert data.mode == ""
    data.claim("mesh")
    data.claim("mesh")
    with pytest.raises(DataDirError, match="belongs to `tallygate mesh`"):
        data.claim("up")


def test_the_tenant_is_remembered(tmp_path: Path) -> None:
    assert DataDir(tmp_path).tenant() is None
    DataDir(tmp_path).save_tenant(Tenant("org_1", "prj_1"))
    assert DataDir(tmp_path).tenant() == Tenant("org_1", "prj_1")


def test_the_ledger_is_announced_only_while_it_is_there(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with data.announced_ledger("unix:///x"):
        assert DataDir(tmp_path).ledger_address() == "unix:///x"
    assert data.ledger_address() is None


def test_a_folder_that_can_not_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataDirError, match="choose another with --data"):
        DataDir(tmp_path / "file")
