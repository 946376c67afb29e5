"""The real ledger under the model: sends it the model's commands, reads its books, and lets it crash at a COMMIT."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from ledger_model import (
    KEYS,
    LIMITED_KEY,
    LIMITED_TO,
    AddCredit,
    Charge,
    Expire,
    Operation,
    Outcome,
    Release,
    Reserve,
    Settle,
)
from sqlalchemy import Connection, select

from ledger_svc.domain import charges, holding
from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.errors import LedgerError
from ledger_svc.domain.holds import Hold
from ledger_svc.domain.keys import Peppers
from ledger_svc.domain.receipts import Receipt
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.revocations import Revocations
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.store.database import Database, WriteSession
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.opening import open_database
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ACCOUNT, RECEIPT, RESERVATION
from ledger_svc.store.writer import CommitSeam, Writer
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

T = TypeVar("T")

KEYRING = Keyring({"2026-11": load_private_key("b25l" * 10 + "b24")})
ORIGIN = "example.com/tallygate"
BATCH = 3
"""Small, so that what comes at once is more than one transaction."""

PRICE = PriceSnapshot(
    offer_id="openai/gpt-x",
    tier=BillingTier.PASSTHROUGH,
    rate_tiers=(RateTier(0, Rates(input_pico_usd=1_000_003, output_pico_usd=10_000_000)),),
    replay_bps=2_500,
)


class Crash(BaseException):
    """The process is no more. No code under test may take it for an error that it can answer."""


class CrashingSeam(CommitSeam):
    """Crashes at the n-th COMMIT from when it was told to, before it or after."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self._point, self._left, self._answers_early = "", 0, False

    def plan(self, point: str, commits_before: int, *, answers_early: bool = False) -> None:
        """``answers_early`` plants a bug: callers are told before the COMMIT."""
        self._point, self._left, self._answers_early = point, commits_before, answers_early

    def before_commit(self, answer: Callable[[], None]) -> None:
        if self._answers_early:
            answer()
        if self._point == "before":
            self._reach()

    def after_commit(self) -> None:
        if self._point == "after":
            self._reach()

    def in_checkpoint(self) -> None:
        if self._point == "checkpoint":
            self._reach()

    def _reach(self) -> None:
        if not self._left:
            self.happened.set()
            raise Crash
        self._left -= 1


class MortalDatabase(Database):
    """A database of whose sessions, as of a dead process, none is left once it is closed."""

    def __init__(self, url: str) -> None:
        self._inner = open_database(url, connections=2, wait_s=20)
        self._sessions: list[WriteSession] = []

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        return await self._inner.snapshot(work)

    async def write_session(self) -> WriteSession | None:
        session = await self._inner.write_session()
        if session is not None:
            self._sessions.append(session)
        return session

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()
        await self._inner.close()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._inner._write(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._inner._read(work)


class Rig:
    """One process of the ledger, as it were; ``open`` again after ``close`` is the next."""

    def __init__(self, url: str) -> None:
        self.clock = FakeClock()
        self.principals: list[list[Principal]] = []
        self._url = url
        numbers = itertools.count(1)
        self._make_id = lambda kind: f"{kind}_{next(numbers):08d}"

    async def open(self) -> None:
        self.seam = CrashingSeam()
        self.database = MortalDatabase(self._url)
        self.writer = Writer(self.database, Sealer(KEYRING), max_batch=BATCH, takeover_poll_s=0.005, seam=self.seam)
        directory, records = Directory(self.database, self.writer), Records(self.database)
        self.keys = KeyService(
            directory=directory,
            revocations=Revocations(directory, self.clock),
            peppers=Peppers({1: "pepper-for-tests"}),
            clock=self.clock,
            make_id=self._make_id,
            random_below=secrets.randbelow,
            valid_for_ms=5_000,
        )
        self.charging = ChargingService(ledger=self.writer, clock=self.clock, make_id=self._make_id)
        self.credit = CreditService(ledger=self.writer, records=records, clock=self.clock, make_id=self._make_id)
        self.sweeper = Sweeper(ledger=self.writer, records=records, clock=self.clock, batch_limit=100)
        self.log = LogService(
            log=ReceiptLog(self.database, self.writer, KEYRING, ORIGIN), keys=KEYRING, origin=ORIGIN, clock=self.clock
        )
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self.writer.running())
        async with asyncio.timeout(10):
            while not self.writer.is_leading:  # noqa: ASYNC110 - PostgreSQL keeps a dead session's lock for a moment
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        """The end of the process, orderly or after a crash."""
        with suppress(Crash):
            await self._stack.aclose()
        await self.database.close()

    async def found(self, orgs: int) -> None:
        """Makes organisations with their keys."""
        for _ in range(orgs):
            org_id = await self.keys.create_organization("Acme")
            project_id = await self.keys.create_project(org_id, "web")
            made = [
                await self.keys.create_key(
                    org_id, project_id, "key", allowed_models=(LIMITED_TO,) if key == LIMITED_KEY else ()
                )
                for key in range(KEYS)
            ]
            self.principals.append([key.principal for key, _ in made])

    async def send(self, operations: Sequence[Operation]) -> list[tuple[Outcome, str] | None]:
        """Sends all at once, in this order; gives (outcome, id) of each, None for those that a crash left unanswered.
        An id is of what was made, "" for nothing.
        """
        tasks = [asyncio.create_task(self._send(operation)) for operation in operations]
        crashed: asyncio.Future[Any] = asyncio.create_task(self.seam.happened.wait())
        everything: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait([everything, crashed], return_when=asyncio.FIRST_COMPLETED)
        crashed.cancel()
        for task in tasks:
            task.cancel()  # those that are answered stay so
        await asyncio.wait([everything, crashed])
        return [None if task.cancelled() else task.result() for task in tasks]

    async def grow(self) -> None:
        """Signs a checkpoint, if the log has grown; ends early at a crash."""
        growing = asyncio.create_task(self.log.grow())
        crashed = asyncio.create_task(self.seam.happened.wait())
        await asyncio.wait({growing, crashed}, return_when=asyncio.FIRST_COMPLETED)
        for task in (growing, crashed):
            task.cancel()
        await asyncio.wait({growing, crashed})
        if not growing.cancelled():
            growing.result()

    async def _send(self, operation: Operation) -> tuple[Outcome, str]:
        try:
            return _outcome(operation, await self._call(operation))
        except LedgerError as refusal:
            return Outcome(type(refusal).__name__), ""

    def _call(self, operation: Operation) -> Awaitable[Any]:
        principals = self.principals[operation.org]
        org_id, charging = principals[0].org_id, self.charging
        match operation:
            case Reserve(_, request, key, amount, ttl_ms, model):
                return charging.reserve(principals[key], request, amount_nano_usd=amount, ttl_ms=ttl_ms, model=model)
            case Settle(_, request, prompt, answer, interrupted):
                outcome = charges.Outcome.INTERRUPTED if interrupted else charges.Outcome.COMPLETE
                facts = _facts(prompt, answer, charges.ServedMode.FRESH, outcome)
                attempt = charges.Attempt(PRICE.offer_id, 1, 2, 200, won=True)
                return charging.settle(org_id, request, facts=facts, attempts=[attempt])
            case Release(_, request, reason):
                return charging.release(org_id, request, reason=reason, attempts=())
            case Charge(_, request, key, prompt, answer):
                facts = _facts(prompt, answer, charges.ServedMode.EXACT, charges.Outcome.COMPLETE)
                return charging.charge(principals[key], request, facts=facts)
            case Expire(_, request):
                return self.writer.execute(holding.Expire(org_id, request, self.clock.now_ms()))
            case AddCredit(_, name, amount, promotional):
                kind = CreditKind.PROMOTIONAL if promotional else CreditKind.PAID
                return self.credit.add(org_id, amount_nano_usd=amount, idempotency_key=name, kind=kind)

    async def books(self) -> list[dict[str, Any]]:
        """What stands in the database of each organisation: balances by account, holds and receipts by request."""

        def read(connection: Connection) -> list[dict[str, Any]]:
            found = []
            for principals in self.principals:
                of = principals[0].org_id
                accounts = select(ACCOUNT.c.kind, ACCOUNT.c.posted_nano_usd).where(ACCOUNT.c.org_id == of)
                holds = select(RESERVATION.c.request_id, RESERVATION.c.state).where(RESERVATION.c.org_id == of)
                receipts = select(RECEIPT.c.request_id, RECEIPT.c.charged_nano_usd, RECEIPT.c.absorbed_nano_usd)
                found.append(
                    {
                        "posted": {kind: posted for kind, posted in connection.execute(accounts) if posted},
                        "holds": dict(connection.execute(holds).all()),
                        "receipts": {
                            request: (charged, absorbed)
                            for request, charged, absorbed in connection.execute(receipts.where(RECEIPT.c.org_id == of))
                        },
                    }
                )
            return found

        return await self.database.read(read)


def _facts(prompt: int, answer: int, mode: charges.ServedMode, outcome: charges.Outcome) -> charges.ChargeFacts:
    return charges.ChargeFacts(
        usage=Usage(input_tokens=prompt, output_tokens=answer, provenance=Provenance.PROVIDER),
        price=PRICE,
        served_mode=mode,
        outcome=outcome,
        requested_model=LIMITED_TO,
        model=LIMITED_TO,
        source_id="openai",
        upstream_model=LIMITED_TO,
    )


def _outcome(operation: Operation, answer: Any) -> tuple[Outcome, str]:
    name = (operation.org, operation.name if isinstance(operation, AddCredit) else operation.request)
    match answer:
        case Hold() as hold:
            facts = (hold.amount_nano_usd, hold.from_promo_nano_usd, hold.from_paid_nano_usd, hold.expires_at_ms)
            return Outcome("hold", name, facts), hold.hold_id
        case Receipt() as receipt:
            facts = (
                receipt.held_nano_usd,
                receipt.charged_nano_usd,
                receipt.saved_nano_usd,
                receipt.absorbed_nano_usd,
            )
            return Outcome("receipt", name, facts), receipt.receipt_id
        case bool():
            return Outcome("expired", None, (answer,)), ""
        case int():
            return Outcome("released", None, (answer,)), ""
        case _:
            return Outcome("credited"), ""
