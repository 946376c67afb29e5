"""A connection lost at COMMIT leaves a doubt. It is resolved: no command counts twice, none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from ledger_trail import an_entry
from sqlalchemy import func, select, text

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.errors import LedgerUnavailable, Standby
from ledger_svc.domain.holding import Reserve
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import RECEIPT, RESERVATION, WRITER_EPOCH
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import CommitSeam, Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

SEALER = Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    async with Writer(database, SEALER, takeover_poll_s=0.05).running() as running:
        yield running


def a_reserve(payer: Principal, name: str, amount: int = 7) -> Reserve:
    return Reserve(payer, name, amount, 60_000, "gpt-x", f"hold_{name}", 1_000)


async def outcomes(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


async def count_of(database: Database, table: Any) -> int:
    counted = select(func.count()).select_from(table)
    return int(await database.read(lambda connection: connection.execute(counted).scalar_one()))


@pytest.mark.parametrize("planned", [["before"], ["after"], ["after", "", "before"], ["before", "", "after"]])
async def test_a_commit_in_doubt_is_resolved_and_every_command_counts_once(
    planned: list[str],
    deaths: list[str],
    database: Database,
    credit: CreditService,
    charging: ChargingService,
    new_payer: NewPayer,
    new_facts: NewFacts,
) -> None:
    payer = await new_payer(10**9)
    await asyncio.gather(
        *(charging.reserve(payer, f"old-{n}", amount_nano_usd=10**5, ttl_ms=9, model="gpt-x") for n in range(10))
    )
    deaths[:] = planned
    facts, replay = new_facts(answer=1), new_facts(answer=4, mode=ServedMode.EXACT)
    found = await asyncio.gather(
        *(charging.settle(payer.org_id, f"old-{n}", facts=facts, attempts=()) for n in range(9)),
        charging.release(payer.org_id, "old-9", reason="", attempts=()),
        *(charging.reserve(payer, f"new-{n}", amount_nano_usd=10**5, ttl_ms=9, model="gpt-x") for n in range(10)),
        *(charging.charge(payer, f"replay-{n}", facts=replay) for n in range(10)),
    )
    assert not deaths
    assert [type(result) for result in found] == [Receipt] * 9 + [int] + [Hold] * 10 + [Receipt] * 10
    assert await count_of(database, RECEIPT) == 19
    balance = await credit.balance(payer.org_id)
    assert (balance.posted_nano_usd, balance.open_holds) == (10**9 - 9 * 10_000 - 10 * 10_000, 10)


@pytest.mark.parametrize("death", ["before", "after"])
async def test_making_an_organisation_survives_a_commit_in_doubt(
    death: str, deaths: list[str], writer: Writer, new_payer: NewPayer
) -> None:
    deaths[:] = [death, "", death, "", death]
    payer = await new_payer(100)
    assert not deaths
    assert (await writer.execute(a_reserve(payer, "req"))).amount_nano_usd == 7


async def test_a_doubt_that_stays_is_no_yes(
    deaths: list[str], database: Database, writer: Writer, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    deaths[:] = ["before", "", "before", "", "before", "", "before", ""]
    with pytest.raises(LedgerUnavailable):
        await writer.execute(a_reserve(payer, "req"))
    assert await count_of(database, RESERVATION) == 0
    assert (await writer.execute(a_reserve(payer, "req"))).amount_nano_usd == 7


class Killing(CommitSeam):
    """Ends the server's side of the writer's connection, once, when all is written and nothing committed."""

    def __init__(self, server: Any, database: str) -> None:
        self._server = server
        self._database = database
        self.kills = 0

    def before_commit(self, answer: Callable[[], None]) -> None:
        if not self.kills:
            self.kills = 1
            self._server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                f"WHERE locktype = 'advisory' AND datname = '{self._database}'"
            )


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_connection_that_postgresql_ends_at_commit_is_replaced(
    url: str,
    database: Database,
    records: Records,
    clock: FakeClock,
    make_id: MakeId,
    request: pytest.FixtureRequest,
) -> None:
    name = await database.read(lambda connection: connection.execute(text("SELECT current_database()")).scalar_one())
    seam = Killing(request.getfixturevalue("postgresql"), name)
    async with Writer(database, SEALER, seam=seam).running() as writer:
        await Directory(database, writer, Trail(SEALER)).create_organization("org_a", "Acme", an_entry())
        credit = CreditService(ledger=writer, records=records, clock=clock, make_id=make_id)
        balance = await credit.add("org_a", amount_nano_usd=5, idempotency_key="one", kind=CreditKind.PAID)
        assert (seam.kills, balance.posted_nano_usd) == (1, 5)
        assert writer.is_leading
    epoch = await database.read(lambda connection: connection.execute(select(WRITER_EPOCH.c.epoch)).scalar_one())
    assert epoch == 2


async def test_a_writer_deposed_while_in_doubt_says_that_it_stands_by_and_the_call_may_be_sent_again(
    deaths: list[str], database: Database, writer: Writer, new_payer: NewPayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = await new_payer(10**6)

    async def taken_by_another() -> None:
        await database.write(lambda connection: connection.execute(text("UPDATE writer_epoch SET epoch = epoch + 1")))

    with monkeypatch.context() as patched:
        deaths[:] = ["after"]
        patched.setattr(database, "write_session", taken_by_another)
        with pytest.raises(Standby):
            await writer.execute(a_reserve(payer, "req"))
        assert not writer.is_leading
        assert await count_of(database, RESERVATION) == 1
        with pytest.raises(Standby):
            await writer.execute(a_reserve(payer, "req"))
    await until(lambda: writer.is_leading)
    assert (await writer.execute(a_reserve(payer, "req"))).hold_id == "hold_req"
    assert await count_of(database, RESERVATION) == 1


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a writer takes over by itself, and has nobody to tell
        await asyncio.sleep(0.01)
