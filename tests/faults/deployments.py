"""Tallygate as it is put under faults: the mesh, whose parts are killed one by one, and all in one process."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, text

from ledger_svc.domain.signing import PublicKeys, load_private_key
from ledger_svc.store.reading import UnreadableError, read_only
from meshkit.channels import Dialer
from meshkit.telemetry import Telemetry
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.local_parts import valkey
from tallygate_deploy.mesh import GRPC_SERVICES, service_environments, until_edge_ready, until_healthy
from tallygate_deploy.model_choice import ModelChoice
from tests.faults.parts import START_WITHIN_S, Postgres, Service, is_gone, until
from tests.faults.trigger import ARMED, PLANTED, Trigger
from tests.harness.gateway import NO_LIMITS, PROVIDER_KEYS
from tests.upstream.overlay import API_KEYS
from tests.upstream.server import ScriptedUpstream, scripted_upstream

REQUEST_S, PATIENCE_S, HOLD_S = 3.0, 3.0, 3.0
SWEEP_S = 0.2

SETTINGS = {
    # Everything that is waited for in minutes in production happens here within seconds, so that a history can end.
    "TALLYGATE_ROUTER_REQUEST_TIMEOUT_S": str(REQUEST_S),
    "TALLYGATE_ROUTER_SETTLE_PATIENCE_S": str(PATIENCE_S),
    "TALLYGATE_ROUTER_HOLD_TTL_S": str(HOLD_S),
    "TALLYGATE_ROUTER_DRAIN_S": "1",
    "TALLYGATE_ROUTER_FLIGHT_LEASE_S": "2",
    "TALLYGATE_EDGE_FLIGHT_LEASE_S": "1",
    "TALLYGATE_EDGE_CHARGE_PATIENCE_S": "3",
    "TALLYGATE_EDGE_DRAIN_S": "1",
    "TALLYGATE_LEDGER_SWEEP_INTERVAL_S": str(SWEEP_S),
    "TALLYGATE_LEDGER_CHECKPOINT_INTERVAL_S": "0.1",
    "TALLYGATE_LEDGER_TAKEOVER_POLL_S": "0.1",
    "TALLYGATE_LEDGER_DRAIN_S": "1",
    **NO_LIMITS,
    # Whoever runs this may have keys of real sources, and a receiver of traces.
    **dict.fromkeys(PROVIDER_KEYS, ""),
    "OTEL_TRACES_EXPORTER": "none",
    **API_KEYS,
}
D = TypeVar("D", bound="Deployment")

ONE_BACKEND = "backend"
"""The process of PostgreSQL that serves the writer. PostgreSQL itself takes care that it is back."""


class Deployment(ABC):
    """A running Tallygate. ``victims``: what can be killed, and started again by ``revive``."""

    victims: tuple[str, ...]

    def __init__(self, data: DataDir, upstream: ScriptedUpstream) -> None:
        self.data = data
        self.upstream = upstream
        self.trigger = Trigger(data.root / "armed.json")
        self.base_url = ""
        self.database_url = ""

    @classmethod
    @abstractmethod
    def running(cls, folder: Path, upstream: ScriptedUpstream) -> AbstractAsyncContextManager[Self]:
        """Inside the block, on an empty folder."""

    @property
    def keys(self) -> PublicKeys:
        """Of the log."""
        return {kid: load_private_key(seed).public_key() for kid, seed in self.data.signing_keys().items()}

    @property
    @abstractmethod
    def ledger_address(self) -> str:
        """Where the ledger answers."""

    @abstractmethod
    async def pid_of(self, victim: str) -> int:
        """Its process, as it is now."""

    @abstractmethod
    async def revive(self, victim: str) -> None:
        """Once it has been killed: waits until it is gone, starts it again, and waits until it serves."""


class Mesh(Deployment):
    """Five processes, PostgreSQL, and a Redis-protocol server. ``planted``: see ``armed_ledger``."""

    victims = ("ledger", "router", "edge", "postgres", ONE_BACKEND)

    def __init__(self, data: DataDir, upstream: ScriptedUpstream, addresses: Mapping[str, str]) -> None:
        super().__init__(data, upstream)
        self.planted = ""
        self._addresses = addresses
        self._postgres = Postgres(data.postgres)
        self._services: dict[str, Service] = {}

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, upstream: ScriptedUpstream) -> AsyncIterator[Self]:
        """See ``Deployment``."""
        async with AsyncExitStack() as stack:
            private = stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-faults-"))
            addresses = {name: f"unix://{private}/{name}.sock" for name in GRPC_SERVICES}
            mesh = cls(DataDir(folder), upstream, addresses)
            mesh.database_url = await mesh._postgres.start()
            stack.push_async_callback(mesh._postgres.stop)
            cache_url = await stack.enter_async_context(valkey(mesh.data.root / "valkey"))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2_048))
            mesh._name_services(cache_url, listener)
            for service in mesh._services.values():
                stack.push_async_callback(service.stop)
            await asyncio.gather(*(mesh._start(name) for name in GRPC_SERVICES))
            await mesh._start("edge")
            yield mesh

    def _name_services(self, cache_url: str, listener: socket.socket) -> None:
        models = ModelChoice([self.upstream.write_overlay(self.data.root / "overlay.yaml")], "test/ok")
        environments = service_environments(self.data, models, self._addresses, self.database_url, cache_url)
        # The socket outlives the edge, as a load balancer does: who comes meanwhile waits.
        environments["edge"]["TALLYGATE_EDGE_FD"] = str(listener.fileno())
        self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        armed = {ARMED: str(self.data.root / "armed.json")}
        for name in (*GRPC_SERVICES, "edge"):
            usual = name if name == "edge" else f"{name}_svc"
            module = f"tests.faults.armed_{name}" if name in ("ledger", "router") else usual
            fds = [listener.fileno()] if name == "edge" else []
            environment = environments[name] | SETTINGS | armed
            log = self.data.root / "logs" / f"{name}.log"
            self._services[name] = Service(name, (module,), environment, log, fds)

    @property
    def ledger_address(self) -> str:
        """See ``Deployment``."""
        return self._addresses["ledger"]

    async def pid_of(self, victim: str) -> int:
        """See ``Deployment``."""
        if victim == "postgres":
            return self._postgres.pid
        if victim == ONE_BACKEND:
            return await self._writers_backend()
        return self._services[victim].pid

    async def revive(self, victim: str) -> None:
        """See ``Deployment``."""
        if victim == "postgres":
            await self._postgres.ended()
            assert await self._postgres.start() == self.database_url
        elif victim == ONE_BACKEND:
            await self._writers_backend()
        else:
            await self._services[victim].ended()
            await self._start(victim)

    async def restart_ledger(self, planted: str) -> None:
        """An orderly end and another start, with a bug planted."""
        self.planted = planted
        await self._services["ledger"].stop()
        await self._start("ledger")

    async def _writers_backend(self) -> int:
        """The process that serves the writer. PostgreSQL may be recovering, and the ledger on its way back to it."""
        async with asyncio.timeout(START_WITHIN_S):
            while True:
                with suppress(UnreadableError):
                    pid = await read_only(self.database_url, _writers_backend)
                    if pid is not None:
                        return pid
                await asyncio.sleep(SWEEP_S)

    async def _start(self, name: str) -> None:
        child = await self._services[name].start(**{PLANTED: self.planted})
        if name == "edge":
            await until_edge_ready([child], self.base_url)
            return
        async with Dialer(Telemetry.off("faults")) as dial:
            await until_healthy(child, dial(self._addresses[name]))


class AllInOne(Deployment):
    """`tallygate up`: one process, on SQLite."""

    victims = ("up",)

    def __init__(self, data: DataDir, upstream: ScriptedUpstream, service: Service, ready_file: Path) -> None:
        super().__init__(data, upstream)
        self.database_url = f"sqlite:///{data.ledger_db}"
        self._service = service
        self._ready_file = ready_file

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, upstream: ScriptedUpstream) -> AsyncIterator[Self]:
        """See ``Deployment``."""
        data, ready_file = DataDir(folder), folder / "ready.json"
        overlay = upstream.write_overlay(data.root / "overlay.yaml")
        command = ("tests.faults.armed_up", str(folder), str(overlay), str(ready_file))
        environment = SETTINGS | {ARMED: str(data.root / "armed.json")}
        service = Service("up", command, environment, data.root / "up.log")
        allinone = cls(data, upstream, service, ready_file)
        try:
            await allinone._start()
            yield allinone
        finally:
            await service.stop()

    @property
    def ledger_address(self) -> str:
        """See ``Deployment``."""
        return self.data.ledger_address() or "unix:///nowhere"

    async def pid_of(self, victim: str) -> int:
        """See ``Deployment``."""
        return self._service.pid

    async def revive(self, victim: str) -> None:
        """See ``Deployment``."""
        await self._service.ended()
        await self._start()

    async def _start(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        child = await self._service.start()
        ready = await until(lambda: self._ready_file.exists() or is_gone(child.process.pid), START_WITHIN_S)
        child.assert_alive()
        assert ready, "`tallygate up` was not ready in time"
        self.base_url = json.loads(self._ready_file.read_text(encoding="utf-8"))["base_url"]


@asynccontextmanager
async def deployed(kind: type[D], folder: Path) -> AsyncIterator[D]:
    """A deployment on an empty folder, with a scripted source of its own."""
    async with scripted_upstream() as upstream, kind.running(folder, upstream) as deployment:
        yield deployment


def _writers_backend(connection: Connection) -> int | None:
    query = text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() LIMIT 1")
    pid: int | None = connection.execute(query).scalar_one_or_none()
    return pid
