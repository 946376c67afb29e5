"""One replica writes. Another stands by: it answers reads, refuses writes, and takes over. The books stay right."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger_processes import a_payer, processes
from ledger_trail import an_entry
from sqlalchemy import Connection, select, text

from ledger_svc.domain.errors import Standby
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.store.audit import audit
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.opening import open_database
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ORG, WRITER_EPOCH
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.channels import Dialer
from meshkit.errors import MeshError, mesh_errors
from meshkit.telemetry import Telemetry
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub

if TYPE_CHECKING:
    pass

POLL_S = 0.05

SEALER = Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))


@pytest.fixture
async def second(url: str) -> AsyncIterator[Database]:
    """Another replica's connections to the same database."""
    database = open_database(url, connections=2, wait_s=20)
    try:
        yield database
    finally:
        await database.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a writer takes over by itself, and has nobody to tell
        await asyncio.sleep(0.01)


async def epoch_of(database: Database) -> int:
    return int(await database.read(lambda connection: connection.execute(select(WRITER_EPOCH.c.epoch)).scalar_one()))


async def organisations(database: Database) -> list[str]:
    return await database.read(lambda connection: list(connection.scalars(select(ORG.c.org_id).order_by(ORG.c.org_id))))


async def test_a_second_replica_answers_reads_refuses_writes_and_takes_over(
    database: Database, second: Database
) -> None:
    standby = Writer(second, SEALER, takeover_poll_s=POLL_S)
    async with AsyncExitStack() as stack:
        async with Writer(database, SEALER, takeover_poll_s=POLL_S).running() as writer:
            await stack.enter_async_context(standby.running())
            assert (writer.is_leading, standby.is_leading) == (True, False)
            await Directory(database, writer, Trail(SEALER)).create_organization("org_a", "Acme", an_entry())
            assert (await Records(second).balance("org_a")).posted_nano_usd == 0
            with pytest.raises(Standby) as refused:
                await Directory(second, standby, Trail(SEALER)).create_organization("org_b", "Acme", an_entry())
            assert refused.value.metadata == {"role": "standby"}
            epoch = await epoch_of(database)
        await until(lambda: standby.is_leading)
        assert await epoch_of(database) == epoch + 1
        await Directory(second, standby, Trail(SEALER)).create_organization("org_c", "Acme", an_entry())
    assert await organisations(database) == ["org_a", "org_c"]


async def test_a_writer_that_lost_its_epoch_writes_nothing_more(database: Database, second: Database) -> None:
    """As if it had hung, its lock had been taken for left, and it had come back: only the epoch tells."""
    async with Writer(database, SEALER, takeover_poll_s=POLL_S).running() as writer:
        directory = Directory(database, writer, Trail(SEALER))
        await directory.create_organization("org_a", "Acme", an_entry())
        await second.write(lambda connection: connection.execute(text("UPDATE writer_epoch SET epoch = epoch + 1")))
        epoch = await epoch_of(second)
        found = await asyncio.gather(
            *(directory.create_organization(f"org_{n}", "Acme", an_entry()) for n in range(5)), return_exceptions=True
        )
        assert [type(result) for result in found] == [Standby] * 5
        assert await organisations(second) == ["org_a"]
        # Nobody has the lock now, so it may become the writer again, under an epoch of its own.
        await until(lambda: writer.is_leading)
        assert await epoch_of(second) == epoch + 1
        await directory.create_organization("org_b", "Acme", an_entry())
    assert await organisations(second) == ["org_a", "org_b"]


async def test_the_epoch_is_one_row_for_good(database: Database) -> None:
    def second_row(connection: Connection) -> None:
        connection.execute(text("INSERT INTO writer_epoch VALUES (2, 0)"))

    with pytest.raises(Exception, match=r"(?i)check constraint"):
        await database.write(second_row)


async def test_a_standby_process_takes_over_within_seconds_when_the_writer_is_killed(
    url: str, database: Database, tmp_path: Path
) -> None:
    sockets = [f"unix://{tmp_path}/{name}" for name in ("a", "b")]
    async with processes(url) as serve, Dialer(Telemetry.off("test")) as dial:
        writer = await serve(sockets[0])
        await serve(sockets[1])
        first, standby = (LedgerServiceStub(dial(socket)) for socket in sockets)
        payer = await a_payer(first)

        def reserve(name: str) -> pb.ReserveRequest:
            return pb.ReserveRequest(
                principal=payer, request_id=name, amount_nano_usd=1_000, ttl_ms=60_000, model="gpt-x"
            )

        with pytest.raises(MeshError) as refused, mesh_errors():
            await standby.Reserve(reserve("early"), timeout=20)
        assert refused.value.reason == ErrorReason.ERROR_REASON_UNAVAILABLE
        assert refused.value.metadata == {"role": "standby"}
        balance = pb.GetBalanceRequest(org_id=payer.org_id)
        assert (await standby.GetBalance(balance, timeout=20)).balance.posted_nano_usd == 10**9

        acknowledged: dict[str, str] = {}
        done = asyncio.Event()

        async def spend(client: int) -> None:
            for n in range(10_000):
                name = f"req-{client}-{n}"
                try:
                    with mesh_errors():
                        acknowledged[name] = (await first.Reserve(reserve(name), timeout=20)).hold_id
                except MeshError:
                    return
                if len(acknowledged) > 100:
                    done.set()

        clients = [asyncio.create_task(spend(client)) for client in range(8)]
        await done.wait()
        writer.send_signal(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        killed_at = loop.time()
        while True:
            try:
                with mesh_errors():
                    await standby.Reserve(reserve("first-after"), timeout=20)
                break
            except MeshError:
                assert loop.time() - killed_at < 10, "nobody took over"
                await asyncio.sleep(0.05)
        await asyncio.gather(*clients)
        for name, hold_id in acknowledged.items():
            assert (await standby.Reserve(reserve(name), timeout=20)).hold_id == hold_id
    assert await audit(database) == []


@pytest.mark.timeout(120)
async def test_callers_that_know_both_replicas_see_no_error_when_the_writer_is_killed_and_comes_back(
    url: str, database: Database, tmp_path: Path
) -> None:
    sockets = [f"unix://{tmp_path}/{name}" for name in ("a", "b")]
    async with processes(url) as serve, Dialer(Telemetry.off("test")) as dial:
        writer, standby = await serve(sockets[0]), await serve(sockets[1])
        stub = LedgerServiceStub(dial(",".join(reversed(sockets))))  # the standby is asked first
        payer = await a_payer(stub)
        loop = asyncio.get_running_loop()
        done: dict[str, str] = {}
        longest_s = 0.0
        stop = asyncio.Event()

        def reserve(name: str) -> pb.ReserveRequest:
            return pb.ReserveRequest(
                principal=payer, request_id=name, amount_nano_usd=1_000, ttl_ms=60_000, model="gpt-x"
            )

        async def spend(client: int) -> None:
            nonlocal longest_s
            for n in itertools.count():
                if stop.is_set():
                    return
                name, began_s = f"req-{client}-{n}", loop.time()
                with mesh_errors():
                    done[name] = (await stub.Reserve(reserve(name), timeout=20)).hold_id
                longest_s = max(longest_s, loop.time() - began_s)

        async def more() -> None:
            enough = len(done) + 50
            while len(done) < enough:
                assert not any(client.done() for client in clients), "a caller was refused"
                await asyncio.sleep(0.02)

        clients = [asyncio.create_task(spend(client)) for client in range(8)]
        await more()
        writer.send_signal(signal.SIGKILL)
        await more()
        assert longest_s < 10
        await serve(sockets[0])
        standby.send_signal(signal.SIGTERM)  # which was the writer since
        await more()
        stop.set()
        await asyncio.gather(*clients)
        names = list(done)
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            again = await asyncio.gather(*(stub.Reserve(reserve(name), timeout=20) for name in some))
            assert [hold.hold_id for hold in again] == [done[name] for name in some]
    assert await audit(database) == []
