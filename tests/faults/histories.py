"""Histories: load, a kill at a named point, what was killed starts again, and the books are held against everything."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from ledger_svc.store.hold_audit import IN_TIME, overdue_holds
from ledger_svc.store.reading import read_only
from ledger_svc.store.tables import RESERVATION
from meshkit.clock import SystemClock
from tallygate_deploy.ledger_inspection import Subject, check
from tests.faults.clients import (
    CAP_NANO_USD,
    POOR_NANO_USD,
    RICH_NANO_USD,
    HttpClient,
    LedgerClient,
    Tenant,
    Tenants,
    found_tenant,
)
from tests.faults.deployments import HOLD_S, SWEEP_S, Deployment
from tests.faults.journal import Differences, Journal, compare
from tests.faults.parts import is_gone, kill, until
from tests.faults.trigger import Arming

POINTS = ("before_commit", "after_commit", "dispatched", "streaming", "used", "settled", "in_checkpoint")
"""Before and after the ledger's COMMIT; a source has the request; the first of a stream is handed on; what was used is
known and not settled; it is settled and nobody knows; a checkpoint is half written."""
OWN = {
    "before_commit": "ledger",
    "after_commit": "ledger",
    "in_checkpoint": "ledger",
    "dispatched": "router",
    "streaming": "router",
    "used": "router",
    "settled": "router",
}
"""Who is at each point. The others are killed there too, while they wait."""
REACHED_WITHIN_S = 4.0
AFTER_S = 0.3
GRACE_S, BACK_WITHIN_S = 2.0, 10.0
HTTP_CLIENTS, LEDGER_CLIENTS = 8, 3
CAPPED_TENANTS = 8
"""So many histories have one who has not met the cap yet."""
MOST_PASSES = {"in_checkpoint": 2, "streaming": 4, "used": 8, "settled": 8, "dispatched": 8}


@dataclass(frozen=True, slots=True)
class Fault:
    """Who is killed, and when."""

    point: str
    victim: str


@dataclass(slots=True)
class Outcome:
    """What the last line says."""

    histories: int = 0
    operations: int = 0
    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    double_charged: int = 0
    overspent: int = 0
    leaked_holds: int = 0
    violations: int = 0
    kills_by_fault: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.double_charged or self.overspent or self.leaked_holds or self.violations)

    def line(self) -> dict[str, Any]:
        """Without the part that is for people."""
        return {name: value for name, value in asdict(self).items() if name != "kills_by_fault"}

    def add(self, other: Outcome) -> None:
        """The sum."""
        for name, value in other.line().items():
            setattr(self, name, getattr(self, name) + value)
        self.kills_by_fault += other.kills_by_fault


def faults_for(deployment: Deployment, seed: int) -> Iterator[Fault]:
    """For ever: first whoever is at each point, then everyone everywhere, in an order of the seed's."""
    chooser = random.Random(seed)
    if len(deployment.victims) == 1:
        own = [Fault(point, deployment.victims[0]) for point in POINTS]
        everyone = own
    else:
        own = [Fault(point, OWN[point]) for point in POINTS] + [
            Fault("before_commit", "postgres"),
            Fault("used", "edge"),
        ]
        everyone = [Fault(point, victim) for point in POINTS for victim in deployment.victims]
    yield from own
    while True:
        yield from chooser.sample(everyone, len(everyone))


class Harness:
    """Runs histories on one deployment, which stays up; what clients know is kept over all of them."""

    def __init__(self, deployment: Deployment, rich: Tenant, poor: Tenant, capped: Sequence[Tenant], seed: int) -> None:
        self._deployment = deployment
        self._rich, self._poor, self._capped = rich, poor, itertools.cycle(capped)
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._found = {"lost": set[str](), "double_charged": set[str](), "overspent": set[str]()}
        self._leaks, self._breaks = set[str](), set[str]()
        self.journal = Journal(caps={tenant.org_id: CAP_NANO_USD for tenant in capped})
        self.outcome = Outcome()

    @classmethod
    async def on(cls, deployment: Deployment, seed: int) -> Harness:
        """With tenants of its own."""
        rich = await found_tenant(deployment, RICH_NANO_USD)
        poor = await found_tenant(deployment, POOR_NANO_USD)
        capped = [await found_tenant(deployment, RICH_NANO_USD, CAP_NANO_USD) for _ in range(CAPPED_TENANTS)]
        return cls(deployment, rich, poor, capped, seed)

    async def history(self, *faults: Fault) -> None:
        """Load, a kill for each fault, one after the other, and a check."""
        stop = asyncio.Event()
        seeds = [self._random.randrange(2**32) for _ in range(HTTP_CLIENTS + LEDGER_CLIENTS)]
        tenants = Tenants(self._rich, self._poor, next(self._capped))
        clients = [HttpClient(self._deployment, self.journal, tenants, seed).run(stop) for seed in seeds[:HTTP_CLIENTS]]
        clients += [
            LedgerClient(self._deployment, self.journal, self._rich, seed).run(stop) for seed in seeds[HTTP_CLIENTS:]
        ]
        running = [asyncio.create_task(client) for client in clients]
        try:
            for fault in faults:
                await self._kill(fault)
            await asyncio.sleep(AFTER_S)  # load on what has just come back
        finally:
            stop.set()
            await asyncio.gather(*running)
        self.outcome.histories += 1
        self._count_operations()
        await self.examine()

    async def end(self) -> None:
        """Waits as long as a hold may last and a sweep take: then there must be none open."""
        open_holds: list[str] = []
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + HOLD_S + SWEEP_S + GRACE_S
        while open_holds := await read_only(self._deployment.database_url, _open_holds):
            if loop.time() > give_up_at:
                self._say(f"open at the end: {open_holds}")
                break
            await asyncio.sleep(SWEEP_S)
        self._leaks.update(f"{IN_TIME}: {hold_id}" for hold_id in open_holds)
        await self.examine()

    async def _swept(self) -> None:
        """Waits until no hold is past its time, and not longer than a ledger needs that has just come back. What is
        open then, the check finds.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + BACK_WITHIN_S
        while loop.time() < give_up_at:
            if not await read_only(self._deployment.database_url, _due_holds):
                return
            await asyncio.sleep(SWEEP_S)

    async def _kill(self, fault: Fault) -> None:
        deployment, trigger = self._deployment, self._deployment.trigger
        pid = await deployment.pid_of(fault.victim)
        passes = self._random.randint(0, MOST_PASSES.get(fault.point, 30))
        arming = Arming(next(self._numbers), fault.point, passes, pid)
        deployment.upstream.on_call = lambda: trigger.reach("dispatched")
        trigger.arm(arming)
        reached = await until(lambda: trigger.has_fired, REACHED_WITHIN_S)
        if not reached and trigger.disarm():
            self._say(f"{fault.point} was not reached {passes + 1} times; {fault.victim} is killed all the same")
            kill(pid)
        assert await until(lambda: is_gone(pid), REACHED_WITHIN_S), f"{fault.victim} survived SIGKILL"
        await deployment.revive(fault.victim)
        self.outcome.kills += 1
        self.outcome.kills_by_fault[f"{fault.point if reached else 'anywhere'} {fault.victim}"] += 1

    def _count_operations(self) -> None:
        self.outcome.operations = sum(self.journal.answers.values())
        self.outcome.acknowledged = self.journal.acknowledged

    async def examine(self) -> None:
        """All that `tallygate ledger check` checks, and all that clients know."""
        deployment = self._deployment
        await self._swept()
        subject = Subject(deployment.database_url, swept=True, keys=deployment.keys)
        for ruling in await check(subject, now_ms=SystemClock().now_ms(), grace_s=SWEEP_S + GRACE_S):
            for violation in ruling.breaks:
                seen = self._leaks if ruling.rule == IN_TIME else self._breaks
                broken = f"{violation.rule}: {violation.where}"
                self._note(seen, f"{broken}: {violation.detail}", broken)
        differences: Differences = await read_only(
            deployment.database_url, lambda connection: compare(connection, self.journal)
        )
        for name, seen in self._found.items():
            for line in getattr(differences, name):
                self._note(seen, f"{name}: {line}", line)
            setattr(self.outcome, name, len(seen))
        self.outcome.leaked_holds, self.outcome.violations = len(self._leaks), len(self._breaks)

    def _note(self, seen: set[str], line: str, key: str) -> None:
        if key not in seen:
            self._say(line)
            seen.add(key)

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _due_holds(connection: Connection) -> bool:
    return connection.execute(overdue_holds(SystemClock().now_ms())).first() is not None


def _open_holds(connection: Connection) -> list[str]:
    query = select(RESERVATION.c.hold_id).where(RESERVATION.c.state == "open")
    return list(connection.scalars(query))
