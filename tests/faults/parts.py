"""Processes that the harness kills and starts again: Tallygate's services, and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tallygate_deploy.processes import ServiceProcess, service_process

POLL_S = 0.01
START_WITHIN_S = 60.0
STOP_AFTER_S = 20.0


async def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Whether ``holds()`` became true in time."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    while not holds():
        if loop.time() > give_up_at:
            return False
        await asyncio.sleep(POLL_S)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has taken notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went between opening and reading
        return True


class Service:
    """One service, of which each ``start`` makes a new process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._module, *self._arguments = command
        self._environment = environment
        self._log = log
        self._pass_fds = pass_fds
        self._stack = AsyncExitStack()
        self.process: ServiceProcess | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.process.pid

    async def start(self, **environment: str) -> ServiceProcess:
        """``environment``: beyond the usual."""
        child = service_process(
            self.name,
            self._module,
            {**self._environment, **environment},
            log=self._log,
            stop_after_s=STOP_AFTER_S,
            arguments=self._arguments,
            pass_fds=self._pass_fds,
        )
        self.process = await self._stack.enter_async_context(child)
        return self.process

    async def ended(self) -> None:
        """Waits until it has, without asking it to."""
        assert self.process is not None
        await self.process.process.wait()
        await self._stack.aclose()

    async def stop(self) -> None:
        """SIGTERM, and its time to drain."""
        await self._stack.aclose()


class Postgres:
    """PostgreSQL on a folder, under the guardian that `tallygate mesh` has too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guardian: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.folder / "postmaster.pid").read_text(encoding="utf-8").split()[0])

    async def start(self) -> str:
        """Gives the URL; it is the same each time."""
        ready = self.folder.with_name("postgres-ready.json")
        ready.unlink(missing_ok=True)
        command = ["-m", "tallygate_deploy.local_parts", "postgres", str(self.folder)]
        with self.folder.with_name("postgres.log").open("ab") as log:
            self._guardian = guardian = await asyncio.create_subprocess_exec(
                sys.executable,
                *(*command, "--ready-file", str(ready), "--end-with-stdin"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        if not await until(lambda: ready.exists() or guardian.returncode is not None, START_WITHIN_S):
            raise AssertionError("PostgreSQL did not start in time")
        assert guardian.returncode is None, "PostgreSQL did not start"
        return str(json.loads(ready.read_text(encoding="utf-8"))["url"])

    async def ended(self) -> None:
        """Waits until the postmaster, which was killed, has ended and all that it had forked; its backends notice.

        Its lock files name a process that may still be listed where nobody takes notice of orphans, as in a container.
        Nobody is left whom they could protect.
        """
        port, socket_folder = (self.folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()[3:5]
        assert await until(lambda: not self._processes(), START_WITHIN_S)
        assert self._guardian is not None
        self._guardian.kill()
        await self._guardian.wait()
        (self.folder / "postmaster.pid").unlink()
        (Path(socket_folder) / f".s.PGSQL.{port}.lock").unlink()

    async def stop(self) -> None:
        """An orderly end."""
        assert self._guardian is not None
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        await self._guardian.wait()

    def _processes(self) -> list[int]:
        """Those whose working folder is the cluster: the postmaster, and all that it forks."""
        return [pid for pid in _pids() if not is_gone(pid) and _working_folder(pid) == self.folder]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _working_folder(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # it has ended meanwhile, or is another user's
        return None
