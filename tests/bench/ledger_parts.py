"""What a reserve and settle cost the ledger, part by part, by the size of the batch that they come in.

    python -m tests.bench.ledger_parts

CPU-µs of this process for a pair, all its threads, without gRPC and without a server's own. Each batch has as many
reserves as settles. The least of many turns, because others use the machine: it is what the part costs when nobody is
in the way. The last part, the driver with the very rows, is the floor that no decision goes below.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from ledger_svc.domain.command import Command
from ledger_svc.service.charging import ChargingService
from ledger_svc.store.batch import decide_on, decide_under
from ledger_svc.store.books import changes
from ledger_svc.store.fence import Lease
from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.writer import Writer
from meshkit.clock import SystemClock
from meshkit.heap import settle_heap
from meshkit.ids import new_id
from meshkit.logs import configure_logging
from meshkit.principal import Principal
from tests.bench.ledger_bench import KINDS, made_databases
from tests.bench.ledger_spending import SEALER, made_payers, reserve, settle

R = TypeVar("R")

PAIRS = (1, 4, 32)
TURNS = 150
PARTS = {
    "checks": "ids, and every number and text within bounds",
    "recall": "what the writer remembers of what they need",
    "decide": "the commands, and what they make of the book",
    "rows": "receipts as documents, and all changes as rows",
    "seal": "a signature and the hash of a leaf",
    "keep": "the book, for the next batch",
    "write": "the driver: rows, COMMIT",
}


class Caught:
    """Implements ``ports.Ledger``: keeps what it is to do."""

    def __init__(self) -> None:
        self._commands: list[Command[Any]] = []

    async def execute(self, command: Command[R]) -> R:
        """Nothing is done, and nobody looks at what comes back."""
        self._commands.append(command)
        return cast("R", None)

    def taken(self) -> list[Command[Any]]:
        """What it has, once."""
        commands, self._commands = self._commands, []
        return commands


class Costs:
    """Of each part, what it took in each turn, in CPU-µs a pair."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._taken: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Measures the block."""
        began = time.process_time_ns()
        yield
        self._taken[part].append((time.process_time_ns() - began) / 1_000 / self._pairs)

    def least(self, part: str) -> float:
        """What it costs when nobody is in the way."""
        return min(self._taken[part])


async def measure(lease: Lease, payers: Sequence[Principal], pairs: int) -> Costs:
    """Batches of so many reserves and as many settles, of what the batch before has reserved."""
    costs, ledger, turns = Costs(pairs), Caught(), itertools.cycle(payers)
    charging = ChargingService(ledger=ledger, clock=SystemClock(), make_id=new_id)
    for act in (reserve, settle):  # so that the writer remembers all that they need
        for payer in payers:
            await act(charging, payer, f"warm-{pairs}")
        await decide_under(lease, ledger.taken(), SEALER, lambda _: None)
    held: list[tuple[Principal, str]] = []
    for turn in range(TURNS + 1):
        named = [(next(turns), new_id("req")) for _ in range(pairs)]
        with costs.of("checks"):
            for payer, request_id in named:
                await reserve(charging, payer, request_id)
            for payer, request_id in held:
                await settle(charging, payer, request_id)
        held = named
        await _run(lease, ledger.taken(), costs)
        if not turn:
            costs = Costs(pairs)  # there was nothing to settle
    return costs


async def _run(lease: Lease, commands: Sequence[Command[Any]], costs: Costs) -> None:
    """A batch as the writer runs it, part by part."""
    with costs.of("recall"):
        book = lease.memory.recall(command.needs for command in commands)
    assert book is not None, "all of it is remembered"
    with costs.of("decide"):
        answers = decide_on(book, commands)
    assert all(answer.error is None for answer in answers), answers
    with costs.of("rows"):
        parts = changes(book)
    with costs.of("seal"):
        assert book.log_size is not None, "the writer knows it"
        parts += SEALER.leaves(book.new_receipts, book.new_entries, book.log_size)
    with costs.of("write"):
        await lease.append(parts, lambda: None)
    with costs.of("keep"):
        lease.memory.keep(book)


async def measured(url: str) -> list[Costs]:
    """For each of ``PAIRS``, on an empty database."""
    database = open_database(url, connections=4, wait_s=30)
    try:
        await migrate(database)
        async with Writer(database, SEALER).running() as writer:
            payers = await made_payers(database, writer, writer)
        lease = await Lease.take(database)
        assert lease is not None, "the writer has given it back"
        settle_heap()
        try:
            return [await measure(lease, payers, pairs) for pairs in PAIRS]
        finally:
            await lease.give_back()
    finally:
        await database.close()


async def main() -> None:
    """Prints a table for each database."""
    configure_logging("bench", level="warning")
    with made_databases() as databases:
        for kind in KINDS:
            found = await measured(databases.make(kind, "parts"))
            print(f"{kind}: CPU-µs of a reserve and settle, in batches of {', '.join(map(str, PAIRS))} pairs")
            for part, what in PARTS.items():
                print(f"  {part:<7}" + "".join(f"{costs.least(part):8.1f}" for costs in found) + f"  {what}")
            sums = (sum(costs.least(part) for part in PARTS) for costs in found)
            print(f"  {'all':<7}" + "".join(f"{total:8.1f}" for total in sums), file=sys.stdout, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
