"""Child processes that can't outlive the process that started them.

The parent holds the write end of a pipe that is the child's standard input. The child ends when that pipe does: because
the parent left the block, or because the kernel closed it for a parent that was killed. No signal has to be sent, no
process id has to be right, and a Ctrl-C at the terminal does not take a part away from under requests that still drain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import structlog

STOP_GRACE_S = 10.0
READY_POLL_S = 0.02
STDERR_TAIL_BYTES = 4096
# What an interpreter may need to start. Provider keys stay with the parent.
CHILD_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
)

log = structlog.get_logger(__name__)


class LeashedChildError(RuntimeError):
    """The child did not get ready; the message ends with what it wrote to standard error."""


@asynccontextmanager
async def leashed(module: str, *arguments: str, start_timeout_s: float) -> AsyncIterator[dict[str, str]]:
    """Run `python -m MODULE ARGUMENTS` on a leash; yields what it announced when it was ready.

    The child gets `--ready-file` and `--end-with-stdin` as well, and must treat them as this module's other half does.
    It is not restarted; if it ends inside the block, that is logged.

    Args:
        module: what to run.
        arguments: its command line.
        start_timeout_s: how long it may take to get ready, seconds.

    Raises:
        LeashedChildError: it ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="tallygate-ready-") as folder, tempfile.TemporaryFile() as stderr:
        ready_file = Path(folder) / "ready.json"
        child = await _spawn(module, (*arguments, "--ready-file", str(ready_file), "--end-with-stdin"), stderr)
        try:
            ready = await _ready(child, module, ready_file, stderr, start_timeout_s)
            watch = asyncio.create_task(_report_death(child, module, stderr), name=f"watch {module}")
            try:
                yield ready
            finally:
                watch.cancel()
                await asyncio.wait([watch])
        finally:
            await _release(child)


async def _spawn(module: str, arguments: tuple[str, ...], stderr: IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        env={name: os.environ[name] for name in CHILD_ENVIRONMENT if name in os.environ},
    )


async def _ready(
    child: asyncio.subprocess.Process, module: str, ready_file: Path, stderr: IO[bytes], start_timeout_s: float
) -> dict[str, str]:
    try:
        async with asyncio.timeout(start_timeout_s):
            while not ready_file.exists():
                if child.returncode is not None:
                    raise LeashedChildError(f"{module} ended with {child.returncode}: {_tail(stderr)}")
                await asyncio.sleep(READY_POLL_S)
    except TimeoutError as error:
        raise LeashedChildError(f"{module} was not ready within {start_timeout_s} s: {_tail(stderr)}") from error
    facts: dict[str, str] = json.loads(ready_file.read_text(encoding="utf-8"))
    return facts


async def _report_death(child: asyncio.subprocess.Process, module: str, stderr: IO[bytes]) -> None:
    code = await child.wait()
    log.error("leashed_child_died", module=module, exit_code=code, stderr=_tail(stderr))


async def _release(child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await child.wait()
    except TimeoutError:
        log.warning("leashed_child_did_not_end", pid=child.pid, waited_s=STOP_GRACE_S)
        child.kill()
        await child.wait()


def _tail(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL_BYTES))
    return stderr.read().decode(errors="replace").strip()


def add_leash_arguments(parser: argparse.ArgumentParser) -> None:
    """In the child: the two options that the parent passes. By hand, neither is needed."""
    parser.add_argument("--ready-file", type=Path, help="gets one JSON object when the process can be used")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input does")


def obey_the_leash(*, end_with_stdin: bool) -> None:
    """In the child, first: on a leash only the leash ends it; else SIGTERM and Ctrl-C raise KeyboardInterrupt."""
    if end_with_stdin:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def announce_ready(ready_file: Path | None, facts: dict[str, str | int]) -> None:
    """In the child: say that it can be used, in the ready-file or else on standard output."""
    line = json.dumps({**facts, "pid": os.getpid()})
    if ready_file is None:
        print(line, flush=True)
        return
    draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
    draft.write_text(line, encoding="utf-8")
    draft.replace(ready_file)  # a reader sees the whole line or nothing


def wait_for_release(*, end_with_stdin: bool) -> None:
    """In the child, last: returns when it should end."""
    try:
        if end_with_stdin:
            while os.read(0, 4096):
                pass
        else:
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return
