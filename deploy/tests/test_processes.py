"""Children of a launcher: they end with it, however it ends, and say why they died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tallygate_deploy.processes import ServiceDiedError, service_process, until_one_dies

LAUNCHER = """
import asyncio, sys
from pathlib import Path
from tallygate_deploy.processes import service_process

async def main():
    log = Path(sys.argv[1])
    async with service_process("sleeper", "asyncio", {}, log=log, stop_after_s=5) as child:
        print(child.process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_child_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.kill()
    give_up_at = time.monotonic() + 10
    while not ended(pid):
        assert time.monotonic() < give_up_at, "the child lives on without its launcher"
        time.sleep(0.02)


async def test_a_child_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with service_process("wrong", "no_such_module_here", {}, log=tmp_path / "log", stop_after_s=5) as child:
        with pytest.raises(ServiceDiedError, match=r"(?s)wrong ended with 1.*no_such_module_here"):
            await until_one_dies([child])


async def test_a_child_is_asked_to_end_before_it_is_made_to(tmp_path: Path) -> None:
    async with service_process(
        "server", "http.server", {}, log=tmp_path / "log", stop_after_s=5, arguments=("0",)
    ) as child:
        os.kill(child.process.pid, 0)
    assert child.process.returncode == -signal.SIGTERM
