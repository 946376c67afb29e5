"""The `tallygate` command inside the test's own process: a process of its own takes a second of CPU to begin.

That the command also runs as one is seen by the tests of the installation, which start it.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog
from typer.testing import CliRunner

from tallygate_deploy.cli import app
from tallygate_deploy.data_dir import DataDirError


def tallygate(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command. Not from within a running event loop: the command has its own."""
    words = [str(argument) for argument in arguments]
    with logging_as_before():
        result = CliRunner().invoke(app, words, env=dict(environment or {}))
    error = result.exception
    if isinstance(error, DataDirError):  # as the command's entry point says it
        return subprocess.CompletedProcess(words, 1, result.stdout, f"{result.stderr}tallygate: {error}\n")
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)


@contextmanager
def logging_as_before() -> Iterator[None]:
    """A command sets up its logging for good; here it ends with it."""
    root, was_configured, configuration = logging.getLogger(), structlog.is_configured(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if was_configured:
            structlog.configure(**configuration)
        else:
            structlog.reset_defaults()
