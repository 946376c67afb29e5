"""Workers: child processes that all answer on one port, each of which is replaced when it dies."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from tallygate_deploy.processes import ServiceDiedError, ServiceProcess, service_process
from tallygate_deploy.shared_port import SharedPort, is_listening

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
SETTLED_AFTER_S = 10.0
"""A worker that has lived for so long starts its row of deaths anew."""
_READY_WITHIN_S = 60.0
_POLL_S = 0.02
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerProgram:
    """What a worker runs: ``python -m module``, which takes the file descriptor of its socket from the environment
    variable ``fd_variable``, and listens on it once it can serve. ``logs``: the folder of its log. ``stop_after_s``:
    what it has to drain in.
    """

    name: str
    module: str
    environment: Mapping[str, str]
    logs: Path
    stop_after_s: float
    fd_variable: str = "TALLYGATE_EDGE_FD"


@dataclass(slots=True)
class Workers:
    """``count`` of them on ``port``; use ``running``."""

    program: WorkerProgram
    count: int
    port: SharedPort
    alive: dict[int, ServiceProcess] = field(default_factory=dict)
    """Those that listen, by number."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Workers]:
        """Inside the block they serve; on leaving they drain, all at once.

        Raises:
            ServiceDiedError: one ended before it ever served.
            TimeoutError: one did not serve in time.
        """
        loop = asyncio.get_running_loop()
        first = [loop.create_future() for _ in range(self.count)]
        keepers = [
            asyncio.create_task(self._keep(number, began), name=f"{self.program.name} {number}")
            for number, began in enumerate(first, start=1)
        ]
        try:
            await asyncio.gather(*first)
            yield self
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _keep(self, number: int, first: asyncio.Future[None]) -> None:
        """Has worker ``number`` serve, again and again. Resolves ``first`` by how the first start went."""
        deaths = 0
        while True:
            began_s = time.monotonic()
            try:
                await self._live(number, first)
            except (ServiceDiedError, OSError) as error:  # a TimeoutError is one
                if not first.done():
                    first.set_exception(error)
                    return
                deaths = deaths + 1 if time.monotonic() - began_s < SETTLED_AFTER_S else 1
                name = f"{self.program.name}-{number}"
                _log.error("worker_died", worker=name, error=str(error), again_in_s=pause_s(deaths))
            await asyncio.sleep(pause_s(deaths))

    async def _live(self, number: int, first: asyncio.Future[None]) -> None:
        """One life of a worker.

        Raises:
            ServiceDiedError: always, if nobody stops it before: how it ended.
            TimeoutError: it did not serve in time.
        """
        async with self._started(number) as child:
            self.alive[number] = child
            try:
                if not first.done():
                    first.set_result(None)
                await child.process.wait()
                child.assert_alive()
            finally:
                del self.alive[number]

    @asynccontextmanager
    async def _started(self, number: int) -> AsyncIterator[ServiceProcess]:
        name = f"{self.program.name}-{number}"
        with self.port.socket() as member:
            fd = member.fileno()
            # It can do nothing without this process, and clients are better off with a connection that breaks at once.
            async with service_process(
                name,
                self.program.module,
                {**self.program.environment, self.program.fd_variable: str(fd)},
                log=self.program.logs / f"{name}.log",
                stop_after_s=self.program.stop_after_s,
                pass_fds=[fd],
                orphaned=signal.SIGKILL,
            ) as child:
                async with asyncio.timeout(_READY_WITHIN_S):
                    while not is_listening(member):
                        child.assert_alive()
                        await asyncio.sleep(_POLL_S)
                # Else the socket would outlive the worker, and its share of the connections wait for nobody.
                member.close()
                yield child


def pause_s(deaths: int) -> float:
    """How long to wait before the next start, by the number of deaths in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(deaths - 1, 30))
