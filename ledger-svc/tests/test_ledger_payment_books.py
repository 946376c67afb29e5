"""Payments in the books: their history stays, the audit sees what was changed behind the ledger's back, older databases
get the account that payments are given from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from alembic import command
from ledger_payments import USD, ScriptedProvider, told
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from test_ledger_history import Undo, executes, unprotect

from ledger_svc.domain.payments import NoticeKind, Payment
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.refunds import RefundService
from ledger_svc.store.audit import Violation, audit, find_violations
from ledger_svc.store.database import Database
from ledger_svc.store.migrate import alembic_config, migrate
from ledger_svc.store.opening import open_database
from ledger_svc.store.payments import PaymentRecords
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]


@pytest.fixture
async def payment(
    database: Database, writer: Writer, keyring: Keyring, clock: FakeClock, make_id: MakeId, new_payer: NewPayer
) -> Payment:
    """One that was paid, and some of which was paid back."""
    store, provider = PaymentRecords(database, writer, Trail(Sealer(keyring)), Sealer(keyring)), ScriptedProvider()
    payments = PaymentService(payments=store, provider=provider, clock=clock, make_id=make_id)
    refunds = RefundService(payments=store, provider=provider, clock=clock, make_id=make_id)
    payer = await new_payer(USD)
    payment = await payments.create(payer.org_id, amount_nano_usd=20 * USD, idempotency_key="k")
    await payments.receive("scripted", told(payment, NoticeKind.PAID, "e1"), {})
    _, after = await refunds.refund("", payment.payment_id, amount_nano_usd=USD, reason="", idempotency_key="r")
    return after


async def test_history_of_payments_refuses_to_be_changed(database: Database, payment: Payment) -> None:
    for change in (
        "DELETE FROM payment",
        "UPDATE payment SET amount_nano_usd = 1, returned_nano_usd = 0",
        "UPDATE payment SET state = 'created'",
        "UPDATE payment SET provider_session_id = 'cs_other'",
        "UPDATE payment SET org_id = 'org_other'",
        "DELETE FROM payment_refund",
        "UPDATE payment_refund SET state = 'pending'",
        "UPDATE payment_refund SET amount_nano_usd = 7",
        "DELETE FROM external_event",
        "UPDATE external_event SET outcome = 'credited'",
    ):
        with pytest.raises(DBAPIError, match="is history"):
            await database.write(executes(change))
    with pytest.raises(DBAPIError, match=r"(?i)check constraint"):
        await database.write(executes("UPDATE payment SET returned_nano_usd = amount_nano_usd + 1"))


TAMPERING = {
    "UPDATE payment SET returned_nano_usd = 0": {"the clearing account has what payments brought"},
    "UPDATE payment SET amount_nano_usd = amount_nano_usd * 2": {"the clearing account has what payments brought"},
    "UPDATE payment SET state = 'expired'": {
        "the clearing account has what payments brought",
        "a payment is credited if and only if it was paid",
    },
    "UPDATE payment SET payment_id = 'pay_other'": {"a payment is credited if and only if it was paid"},
}


async def test_the_audit_names_the_rule_of_payments_that_is_broken(database: Database, payment: Payment) -> None:
    found: list[Violation] = []

    def tamper(connection: Connection) -> None:
        unprotect(connection)
        assert connection.execute(text(statement)).rowcount > 0
        found[:] = find_violations(connection)
        raise Undo

    for statement, broken in TAMPERING.items():
        with pytest.raises(Undo):
            await database.write(tamper)
        assert {violation.rule for violation in found} == broken, statement


async def test_an_older_database_gets_the_clearing_account(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        server.psql("CREATE DATABASE before_billing")
        url = server.get_uri("before_billing")
    database = open_database(url, connections=2, wait_s=20)

    def make_old(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0005_audit_trail")
        connection.exec_driver_sql("INSERT INTO org VALUES ('org', 'Acme', 1)")

    try:
        await database.write(make_old)
        await migrate(database)
        kinds = await database.read(lambda c: c.exec_driver_sql("SELECT account_id FROM account").scalars().all())
        assert kinds == ["org/provider_clearing"]
        assert await audit(database) == []
    finally:
        await database.close()
