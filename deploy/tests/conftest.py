"""What tests of the verifier share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.wire.log import jwks_json
from tallygate_deploy.cli import app
from tests.harness.commands import logging_as_before

sys.path.insert(0, str(Path(__file__).parent))

from receipt_log import LOG


@pytest.fixture(autouse=True)
def logging_ends_with_its_test() -> Iterator[None]:
    """What a command that runs in this process sets up."""
    with logging_as_before():
        yield


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(jwks_json(LOG.listed())))
    return path


@pytest.fixture
def run(tmp_path: Path, jwks: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command on a bundle; gives the exit code and what was printed."""

    def run(bundle: object, *arguments: str, checkpoint: str | None = None, pinned: bool = True) -> tuple[int, str]:
        path = tmp_path / "proof.json"
        path.write_text(bundle if isinstance(bundle, str) else json.dumps(bundle, ensure_ascii=False))
        options = [*arguments, *(["--jwks", str(jwks)] if pinned else [])]
        if checkpoint is not None:
            (tmp_path / "checkpoint").write_text(checkpoint)
            options += ["--checkpoint", str(tmp_path / "checkpoint")]
        result = CliRunner().invoke(app, ["verify", str(path), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return run
