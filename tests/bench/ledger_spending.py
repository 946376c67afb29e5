"""One operation of the bench, a reserve and its settle, in the ways in which it can reach the books."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import grpc

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.command import Command
from ledger_svc.domain.keys import Peppers
from ledger_svc.domain.signing import Keyring, load_private_key
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.ports import Ledger
from ledger_svc.service.revocations import Revocations
from ledger_svc.store.batch import decide_beside_others
from ledger_svc.store.database import Database
from ledger_svc.store.directory import Directory
from ledger_svc.store.migrate import migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.records import Records
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit import codec
from meshkit.clock import SystemClock
from meshkit.ids import new_id
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceStub

R = TypeVar("R")

ORGANISATIONS = 8
CREDIT_NANO_USD = 10**15
HOLD_NANO_USD = 10**6
TTL_MS = 60_000
MODEL = "gpt-x"
TIMEOUT_S = 30.0
PRICE = PriceSnapshot(
    offer_id="openai/gpt-x",
    tier=BillingTier.PASSTHROUGH,
    rate_tiers=(RateTier(0, Rates(input_pico_usd=1_000_000, output_pico_usd=10_000_000)),),
    markup_bps=500,
    price_source="bench",
    price_version="1",
    price_date="2026-11-01",
    catalog_revision="1",
)
USAGE = Usage(input_tokens=100, output_tokens=50, provenance=Provenance.PROVIDER)
_ATTEMPTS = [Attempt(PRICE.offer_id, 1_750_000_000_000, 812, 200, won=True)]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

SEED = "b25l" * 10 + "b24"
PEPPER = "pepper-of-the-bench"
SEALER = Sealer(Keyring({"k": load_private_key(SEED)}))


class Spend(Protocol):
    """One operation. ``reserved`` is called when the hold is durable."""

    async def __call__(self, *, reserved: Callable[[], object] = ...) -> None: ...


def _nothing() -> None:
    pass


class PerOperation:
    """Implements ``ports.Ledger`` with a transaction for each command: the baseline."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def execute(self, command: Command[R]) -> R:
        """See ``ports.Ledger``."""
        (answer,) = await self._database.write(lambda connection: decide_beside_others(connection, [command], SEALER))
        if answer.error is not None:
            raise answer.error
        value: R = answer.value
        return value


@asynccontextmanager
async def store_spending(url: str) -> AsyncIterator[Spend]:
    """The use cases on the product's writer, without gRPC."""
    async with _opened(url) as (database, writer):
        yield await _spending(database, writer, writer)


@asynccontextmanager
async def per_operation_spending(url: str) -> AsyncIterator[Spend]:
    """The use cases on ``PerOperation``."""
    async with _opened(url) as (database, writer):
        yield await _spending(database, writer, PerOperation(database))


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[Database, Writer]]:
    database = open_database(url, connections=8, wait_s=30)
    try:
        await migrate(database)
        async with Writer(database, SEALER).running() as writer:
            yield database, writer
    finally:
        await database.close()


async def _spending(database: Database, writer: Writer, ledger: Ledger) -> Spend:
    charging = ChargingService(ledger=ledger, clock=SystemClock(), make_id=new_id)
    turns = itertools.cycle(await made_payers(database, writer, ledger))

    async def spend(*, reserved: Callable[[], object] = _nothing) -> None:
        payer, request_id = next(turns), new_id("req")
        await reserve(charging, payer, request_id)
        reserved()
        await settle(charging, payer, request_id)

    return spend


async def made_payers(database: Database, writer: Writer, ledger: Ledger) -> list[Principal]:
    """A key for each of some organisations, which have credit."""
    clock, directory = SystemClock(), Directory(database, writer, Trail(SEALER))
    keys = KeyService(
        directory=directory,
        revocations=Revocations(directory),
        peppers=Peppers({1: PEPPER}),
        clock=clock,
        make_id=new_id,
        random_below=secrets.randbelow,
        valid_for_ms=5_000,
    )
    credit = CreditService(ledger=ledger, records=Records(database), clock=clock, make_id=new_id)
    payers = []
    for _ in range(ORGANISATIONS):
        org_id = await keys.create_organization("bench")
        key, _ = await keys.create_key(org_id, await keys.create_project(org_id, "bench"), "bench")
        await credit.add(org_id, amount_nano_usd=CREDIT_NANO_USD, idempotency_key="bench", kind=CreditKind.PAID)
        payers.append(key.principal)
    return payers


async def reserve(charging: ChargingService, payer: Principal, request_id: str) -> None:
    """The first half of an operation."""
    await charging.reserve(payer, request_id, amount_nano_usd=HOLD_NANO_USD, ttl_ms=TTL_MS, model=MODEL)


async def settle(charging: ChargingService, payer: Principal, request_id: str) -> None:
    """The second."""
    await charging.settle(payer.org_id, request_id, facts=_facts(), attempts=_ATTEMPTS)


async def grpc_spending(channel: grpc.aio.Channel) -> Spend:
    """The service behind a channel."""
    stub: Any = LedgerServiceStub(channel)
    payers = [await _payer(stub) for _ in range(ORGANISATIONS)]
    turns = itertools.cycle(payers)
    facts = pb.ChargeFacts(
        usage=codec.usage_to_proto(USAGE),
        price=codec.price_to_proto(PRICE),
        served_mode=pb.SERVED_MODE_FRESH,
        outcome=pb.OUTCOME_COMPLETE,
        requested_model=MODEL,
        model=MODEL,
        source_id="openai",
        upstream_model=MODEL,
        trace_id=TRACE_ID,
    )
    attempt = pb.Attempt(
        offer_id=PRICE.offer_id, started_at_ms=1_750_000_000_000, duration_ms=812, http_status=200, won=True
    )

    async def spend(*, reserved: Callable[[], object] = _nothing) -> None:
        payer, request_id = next(turns), new_id("req")
        hold = pb.ReserveRequest(
            principal=payer, request_id=request_id, amount_nano_usd=HOLD_NANO_USD, ttl_ms=TTL_MS, model=MODEL
        )
        await stub.Reserve(hold, timeout=TIMEOUT_S)
        reserved()
        settled = pb.SettleRequest(org_id=payer.org_id, request_id=request_id, facts=facts, attempts=[attempt])
        await stub.Settle(settled, timeout=TIMEOUT_S)

    return spend


async def _payer(stub: Any) -> Any:
    org_id = (await stub.CreateOrganization(pb.CreateOrganizationRequest(name="bench"), timeout=TIMEOUT_S)).org_id
    project = await stub.CreateProject(pb.CreateProjectRequest(org_id=org_id, name="bench"), timeout=TIMEOUT_S)
    made = await stub.CreateKey(
        pb.CreateKeyRequest(org_id=org_id, project_id=project.project_id, name="bench"), timeout=TIMEOUT_S
    )
    credit = pb.AddCreditRequest(
        org_id=org_id, amount_nano_usd=CREDIT_NANO_USD, idempotency_key="bench", kind=pb.CREDIT_KIND_PAID
    )
    await stub.AddCredit(credit, timeout=TIMEOUT_S)
    return codec.principal_to_proto(Principal(org_id, project.project_id, made.key.key_id, ()))


def _facts() -> ChargeFacts:
    return ChargeFacts(
        usage=USAGE,
        price=PRICE,
        served_mode=ServedMode.FRESH,
        outcome=Outcome.COMPLETE,
        requested_model=MODEL,
        model=MODEL,
        source_id="openai",
        upstream_model=MODEL,
        trace_id=TRACE_ID,
    )
