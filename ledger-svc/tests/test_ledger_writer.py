"""The writer batches, bisects, resolves doubts and bounds its queue. The books are audited after each test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from ledger_trail import an_entry
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from ledger_svc.domain.accounts import SPENDABLE
from ledger_svc.domain.book import Book, Needs
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import InsufficientBalance, LedgerUnavailable, NotFound, QueueFull
from ledger_svc.domain.holding import Reserve
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.journal import Posting
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ORG, RECEIPT, RESERVATION
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import CommitSeam, Writer
from meshkit.principal import Principal

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]
T = TypeVar("T")

SEALER = Sealer(Keyring({"k": load_private_key("b25l" * 10 + "b24")}))


class Commits(CommitSeam):
    """Counts transactions."""

    def __init__(self) -> None:
        self.begun = self.done = 0

    def before_commit(self, answer: Callable[[], None]) -> None:
        self.begun += 1

    def after_commit(self) -> None:
        self.done += 1


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
async def writer(database: Database, commits: Commits) -> Any:
    async with Writer(database, SEALER, seam=commits, max_waiting=200, takeover_poll_s=0.05).running() as running:
        yield running


def a_reserve(payer: Principal, name: str, amount: int = 7) -> Reserve:
    return Reserve(payer, name, amount, 60_000, "gpt-x", f"hold_{name}", 1_000)


async def outcomes(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


async def count_of(database: Database, table: Any) -> int:
    counted = select(func.count()).select_from(table)
    return int(await database.read(lambda connection: connection.execute(counted).scalar_one()))


async def test_commands_that_come_together_share_a_commit(
    writer: Writer, commits: Commits, new_payer: NewPayer
) -> None:
    payer, before = await new_payer(10**6), commits.done
    holds = await asyncio.gather(*(writer.execute(a_reserve(payer, f"req-{n}")) for n in range(64)))
    assert len({hold.hold_id for hold in holds}) == 64
    assert commits.done - before == 1


async def test_commands_that_come_during_a_commit_are_the_next_batch(
    writer: Writer, commits: Commits, new_payer: NewPayer
) -> None:
    payer, before = await new_payer(10**6), commits.done

    async def one(n: int) -> None:
        for step in range(8):
            await writer.execute(a_reserve(payer, f"req-{n}-{step}"))

    await asyncio.gather(*(one(n) for n in range(32)))
    assert commits.done - before <= 8 * 2


async def test_followers_see_what_is_durable_and_a_bug_of_one_stops_nobody(
    writer: Writer, charging: ChargingService, database: Database, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, seen, facts = await new_payer(10**6), list[Book](), new_facts(answer=1, mode=ServedMode.EXACT)

    def fail(_: Book) -> None:
        raise RuntimeError("a bug")

    writer.follow(fail)
    writer.follow(seen.append)
    with capture_logs() as logs:
        for n in range(3):
            receipt = await charging.charge(payer, f"req-{n}", facts=facts)
            await writer.write(lambda _: None)  # whoever follows has been shown the batch before
            assert [entry.receipt for book in seen for entry in book.new_receipts][n:] == [receipt]
            assert await count_of(database, RECEIPT) == n + 1
    assert [entry["event"] for entry in logs] == ["follower_failed"] * 3


async def test_a_command_alone_is_a_batch_of_its_own(writer: Writer, commits: Commits, new_payer: NewPayer) -> None:
    payer, before = await new_payer(10**6), commits.done
    for n in range(3):
        await writer.execute(a_reserve(payer, f"req-{n}"))
    assert commits.done - before == 3


async def test_commands_are_decided_in_the_order_in_which_they_came(writer: Writer, new_payer: NewPayer) -> None:
    payer = await new_payer(7 * 10 + 6)
    found = await outcomes(*(writer.execute(a_reserve(payer, f"req-{n}")) for n in range(30)))
    assert [type(result) for result in found] == [Hold] * 10 + [InsufficientBalance] * 20


async def test_a_refused_command_costs_its_neighbours_nothing(
    credit: CreditService, writer: Writer, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer, facts = await new_payer(10**6), new_facts(answer=1)
    stranger = Principal("org_nobody", "prj_nobody", "key_nobody", ())
    found = await outcomes(
        charging.reserve(payer, "one", amount_nano_usd=10**5, ttl_ms=1, model="gpt-x"),
        charging.reserve(payer, "large", amount_nano_usd=10**6, ttl_ms=1, model="gpt-x"),
        charging.reserve(stranger, "two", amount_nano_usd=0, ttl_ms=1, model="gpt-x"),
        charging.settle(payer.org_id, "one", facts=facts, attempts=()),
        charging.settle(payer.org_id, "unknown", facts=facts, attempts=()),
        charging.charge(payer, "replay", facts=new_facts(answer=1, mode=ServedMode.EXACT)),
        charging.release(payer.org_id, "one", reason="", attempts=()),
    )
    assert [type(result).__name__ for result in found] == [
        "Hold",
        "InsufficientBalance",
        "InvalidApiKey",
        "Receipt",
        "NotFound",
        "Receipt",
        "HoldClosed",
    ]
    assert (await credit.balance(payer.org_id)).available_nano_usd == 10**6 - 10_000 - 2_500


async def test_a_hold_and_its_settlement_sent_twice_in_one_batch_counts_once(
    database: Database, charging: ChargingService, new_payer: NewPayer, new_facts: NewFacts
) -> None:
    payer = await new_payer(10**9)
    names = [f"req-{n}" for n in range(70)]
    await asyncio.gather(
        *(charging.reserve(payer, name, amount_nano_usd=10**5, ttl_ms=1, model="gpt-x") for name in names)
    )
    facts = new_facts(answer=2)
    receipts = await asyncio.gather(
        *(charging.settle(payer.org_id, name, facts=facts, attempts=()) for name in [*names, *names])
    )
    assert len({receipt.receipt_id for receipt in receipts}) == 70
    assert await count_of(database, RECEIPT) == 70


@dataclass(frozen=True)
class Spoiled(Command[None]):
    """Writes a posting that the database refuses."""

    org_id: str

    @property
    def needs(self) -> Needs:
        return Needs(self.org_id, SPENDABLE)

    def decide(self, book: Book) -> None:
        account = book.account(self.org_id, SPENDABLE[0])
        book.new_postings.append(Posting(account.account_id, 10**6, "xfer_nowhere", 0, 0))


@dataclass(frozen=True)
class Broken(Command[None]):
    """Changes the book and then meets a bug."""

    payer: Principal

    @property
    def needs(self) -> Needs:
        return Needs(self.payer.org_id, SPENDABLE, "half", self.payer.key_id)

    def decide(self, book: Book) -> None:
        a_reserve(self.payer, "half").decide(book)
        raise RuntimeError("a bug")


@pytest.mark.parametrize("places", [[0], [13], [31], [3, 4, 30]])
async def test_a_poisoned_batch_is_cut_until_the_guilty_command_stands_alone(
    places: list[int], writer: Writer, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    commands: list[Command[Any]] = [a_reserve(payer, f"req-{n}") for n in range(32)]
    for place in places:
        commands[place] = Spoiled(payer.org_id)
    with capture_logs() as logged:
        found = await outcomes(*(writer.execute(command) for command in commands))
    assert [entry["event"] for entry in logged].count("command_failed") == len(places)
    for place, result in enumerate(found):
        assert isinstance(result, DBAPIError if place in places else Hold), (place, result)
    assert await count_of(database, RESERVATION) == 32 - len(places)
    assert (await writer.execute(a_reserve(payer, "after"))).amount_nano_usd == 7


async def test_a_command_that_meets_a_bug_is_left_out_and_what_it_changed_with_it(
    writer: Writer, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    commands: list[Command[Any]] = [a_reserve(payer, f"req-{n}") for n in range(5)]
    commands[2:2] = [Broken(payer)]
    with capture_logs() as logged:
        found = await outcomes(*(writer.execute(command) for command in commands))
    assert [entry["event"] for entry in logged] == ["command_failed"]
    assert [type(result) for result in found] == [Hold, Hold, RuntimeError, Hold, Hold, Hold]
    assert await count_of(database, RESERVATION) == 5


async def test_a_function_that_fails_is_its_caller_s_alone(
    writer: Writer, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)

    def fails(connection: Connection) -> None:
        connection.execute(text("UPDATE org SET name = 'gone'"))
        raise NotFound("nothing here")

    found = await outcomes(
        writer.execute(a_reserve(payer, "one")), writer.write(fails), writer.execute(a_reserve(payer, "two"))
    )
    assert [type(result) for result in found] == [Hold, NotFound, Hold]
    assert await database.read(lambda connection: connection.execute(text("SELECT name FROM org")).scalar()) == "Acme"


async def test_a_full_queue_refuses_and_records_nothing_of_what_it_refused(
    writer: Writer, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    found = await outcomes(*(writer.execute(a_reserve(payer, f"req-{n}")) for n in range(230)))
    assert [type(result) for result in found] == [Hold] * 200 + [QueueFull] * 30
    assert isinstance(found[-1], LedgerUnavailable)
    assert found[-1].metadata == {"queue": "full"}
    assert await count_of(database, RESERVATION) == 200
    assert (await writer.execute(a_reserve(payer, "req-229"))).amount_nano_usd == 7


async def test_a_caller_that_has_gone_before_its_turn_is_left_out(
    writer: Writer, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer(10**6)
    gone = asyncio.create_task(writer.execute(a_reserve(payer, "gone")))
    await asyncio.sleep(0)
    gone.cancel()
    await writer.execute(a_reserve(payer, "stays"))
    assert gone.cancelled()
    assert await count_of(database, RESERVATION) == 1


async def test_what_waits_when_the_writer_ends_is_still_done(database: Database) -> None:
    async with Writer(database, SEALER).running() as writer:
        directory = Directory(database, writer, Trail(SEALER))
        waiting = [asyncio.create_task(directory.create_organization(f"org_{n}", "Acme", an_entry())) for n in range(5)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert await count_of(database, ORG) == 5
    with pytest.raises(LedgerUnavailable):
        await directory.create_organization("org_late", "Acme", an_entry())
