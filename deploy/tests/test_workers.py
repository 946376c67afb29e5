"""Workers on one port: all answer, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tallygate_deploy.processes import ServiceDiedError
from tallygate_deploy.shared_port import SharedPort, shared_port
from tallygate_deploy.workers import LONGEST_PAUSE_S, WorkerProgram, Workers, pause_s
from tests.harness.waiting import eventually

HOST = "127.0.0.1"
WORKER = """
import os, socket
with socket.socket(fileno=int(os.environ["TALLYGATE_EDGE_FD"])) as listener:
    listener.listen()
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(str(os.getpid()).encode())
"""


def program(folder: Path, text: str = WORKER) -> WorkerProgram:
    (folder / "tiny_worker.py").write_text(text, encoding="utf-8")
    return WorkerProgram("tiny", "tiny_worker", {"PYTHONPATH": str(folder)}, folder / "logs", stop_after_s=5)


@asynccontextmanager
async def two_workers(folder: Path) -> AsyncIterator[tuple[Workers, SharedPort]]:
    with shared_port(HOST, 0) as port:
        async with Workers(program(folder), 2, port).running() as workers:
            yield workers, port


async def asked(port: SharedPort) -> int:
    """The process that answers a connection; 0: it was reset."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port.port)
        pid = int(await reader.read() or 0)
    except ConnectionError:
        return 0
    writer.close()
    return pid


async def answering(port: SharedPort, wanted: int) -> set[int]:
    """As soon as so many different processes have answered."""
    seen: set[int] = set()
    give_up_at = time.monotonic() + 30
    while len(seen - {0}) < wanted:
        assert time.monotonic() < give_up_at, f"only {seen} answered"
        seen.add(await asked(port))
    return seen - {0}


def pids(workers: Workers) -> set[int]:
    return {child.process.pid for child in workers.alive.values()}


async def test_both_answer_and_who_is_killed_is_replaced(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as (workers, port):
        first = pids(workers)
        assert await answering(port, 2) == first
        killed = workers.alive[1].process
        os.kill(killed.pid, signal.SIGKILL)
        await killed.wait()
        (survivor,) = first - {killed.pid}
        assert {await asked(port) for _ in range(20)} <= {survivor, *pids(workers)}, "nobody waits for the dead one"
        both = await answering(port, 2)
        assert survivor in both
        assert killed.pid not in both
        # It listens a moment before its keeper has seen that it does.
        await asyncio.to_thread(eventually, lambda: len(workers.alive) == 2)
        last = [child.process for child in workers.alive.values()]
    assert [process.returncode for process in last] == [-signal.SIGTERM] * 2


async def test_one_that_never_serves_ends_the_start_with_its_log(tmp_path: Path) -> None:
    with shared_port(HOST, 0) as port:
        workers = Workers(program(tmp_path, "raise SystemExit('no such table')"), 2, port)
        with pytest.raises(ServiceDiedError, match=r"(?s)tiny-. ended with 1.*no such table"):
            async with workers.running():
                pytest.fail("it does not serve")


def test_the_more_deaths_in_a_row_the_longer_the_pause() -> None:
    assert [pause_s(deaths) for deaths in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause_s(100_000) == LONGEST_PAUSE_S
