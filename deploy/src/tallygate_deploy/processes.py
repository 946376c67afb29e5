"""Services as child processes of one launcher, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
_TAIL_LINES = 20
_POLL_S = 0.05


class ServiceDiedError(Exception):
    """A child ended though nobody asked it to."""


# Run before the child's own program: asks the kernel for a signal when the launcher ends, also by SIGKILL
# (PR_SET_PDEATHSIG is 1). Not a preexec_fn, which would fork this process with gRPC's threads in it.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[1])); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """One child: its name, its process and where it writes its log."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def assert_alive(self) -> None:
        """Raise if it has ended.

        Raises:
            ServiceDiedError: with the last lines of its log.
        """
        if self.process.returncode is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
            tail = "\n".join(f"  {line}" for line in lines)
            raise ServiceDiedError(
                f"{self.name} ended with {self.process.returncode}; its log {self.log} ends:\n{tail}"
            )


@asynccontextmanager
async def service_process(
    name: str,
    module: str,
    environment: Mapping[str, str],
    *,
    log: Path,
    stop_after_s: float,
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    orphaned: signal.Signals = signal.SIGTERM,
) -> AsyncIterator[ServiceProcess]:
    """Runs ``python -m module arguments`` with ``environment`` added.

    On leaving: SIGTERM, ``stop_after_s`` seconds to drain, then SIGKILL. The child has a process group of its own, so
    that a Ctrl-C in the terminal reaches the launcher only, which stops the services in their order. ``orphaned``: what
    it is sent where the launcher is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _TIED,
            str(int(orphaned)),
            "-m",
            module,
            *arguments,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    child = ServiceProcess(name, process, log)
    try:
        yield child
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), stop_after_s)
            except TimeoutError:
                _log.warning("service_did_not_drain", service=name, stop_after_s=stop_after_s)
                process.kill()
                await process.wait()


async def until_one_dies(children: list[ServiceProcess]) -> None:
    """Returns never, unless a child ends.

    Raises:
        ServiceDiedError: naming the first that did.
    """
    waits = [asyncio.create_task(child.process.wait()) for child in children]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await wait
    for child in children:
        child.assert_alive()


async def wait_for_file(child: ServiceProcess, path: Path, *, within_s: float) -> None:
    """Waits until ``child`` has written ``path``.

    Raises:
        ServiceDiedError: the child ended first.
        TimeoutError: the file is not there in time.
    """
    async with asyncio.timeout(within_s):
        while not path.exists():
            child.assert_alive()
            await asyncio.sleep(_POLL_S)
