"""What the writer remembers between two batches: nobody can tell, but for the reads that are not made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, func, select, text

from ledger_svc.domain.caps import CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import ChargeFacts
from ledger_svc.domain.errors import ApiKeyRevoked, BudgetExceeded, InsufficientBalance, NotFound, Standby
from ledger_svc.domain.holding import Expire
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.store import batch, memory
from ledger_svc.store.books import load
from ledger_svc.store.database import Database
from ledger_svc.store.tables import RESERVATION
from ledger_svc.store.writer import Writer
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commands of each batch that was read for."""
    found: list[int] = []

    def counting(*args: object, **kwargs: object) -> object:
        found.append(len(args[1]))  # type: ignore[arg-type]
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "load", counting)
    return found


async def hold(charging: ChargingService, payer: Principal, name: str, amount: int = 10**5) -> str:
    made = await charging.reserve(payer, name, amount_nano_usd=amount, ttl_ms=60_000, model="gpt-x")
    return made.hold_id


async def test_once_an_organisation_is_known_its_holds_and_charges_read_nothing(
    charging: ChargingService,
    budgets: BudgetService,
    credit: CreditService,
    new_payer: NewPayer,
    new_facts: NewFacts,
    reads: list[int],
) -> None:
    payer = await new_payer(10**6, promo=25_000)
    await budgets.set_cap(
        payer.org_id, CapScope.KEY, payer.key_id, period=CapPeriod.MONTH, unit=CapUnit.USD, limit=10**6
    )
    facts = new_facts(answer=1)

    async def spend(name: str) -> None:
        await hold(charging, payer, name)
        await charging.extend(payer.org_id, name, ttl_ms=90_000)
        await charging.settle(payer.org_id, name, facts=facts, attempts=())

    await spend("one")
    reads.clear()
    for name in ("two", "three", "four"):
        await spend(name)
    await hold(charging, payer, "five")
    await charging.release(payer.org_id, "five", reason="", attempts=())
    assert reads == []
    balance = await credit.balance(payer.org_id)
    assert (balance.posted_nano_usd, balance.open_holds) == (10**6 + 25_000 - 40_000, 0)
    ((_, bucket),) = await budgets.caps(payer.org_id)
    assert (bucket.spent, bucket.reserved) == (40_000, 0)


async def test_what_came_before_is_answered_as_it_was(
    charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold that is not remembered is found by the row that would be its second, or by a refusal."""
    payer, facts = await new_payer(10**5), new_facts(answer=1)
    first = await hold(charging, payer, "one", 60_000)
    monkeypatch.setattr(memory, "MAX_HOLDS", 1)
    second = await hold(charging, payer, "two", 30_000)
    assert await hold(charging, payer, "two", 30_000) == second
    assert await hold(charging, payer, "one", 60_000) == first  # 10,000 are left, and it is not refused
    with pytest.raises(InsufficientBalance):
        await hold(charging, payer, "three", 60_000)
    receipts = [await charging.settle(payer.org_id, "one", facts=facts, attempts=()) for _ in range(2)]
    assert receipts[0] == receipts[1]
    with pytest.raises(NotFound):
        await charging.release(payer.org_id, "none", reason="", attempts=())


async def test_of_a_batch_in_which_one_came_before_each_counts_once(
    charging: ChargingService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    names = [f"req-{n}" for n in range(8)]
    first = [await hold(charging, payer, name) for name in names[:4]]
    await charging.release(payer.org_id, names[0], reason="", attempts=())
    found = await asyncio.gather(*(hold(charging, payer, name) for name in names), return_exceptions=True)
    assert type(found[0]).__name__ == "HoldClosed"
    assert found[1:4] == first[1:]
    counted = select(func.count()).select_from(RESERVATION)
    assert await database.read(lambda connection: connection.execute(counted).scalar_one()) == 8


async def test_a_key_that_is_revoked_and_a_cap_that_is_set_hold_at_once(
    charging: ChargingService, keys: KeyService, budgets: BudgetService, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    await hold(charging, payer, "one")
    await hold(charging, payer, "two")
    await budgets.set_cap(
        payer.org_id, CapScope.PROJECT, payer.project_id, period=CapPeriod.DAY, unit=CapUnit.USD, limit=2 * 10**5
    )
    with pytest.raises(BudgetExceeded):
        await hold(charging, payer, "three")
    await charging.release(payer.org_id, "one", reason="", attempts=())
    await hold(charging, payer, "four")
    await keys.revoke_key(payer.key_id, payer.org_id)
    with pytest.raises(ApiKeyRevoked):
        await hold(charging, payer, "five")


async def test_a_hold_that_is_not_remembered_expires(
    charging: ChargingService, writer: Writer, clock: FakeClock, new_payer: NewPayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = await new_payer(10**6)
    await hold(charging, payer, "one")
    monkeypatch.setattr(memory, "MAX_HOLDS", 1)
    await hold(charging, payer, "two")
    assert await writer.execute(Expire(payer.org_id, "one", clock.now_ms() + 60_000))


async def test_a_writer_that_is_deposed_neither_writes_nor_answers_what_it_remembers(
    charging: ChargingService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    made = await hold(charging, payer, "one")

    def take_over(connection: Connection) -> None:
        connection.execute(text("UPDATE writer_epoch SET epoch = epoch + 1"))

    for name in ("two", "one"):  # a new hold, and one that needs no write
        await database.write(take_over)
        with pytest.raises(Standby):
            await hold(charging, payer, name)
        async with asyncio.timeout(10):
            while await _refused(charging, payer):  # noqa: ASYNC110 - a writer takes over by itself, and tells nobody
                await asyncio.sleep(0.05)
    counted = select(func.count()).select_from(RESERVATION)
    assert await database.read(lambda connection: connection.execute(counted).scalar_one()) == 1
    assert await hold(charging, payer, "one") == made


async def _refused(charging: ChargingService, payer: Principal) -> bool:
    try:
        await charging.extend(payer.org_id, "one", ttl_ms=1)
    except Standby:
        return True
    return False
