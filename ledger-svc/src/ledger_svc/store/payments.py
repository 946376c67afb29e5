"""Payments, their refunds and notices, and the credit that comes and goes with them: each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, tuple_, update

from ledger_svc.domain.accounts import SPENDABLE, Account, AccountKind, Balance, account_id
from ledger_svc.domain.command import Command
from ledger_svc.domain.errors import NotFound
from ledger_svc.domain.payment_refunds import PaymentRefund, RefundState
from ledger_svc.domain.payments import (
    Checkout,
    Notice,
    NoticeKind,
    NoticeOutcome,
    Payment,
    PaymentState,
    Step,
    TakenNotice,
    coverable_nano_usd,
)
from ledger_svc.domain.trail import TrailEntry
from ledger_svc.service.payment_ports import Funds, NoticeWork, RefundWork
from ledger_svc.store import rows
from ledger_svc.store.batch import decide_beside_others
from ledger_svc.store.database import Database
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ACCOUNT, EXTERNAL_EVENT, ORG, PAYMENT, PAYMENT_REFUND, RESERVATION
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer


class PaymentRecords:
    """Implements ``payment_ports.Payments``. What changes goes through the one writer, and credit through the commands
    that decide on it everywhere else.
    """

    def __init__(self, database: Database, writer: Writer, trail: Trail, sealer: Sealer) -> None:
        self._database = database
        self._writer = writer
        self._trail = trail
        self._sealer = sealer

    async def begin(self, payment: Payment, entry: TrailEntry) -> Payment:
        """See ``payment_ports.Payments``."""

        def begin(connection: Connection) -> Payment:
            same_key = select(PAYMENT).where(
                PAYMENT.c.org_id == payment.org_id, PAYMENT.c.idempotency_key == payment.idempotency_key
            )
            if found := connection.execute(same_key).one_or_none():
                existing = _payment(found)
                existing.check_same(payment)
                return existing
            if not connection.execute(select(ORG.c.org_id).where(ORG.c.org_id == payment.org_id)).first():
                raise NotFound(f"no organisation {payment.org_id}")
            connection.execute(insert(PAYMENT).values(_payment_values(payment)))
            self._trail.record(connection, entry)
            return payment

        return await self._writer.write(begin)

    async def open_checkout(self, payment_id: str, checkout: Checkout, now_ms: int) -> Payment:
        """See ``payment_ports.Payments``. A notice may have come before."""

        def note(connection: Connection) -> Payment:
            payment = _find(connection, PAYMENT.c.payment_id == payment_id)
            assert payment is not None, payment_id
            if payment.provider_session_id:
                return payment
            opened = replace(
                payment,
                provider_session_id=checkout.session_id,
                checkout_url=checkout.url,
                updated_at_ms=now_ms,
            )
            _update(connection, opened)
            return opened

        return await self._writer.write(note)

    async def payment(self, org_id: str, payment_id: str) -> Payment:
        """See ``payment_ports.Payments``."""
        conditions = [PAYMENT.c.payment_id == payment_id, *([PAYMENT.c.org_id == org_id] if org_id else [])]
        found = await self._database.read(lambda connection: _find(connection, *conditions))
        if found is None:
            raise NotFound(f"no payment {payment_id}")
        return found

    async def of_session(self, provider: str, session_id: str) -> Payment:
        """See ``payment_ports.Payments``."""
        conditions = (PAYMENT.c.provider == provider, PAYMENT.c.provider_session_id == session_id)
        found = await self._database.read(lambda connection: _find(connection, *conditions))
        if found is None:
            raise NotFound("no such checkout session")
        return found

    async def payments(self, org_id: str, *, limit: int, before: tuple[int, str] | None) -> list[Payment]:
        """See ``payment_ports.Payments``."""
        order = (PAYMENT.c.created_at_ms, PAYMENT.c.payment_id)
        query = select(PAYMENT).order_by(*(column.desc() for column in order)).limit(limit)
        if org_id:
            query = query.where(PAYMENT.c.org_id == org_id)
        if before is not None:
            query = query.where(tuple_(*order) < before)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_payment(row) for row in found]

    async def take_notice(self, provider: str, notice: Notice, received_at_ms: int, work: NoticeWork) -> NoticeOutcome:
        """See ``payment_ports.Payments``."""

        def take(connection: Connection) -> NoticeOutcome:
            seen = select(EXTERNAL_EVENT.c.outcome).where(
                EXTERNAL_EVENT.c.provider == provider, EXTERNAL_EVENT.c.event_id == notice.event_id
            )
            if (outcome := connection.scalar(seen)) is not None:
                return NoticeOutcome(outcome)
            payment = _payment_of(connection, provider, notice)
            step = work.follow(payment)
            after = self._move_credit(connection, step, work)
            if payment is not None and after is not None and after != payment:
                _update(connection, after)
                self._trail.record(connection, work.entry(payment, after))
            taken = TakenNotice(provider, notice, step.outcome, payment.org_id if payment else "", received_at_ms)
            connection.execute(insert(EXTERNAL_EVENT).values(_notice_values(taken, payment)))
            return step.outcome

        return await self._writer.write(take)

    def _move_credit(self, connection: Connection, step: Step, work: NoticeWork) -> Payment | None:
        payment = step.payment
        if payment is None:
            return None
        if step.credits:
            self._run(connection, work.credit(payment))
        if not step.take_back_nano_usd:
            return payment
        covered = coverable_nano_usd(step.take_back_nano_usd, _paid_credit(connection, payment.org_id))
        if covered:
            self._run(connection, work.take_back(payment, covered))
        return replace(payment, uncovered_nano_usd=payment.uncovered_nano_usd + step.take_back_nano_usd - covered)

    async def notices(
        self, outcomes: Sequence[NoticeOutcome], *, limit: int, before: tuple[int, str] | None
    ) -> list[TakenNotice]:
        """See ``payment_ports.Payments``."""
        order = (EXTERNAL_EVENT.c.received_at_ms, EXTERNAL_EVENT.c.event_id)
        query = (
            select(EXTERNAL_EVENT)
            .where(EXTERNAL_EVENT.c.outcome.in_([outcome.value for outcome in outcomes]))
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if before is not None:
            query = query.where(tuple_(*order) < before)
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_taken(row) for row in found]

    async def begin_refund(self, refund: PaymentRefund, work: RefundWork) -> PaymentRefund:
        """See ``payment_ports.Payments``."""

        def begin(connection: Connection) -> PaymentRefund:
            same_key = select(PAYMENT_REFUND).where(
                PAYMENT_REFUND.c.org_id == refund.org_id, PAYMENT_REFUND.c.idempotency_key == refund.idempotency_key
            )
            if found := connection.execute(same_key).one_or_none():
                existing = _refund(found)
                existing.check_same(refund)
                return existing
            begun = self._change(connection, refund, work)
            connection.execute(insert(PAYMENT_REFUND).values(_refund_values(begun)))
            return begun

        return await self._writer.write(begin)

    async def end_refund(self, refund: PaymentRefund, work: RefundWork) -> PaymentRefund:
        """See ``payment_ports.Payments``."""

        def end(connection: Connection) -> PaymentRefund:
            query = select(PAYMENT_REFUND).where(PAYMENT_REFUND.c.refund_id == refund.refund_id)
            stored = _refund(connection.execute(query).one())
            if stored.state is not RefundState.PENDING:
                return stored  # a COMMIT in doubt did go through, or it was asked for twice at once
            ended = self._change(connection, refund, work)
            change = {"state", "provider_refund_id", "updated_at_ms"}
            connection.execute(
                update(PAYMENT_REFUND)
                .where(PAYMENT_REFUND.c.refund_id == refund.refund_id)
                .values({name: value for name, value in _refund_values(ended).items() if name in change})
            )
            return ended

        return await self._writer.write(end)

    async def refunds(self, payment_id: str) -> list[PaymentRefund]:
        """See ``payment_ports.Payments``."""
        query = (
            select(PAYMENT_REFUND)
            .where(PAYMENT_REFUND.c.payment_id == payment_id)
            .order_by(PAYMENT_REFUND.c.created_at_ms, PAYMENT_REFUND.c.refund_id)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [_refund(row) for row in found]

    async def funds(self, org_id: str) -> Funds:
        """See ``payment_ports.Payments``."""
        open_holds = (
            select(func.count())
            .select_from(RESERVATION)
            .where(RESERVATION.c.org_id == org_id, RESERVATION.c.state == "open")
            .scalar_subquery()
        )
        query = select(ACCOUNT.c.kind, ACCOUNT.c.posted_nano_usd, ACCOUNT.c.reserved_nano_usd, open_holds).where(
            ACCOUNT.c.org_id == org_id, ACCOUNT.c.kind.in_([kind.value for kind in SPENDABLE])
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        if not found:
            raise NotFound(f"no organisation {org_id}")
        posted = {kind: amount for kind, amount, _, _ in found}
        balance = Balance(org_id, sum(posted.values()), sum(row.reserved_nano_usd for row in found), found[0][3])
        return Funds(balance, posted[AccountKind.CUSTOMER_CREDIT], posted[AccountKind.PROMO])

    def _change(self, connection: Connection, refund: PaymentRefund, work: RefundWork) -> PaymentRefund:
        payment = _find(connection, PAYMENT.c.payment_id == refund.payment_id, PAYMENT.c.org_id == refund.org_id)
        if payment is None:
            raise NotFound(f"no payment {refund.payment_id}")
        after, changed, commands = work.change(payment, refund)
        for command in commands:
            self._run(connection, command)
        if after != payment:
            _update(connection, after)
        self._trail.record(connection, work.entry(changed))
        return changed

    def _run(self, connection: Connection, command: Command[None]) -> None:
        """Decides a command in this transaction, which is the writer's.

        Raises:
            LedgerError: refused, and then nothing of the transaction stays.
        """
        (answer,) = decide_beside_others(connection, [command], self._sealer)
        if answer.error is not None:
            raise answer.error


def _payment_of(connection: Connection, provider: str, notice: Notice) -> Payment | None:
    """By our own name for it; else by the provider's."""
    same = PAYMENT.c.provider == provider
    if notice.payment_id:
        return _find(connection, same, PAYMENT.c.payment_id == notice.payment_id)
    known = [
        column == value
        for column, value in (
            (PAYMENT.c.provider_session_id, notice.session_id),
            (PAYMENT.c.provider_payment_id, notice.provider_payment_id),
        )
        if value
    ]
    return _find(connection, same, or_(*known)) if known else None


def _find(connection: Connection, *conditions: Any) -> Payment | None:
    row = connection.execute(select(PAYMENT).where(*conditions).limit(1)).one_or_none()
    return None if row is None else _payment(row)


def _paid_credit(connection: Connection, org_id: str) -> Account:
    query = select(ACCOUNT).where(ACCOUNT.c.account_id == account_id(org_id, AccountKind.CUSTOMER_CREDIT))
    return rows.account_from_row(connection.execute(query).one())


_CHANGING = (
    *("state", "provider_session_id", "provider_payment_id", "checkout_url", "returned_nano_usd"),
    *("provider_returned_nano_usd", "uncovered_nano_usd", "updated_at_ms"),
)


def _update(connection: Connection, payment: Payment) -> None:
    values = _payment_values(payment)
    connection.execute(
        update(PAYMENT)
        .where(PAYMENT.c.payment_id == payment.payment_id)
        .values({name: values[name] for name in _CHANGING})
    )


def _payment(row: Row[Any]) -> Payment:
    return Payment(**{**row._mapping, "state": PaymentState(row.state)})


def _payment_values(payment: Payment) -> rows.Values:
    return rows.values(payment) | {"state": payment.state.value}


def _refund(row: Row[Any]) -> PaymentRefund:
    return PaymentRefund(**{**row._mapping, "state": RefundState(row.state)})


def _refund_values(refund: PaymentRefund) -> rows.Values:
    return rows.values(refund) | {"state": refund.state.value}


def _notice_values(taken: TakenNotice, payment: Payment | None) -> rows.Values:
    notice = rows.values(taken.notice) | {"kind": taken.notice.kind.value}
    return notice | {
        "provider": taken.provider,
        "outcome": taken.outcome.value,
        "org_id": taken.org_id,
        "payment_id": payment.payment_id if payment else taken.notice.payment_id,
        "received_at_ms": taken.received_at_ms,
    }


def _taken(row: Row[Any]) -> TakenNotice:
    notice = Notice(
        event_id=row.event_id,
        kind=NoticeKind(row.kind),
        about=row.about,
        session_id=row.session_id,
        payment_id=row.payment_id,
        provider_payment_id=row.provider_payment_id,
        amount_nano_usd=row.amount_nano_usd,
        currency=row.currency,
    )
    return TakenNotice(row.provider, notice, NoticeOutcome(row.outcome), row.org_id, row.received_at_ms)
