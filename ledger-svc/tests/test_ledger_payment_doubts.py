"""Payments under what a crash and a crowd do: every transaction run twice, every notice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from ledger_payments import USD, ScriptedProvider, told
from sqlalchemy import Connection, func, select

from ledger_svc.domain.errors import ProviderRefused
from ledger_svc.domain.payment_refunds import RefundState
from ledger_svc.domain.payments import NoticeKind, NoticeOutcome, PaymentState
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.credit import CreditService
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.refunds import RefundService
from ledger_svc.store.database import Database
from ledger_svc.store.payments import PaymentRecords
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import AUDIT_LOG, EXTERNAL_EVENT, PAYMENT, PAYMENT_REFUND
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
T = TypeVar("T")


class DoubtingWriter(Writer):
    """Runs each piece of work again after its COMMIT, as the writer does where it does not know of that one."""

    def __init__(self, writer: Writer) -> None:
        self._inner = writer

    async def write(self, work: Callable[[Connection], T], **options: Any) -> T:
        await self._inner.write(work, **options)
        return await self._inner.write(work, **options)


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def store(database: Database, writer: Writer, keyring: Keyring) -> PaymentRecords:
    return PaymentRecords(database, DoubtingWriter(writer), Trail(Sealer(keyring)), Sealer(keyring))


@pytest.fixture
def payments(store: PaymentRecords, provider: ScriptedProvider, clock: FakeClock, make_id: MakeId) -> PaymentService:
    return PaymentService(payments=store, provider=provider, clock=clock, make_id=make_id)


@pytest.fixture
def refunds(store: PaymentRecords, provider: ScriptedProvider, clock: FakeClock, make_id: MakeId) -> RefundService:
    return RefundService(payments=store, provider=provider, clock=clock, make_id=make_id)


async def rows(database: Database) -> list[int]:
    def count(connection: Connection) -> list[int]:
        tables = (PAYMENT, PAYMENT_REFUND, EXTERNAL_EVENT)
        told_of = AUDIT_LOG.c.action.startswith("payment")
        return [
            *(connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables),
            connection.scalar(select(func.count()).select_from(AUDIT_LOG).where(told_of)) or 0,
        ]

    return await database.read(count)


async def test_every_transaction_finds_its_own_traces(
    payments: PaymentService,
    refunds: RefundService,
    provider: ScriptedProvider,
    credit: CreditService,
    database: Database,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    payment = await payments.create(payer.org_id, amount_nano_usd=20 * USD, idempotency_key="k")
    assert await payments.receive("scripted", told(payment, NoticeKind.PAID, "e1"), {}) is NoticeOutcome.CREDITED
    refund, _ = await refunds.refund("", payment.payment_id, amount_nano_usd=USD, reason="", idempotency_key="r1")
    assert refund.state is RefundState.DONE
    provider.failure = ProviderRefused("no")
    with pytest.raises(ProviderRefused):
        await refunds.refund("", payment.payment_id, amount_nano_usd=USD, reason="", idempotency_key="r2")
    back = told(payment, NoticeKind.REFUNDED, "e2", amount_nano_usd=3 * USD)
    assert await payments.receive("scripted", back, {}) is NoticeOutcome.RETURNED
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 17 * USD
    # Created, paid and paid back; of two refunds the beginning and the end.
    assert await rows(database) == [1, 2, 2, 3 + 4]


async def test_notices_that_come_at_once_credit_once(
    payments: PaymentService, credit: CreditService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    payment = await payments.create(payer.org_id, amount_nano_usd=20 * USD, idempotency_key="k")
    bodies = [told(payment, NoticeKind.PAID, f"e{n % 4}") for n in range(8)]
    bodies += [told(payment, NoticeKind.EXPIRED, "e8"), told(payment, NoticeKind.FAILED, "e9")]
    await asyncio.gather(*(payments.receive("scripted", body, {}) for body in bodies))
    assert (await credit.balance(payer.org_id)).posted_nano_usd == 20 * USD
    assert (await payments.payment("", payment.payment_id)).state is PaymentState.PAID
