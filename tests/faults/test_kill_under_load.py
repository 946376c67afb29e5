"""`kill -9` under the load of the bench: what was acknowledged is in the ledger, and the books are right."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from ledger_svc.store.reading import read_only
from ledger_svc.store.tables import RECEIPT
from tests.bench.gateway.contenders import MODEL, overlay
from tests.bench.gateway.programs import Ask, Load, Programs, answered, build, load_command, running_upstream
from tests.bench.gateway.rounds import body_of
from tests.faults.clients import RICH_NANO_USD, found_tenant
from tests.faults.deployments import AllInOne, Deployment, Mesh
from tests.faults.parts import is_gone, kill, until
from tests.faults.trigger import Arming
from tests.harness.commands import tallygate
from tests.upstream.overlay import API_KEY_ENVS
from tests.upstream.server import ScriptedUpstream

CONNECTIONS = 16
ENOUGH = 50
"""So many answers show that the load flows."""
WITHIN_S = 30.0


class BenchSource(ScriptedUpstream):
    """The bench's source in place of the scripted one."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def write_overlay(self, path: Path) -> Path:
        path.write_text(overlay(self.port, API_KEY_ENVS["scripted"]), encoding="utf-8")
        return path


@dataclass(frozen=True, slots=True)
class Clients:
    """The bench's client. It ends when nobody takes its connections any more, or when it is told to."""

    process: asyncio.subprocess.Process
    told: Path

    @property
    def receipts(self) -> list[str]:
        """Of each answer that was right and whole; a line that is not whole yet is not one."""
        lines = self.told.read_text(encoding="ascii").splitlines(keepends=True) if self.told.exists() else []
        return [line.strip() for line in lines if line.endswith("\n")]

    async def flow(self) -> None:
        """Until more answers have come."""
        wanted = len(self.receipts) + ENOUGH
        assert await until(lambda: len(self.receipts) >= wanted, WITHIN_S), "no answers come"

    async def ended(self) -> dict[str, float]:
        """What it says at its end."""
        said, _ = await asyncio.wait_for(self.process.communicate(), WITHIN_S)
        facts: dict[str, float] = json.loads(said)
        return facts


@asynccontextmanager
async def load_on(deployment: Deployment, programs: Programs, folder: Path) -> AsyncIterator[Clients]:
    tenant = await found_tenant(deployment, RICH_NANO_USD)
    port = int(deployment.base_url.rpartition(":")[2].partition("/")[0])
    headers = {"authorization": f"Bearer {tenant.secret}"}
    ask = Ask(port, "/v1/chat/completions", headers, body_of(MODEL, {}, stream=False))
    command, told = load_command(programs, ask, Load(CONNECTIONS, 1_000_000), folder), folder / "receipts"
    process = await asyncio.create_subprocess_exec(
        *command, str(told), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield Clients(process, told)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang", "python-zig")):
        pytest.skip("no C compiler")
    return build(tmp_path_factory.mktemp("programs"))


def _receipts(connection: Connection) -> set[str]:
    return set(connection.scalars(select(RECEIPT.c.receipt_id)))


async def assert_kept(deployment: Deployment, told: list[str], source_port: int) -> None:
    """Every receipt that a client was told of is there, none is twice, and every rule of the books holds."""
    assert len(set(told)) == len(told)
    kept = await read_only(deployment.database_url, _receipts)
    assert set(told) <= kept
    assert len(kept) <= answered(source_port), "a call is charged once at most"
    checked = await asyncio.to_thread(tallygate, "ledger", "check", "--data", deployment.data.root)
    assert checked.returncode == 0, checked.stdout


async def killed_in_a_commit(deployment: Deployment, victim: str) -> None:
    """In the middle of the load, between what the ledger has decided and what it has written."""
    pid = await deployment.pid_of(victim)
    deployment.trigger.arm(Arming(1, "before_commit", passes=5, victim_pid=pid))
    assert await until(lambda: is_gone(pid), WITHIN_S), "no commit comes"


@pytest.mark.timeout(120)
async def test_one_process_is_killed(tmp_path: Path, programs: Programs) -> None:
    with running_upstream(programs) as source_port:
        async with AllInOne.running(tmp_path / "data", BenchSource(source_port)) as allinone:
            async with load_on(allinone, programs, tmp_path) as clients:
                await clients.flow()
                await killed_in_a_commit(allinone, "up")
                facts = await clients.ended()
            assert facts["right"] == len(clients.receipts)
            assert facts["wrong"] == 0, "a client is given the right answer or none"
            await allinone.revive("up")
            await assert_kept(allinone, clients.receipts, source_port)


@pytest.mark.timeout(120)
async def test_ledger_and_router_of_the_mesh_are_killed(tmp_path: Path, programs: Programs) -> None:
    with running_upstream(programs) as source_port:
        async with Mesh.running(tmp_path / "data", BenchSource(source_port)) as mesh:
            mesh.data.claim("mesh")
            async with load_on(mesh, programs, tmp_path) as clients:
                await clients.flow()
                await killed_in_a_commit(mesh, "ledger")
                await mesh.revive("ledger")
                await clients.flow()
                kill(await mesh.pid_of("router"))
                await mesh.revive("router")
                await clients.flow()
                clients.process.terminate()
                facts = await clients.ended()
            assert facts["right"] == len(clients.receipts)
            await assert_kept(mesh, clients.receipts, source_port)
