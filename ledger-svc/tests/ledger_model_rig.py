"""The real ledger under the model: sends it the model's commands and reads its books."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from ledger_model_caps import Bucket
from ledger_model_crashes import Crash, CrashingSeam, MortalDatabase
from ledger_model_operations import (
    KEYS,
    LIMITED_KEY,
    LIMITED_TO,
    PROJECT_OF,
    AddCredit,
    Charge,
    Correct,
    Expire,
    ExpireCredit,
    Extend,
    OfCredit,
    Operation,
    Outcome,
    Refund,
    Release,
    Reserve,
    Scope,
    SetCap,
    Settle,
)
from sqlalchemy import Connection, Table, select

from ledger_svc.domain import capping, charges, expiring, holding
from ledger_svc.domain.accounts import Balance, CreditKind
from ledger_svc.domain.caps import Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.corrections import Correction
from ledger_svc.domain.errors import BudgetExceeded, LedgerError
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
from ledger_svc.service.usage import UsageFolding
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ACCOUNT, CAP_BUCKET, CREDIT_LOT, RECEIPT, RESERVATION
from ledger_svc.store.trail import Trail
from ledger_svc.store.usage import UsageSums
from ledger_svc.store.writer import Writer
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
        directory, records = Directory(self.database, self.writer, Trail(Sealer(KEYRING))), Records(self.database)
        self.keys = KeyService(
            directory=directory,
            revocations=Revocations(directory),
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
        self.folding = UsageFolding(UsageSums(self.database, self.writer))
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
            projects = [await self.keys.create_project(org_id, f"web {n}") for n in sorted(set(PROJECT_OF))]
            made = [
                await self.keys.create_key(
                    org_id, projects[PROJECT_OF[key]], "key", allowed_models=(LIMITED_TO,) if key == LIMITED_KEY else ()
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
        """Signs a checkpoint, if the log has grown, and takes it into usage; ends early at a crash."""
        growing = asyncio.create_task(self._grow())
        crashed = asyncio.create_task(self.seam.happened.wait())
        await asyncio.wait({growing, crashed}, return_when=asyncio.FIRST_COMPLETED)
        for task in (growing, crashed):
            task.cancel()
        await asyncio.wait({growing, crashed})
        if not growing.cancelled():
            growing.result()

    async def _grow(self) -> None:
        await self.log.grow()
        await self.folding.fold()

    async def _send(self, operation: Operation) -> tuple[Outcome, str]:
        try:
            return _outcome(operation, await self._call(operation))
        except BudgetExceeded as refusal:
            said = refusal.metadata
            words = ("scope", "period", "unit", "limit", "spent", "held", "needed")
            return Outcome("BudgetExceeded", None, tuple(said[word] for word in words)), ""
        except LedgerError as refusal:
            return Outcome(type(refusal).__name__), ""

    def _call(self, operation: Operation) -> Awaitable[Any]:
        match operation:
            case ExpireCredit(org):
                return self.writer.execute(expiring.ExpireCredit(self._org_id(org), self.clock.now_ms()))
            case SetCap():
                return self.writer.execute(self._cap(operation))
            case AddCredit() | Refund() | Correct():
                return self._credit(self._org_id(operation.org), operation)
            case Reserve() | Charge():
                return self._begin(self.principals[operation.org][operation.key], operation)
            case _:
                return self._go_on(self._org_id(operation.org), operation)

    def _org_id(self, org: int) -> str:
        return self.principals[org][0].org_id

    def _begin(self, payer: Principal, operation: Reserve | Charge) -> Awaitable[Any]:
        match operation:
            case Reserve(_, request, _, amount, tokens, ttl_ms, model):
                return self.charging.reserve(
                    payer, request, amount_nano_usd=amount, ttl_ms=ttl_ms, model=model, amount_tokens=tokens
                )
            case Charge(_, request, _, prompt, answer):
                facts = _facts(prompt, answer, charges.ServedMode.EXACT, charges.Outcome.COMPLETE)
                return self.charging.charge(payer, request, facts=facts)

    def _go_on(self, org_id: str, operation: Extend | Settle | Release | Expire) -> Awaitable[Any]:
        match operation:
            case Extend(_, request, ttl_ms):
                return self.charging.extend(org_id, request, ttl_ms=ttl_ms)
            case Settle(_, request, prompt, answer, interrupted):
                outcome = charges.Outcome.INTERRUPTED if interrupted else charges.Outcome.COMPLETE
                facts = _facts(prompt, answer, charges.ServedMode.FRESH, outcome)
                attempt = charges.Attempt(PRICE.offer_id, 1, 2, 200, won=True)
                return self.charging.settle(org_id, request, facts=facts, attempts=[attempt])
            case Release(_, request, reason):
                return self.charging.release(org_id, request, reason=reason, attempts=())
            case Expire(_, request):
                return self.writer.execute(holding.Expire(org_id, request, self.clock.now_ms()))

    def _credit(self, org_id: str, operation: OfCredit) -> Awaitable[Any]:
        match operation:
            case AddCredit(_, name, amount, promotional, priority, expires_ms):
                return self.credit.add(
                    org_id,
                    amount_nano_usd=amount,
                    idempotency_key=name,
                    kind=CreditKind.PROMOTIONAL if promotional else CreditKind.PAID,
                    priority=priority,
                    expires_at_ms=expires_ms,
                )
            case Refund(_, name, amount, reason):
                return self.credit.refund(org_id, amount_nano_usd=amount, reason=reason, idempotency_key=name)
            case Correct(_, name, _, amount, receipt):
                return self.credit.correct(
                    org_id, receipt or "rcpt_unknown", amount_nano_usd=amount, reason="", idempotency_key=name
                )

    def _cap(self, operation: SetCap) -> capping.SetCaps:
        """The command itself: the service asks first whether there is such a key, and comes later than its
        neighbours.
        """
        return capping.SetCaps(
            org_id=self._org_id(operation.org),
            scope=CapScope(operation.scope[0]),
            scope_id=self._scope_ids(operation.org)[operation.scope],
            limits=(capping.CapLimit(CapPeriod(operation.period), CapUnit(operation.unit), operation.limit),),
            now_ms=self.clock.now_ms(),
        )

    def _scope_ids(self, org: int) -> dict[Scope, str]:
        found: dict[Scope, str] = {}
        for key, principal in enumerate(self.principals[org]):
            found["key", key] = principal.key_id
            found["project", PROJECT_OF[key]] = principal.project_id
            found["organization", 0] = principal.org_id
        return found

    async def books(self) -> list[dict[str, Any]]:
        """What stands in the database of each organisation: balances and what is held of them by account, credit lots,
        holds and receipts by request, and the buckets of caps.
        """

        def read(connection: Connection) -> list[dict[str, Any]]:
            return [_books(connection, of[0].org_id, self._scope_ids(org)) for org, of in enumerate(self.principals)]

        return await self.database.read(read)


def transactions(operations: Sequence[Operation]) -> list[list[Operation]]:
    """What comes at once, as the writer cuts it: ``BATCH`` at most, and what sets a cap is alone."""
    cut: list[list[Operation]] = []
    for operation in operations:
        if not cut or len(cut[-1]) == BATCH or isinstance(operation, SetCap) or isinstance(cut[-1][0], SetCap):
            cut.append([])
        cut[-1].append(operation)
    return cut


def _books(connection: Connection, org_id: str, scope_ids: dict[Scope, str]) -> dict[str, Any]:
    def rows_of(table: Table, *columns: str) -> Sequence[Any]:
        return connection.execute(select(*(table.c[name] for name in columns)).where(table.c.org_id == org_id)).all()

    names = {scope_id: scope for scope, scope_id in scope_ids.items()}
    accounts = rows_of(ACCOUNT, "kind", "posted_nano_usd", "reserved_nano_usd")
    lots = rows_of(CREDIT_LOT, "kind", "priority", "expires_at_ms", "granted_nano_usd", "remaining_nano_usd")
    buckets: dict[Bucket, tuple[int, int, int]] = {
        (names[scope_id], period, unit, began_ms): (spent, reserved, bound)
        for scope_id, period, unit, began_ms, spent, reserved, bound in rows_of(
            CAP_BUCKET, "scope_id", "period", "unit", "starts_at_ms", "spent", "reserved", "bound"
        )
    }
    return {
        "posted": {kind: posted for kind, posted, _ in accounts if posted},
        "reserved": {kind: reserved for kind, _, reserved in accounts if reserved},
        "lots": sorted(map(tuple, lots)),
        "holds": dict(map(tuple, rows_of(RESERVATION, "request_id", "state"))),
        "receipts": {
            request: facts
            for request, *facts in rows_of(RECEIPT, "request_id", "charged_nano_usd", "absorbed_nano_usd", "tokens")
        },
        "buckets": buckets,
    }


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
    match answer:
        case Hold() as hold:
            sources = (hold.from_promo_nano_usd, hold.from_paid_nano_usd)
            kept = (hold.amount_nano_usd, hold.amount_tokens, *sources, hold.expires_at_ms)
            return Outcome("hold", (operation.org, hold.request_id), kept), hold.hold_id
        case Receipt() as receipt:
            charged = (receipt.charged_nano_usd, receipt.saved_nano_usd, receipt.absorbed_nano_usd)
            name = (operation.org, receipt.request_id)
            return Outcome("receipt", name, (receipt.held_nano_usd, *charged)), receipt.receipt_id
        case (Correction() as made, _):
            assert isinstance(operation, Correct)
            back = (made.promo_nano_usd, made.paid_nano_usd)
            return Outcome("correction", (operation.org, operation.name), back), made.transfer_id
        case _:
            return _plain_outcome(operation, answer), ""


def _plain_outcome(operation: Operation, answer: Any) -> Outcome:
    match answer:
        case [Cap() as cap]:
            return Outcome("cap", None, (cap.revision, cap.limit))
        case Balance():
            return Outcome("balance")
        case bool():
            return Outcome("expired", None, (answer,))
        case int():
            return Outcome("taken back" if isinstance(operation, ExpireCredit) else "released", None, (answer,))
        case _:
            raise AssertionError(answer)
