"""Payments: begun once, credited once whatever a provider tells and how often, paid back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import permutations

import pytest
from ledger_payments import USD, ScriptedProvider, told
from sqlalchemy import select

from ledger_svc.domain.accounts import AccountKind, account_id
from ledger_svc.domain.errors import (
    IdempotencyConflict,
    InsufficientBalance,
    InvalidNotice,
    InvalidRequest,
    NotFound,
    PaymentsNotConfigured,
    ProviderFailed,
    ProviderRefused,
)
from ledger_svc.domain.payment_refunds import RefundState
from ledger_svc.domain.payments import NoticeKind, NoticeOutcome, Payment, PaymentState
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.payments import PaymentService
from ledger_svc.service.refunds import RefundService
from ledger_svc.store.database import Database
from ledger_svc.store.payments import PaymentRecords
from ledger_svc.store.sealing import Sealer
from ledger_svc.store.tables import ACCOUNT, AUDIT_LOG
from ledger_svc.store.trail import Trail
from ledger_svc.store.writer import Writer
from meshkit.ids import MakeId
from meshkit.money import parse_usd
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
PAID, FAILED, EXPIRED, REFUNDED = NoticeKind.PAID, NoticeKind.FAILED, NoticeKind.EXPIRED, NoticeKind.REFUNDED


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def store(database: Database, writer: Writer, keyring: Keyring) -> PaymentRecords:
    return PaymentRecords(database, writer, Trail(Sealer(keyring)), Sealer(keyring))


@pytest.fixture
def payments(store: PaymentRecords, provider: ScriptedProvider, clock: FakeClock, make_id: MakeId) -> PaymentService:
    return PaymentService(payments=store, provider=provider, clock=clock, make_id=make_id)


@pytest.fixture
def refunds(store: PaymentRecords, provider: ScriptedProvider, clock: FakeClock, make_id: MakeId) -> RefundService:
    return RefundService(payments=store, provider=provider, clock=clock, make_id=make_id)


async def begun(payments: PaymentService, org_id: str, key: str = "topup-1", usd: int = 20) -> Payment:
    return await payments.create(org_id, amount_nano_usd=usd * USD, idempotency_key=key)


async def tell(payments: PaymentService, body: bytes) -> NoticeOutcome:
    return await payments.receive("scripted", body, {})


async def balance(credit: CreditService, payer: Principal) -> int:
    return (await credit.balance(payer.org_id)).posted_nano_usd


async def clearing(database: Database, payer: Principal) -> int:
    query = select(ACCOUNT.c.posted_nano_usd).where(
        ACCOUNT.c.account_id == account_id(payer.org_id, AccountKind.PROVIDER_CLEARING)
    )
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


async def test_a_payment_is_begun_once_and_credited_by_its_notice(
    payments: PaymentService, provider: ScriptedProvider, credit: CreditService, database: Database, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    first = await begun(payments, payer.org_id)
    assert (first.state, first.checkout_url) == (
        PaymentState.CREATED,
        f"https://pay.example/{first.payment_id}",
    )
    assert await begun(payments, payer.org_id) == first
    assert provider.checkouts == [first.payment_id]
    assert await tell(payments, told(first, PAID, "evt_1")) is NoticeOutcome.CREDITED
    assert await balance(credit, payer) == 20 * USD
    assert await clearing(database, payer) == -20 * USD
    paid = await payments.payment(payer.org_id, first.payment_id)
    assert (paid.state, paid.provider_payment_id) == (PaymentState.PAID, f"pi_{first.payment_id}")
    assert await begun(payments, payer.org_id) == paid
    query = select(AUDIT_LOG.c.action, AUDIT_LOG.c.actor_kind).where(AUDIT_LOG.c.subject == first.payment_id)
    entries = await database.read(lambda connection: connection.execute(query).all())
    assert sorted(map(tuple, entries)) == [("payment.created", "operator"), ("payment.paid", "system")]


async def test_another_amount_or_page_under_the_same_key_is_a_conflict(
    payments: PaymentService, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    await begun(payments, payer.org_id)
    with pytest.raises(IdempotencyConflict, match="topup-1"):
        await begun(payments, payer.org_id, usd=30)
    with pytest.raises(IdempotencyConflict):
        await payments.create(
            payer.org_id, amount_nano_usd=20 * USD, idempotency_key="topup-1", success_url="https://shop.example/"
        )
    assert (await begun(payments, other.org_id, usd=30)).amount_nano_usd == 30 * USD


async def test_one_key_sent_many_times_at_once_is_one_payment_and_one_checkout(
    payments: PaymentService, provider: ScriptedProvider, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    provider.gate = asyncio.Event()
    together = [asyncio.create_task(begun(payments, payer.org_id)) for _ in range(8)]
    async with asyncio.timeout(20):
        await provider.asked.wait()
        together[0].cancel()  # its caller has gone; the others still get theirs
        provider.gate.set()
        made = await asyncio.gather(*together[1:])
    assert len({payment.payment_id for payment in made}) == 1
    assert len(provider.checkouts) == 1
    assert all(payment.checkout_url for payment in made)


async def test_a_provider_that_failed_is_asked_again_for_the_same_payment(
    payments: PaymentService, provider: ScriptedProvider, credit: CreditService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    provider.failure = ProviderFailed("away")
    with pytest.raises(ProviderFailed):
        await begun(payments, payer.org_id)
    (lost,) = (await payments.page(payer.org_id, page_size=0, page_token=""))[0]
    # The answer was lost, not the checkout: its notice comes before we know of it.
    assert await tell(payments, told(lost, PAID, "evt_1")) is NoticeOutcome.CREDITED
    provider.failure = None
    again = await begun(payments, payer.org_id)
    assert (again.payment_id, again.state) == (lost.payment_id, PaymentState.PAID)
    assert await balance(credit, payer) == 20 * USD


ALL_NOTICES = [(PAID, "e1"), (PAID, "e2"), (EXPIRED, "e3"), (FAILED, "e4"), (PAID, "e1")]


@pytest.mark.timeout(240)
async def test_any_order_and_any_number_of_notices_gives_one_credit(
    payments: PaymentService, credit: CreditService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    for n, order in enumerate(sorted(set(permutations(ALL_NOTICES)), key=str)):
        payment = await begun(payments, payer.org_id, key=f"topup-{n}", usd=1)
        outcomes = [await tell(payments, told(payment, kind, f"{event}-{n}")) for kind, event in order]
        credited = [outcome for outcome in outcomes if outcome is NoticeOutcome.CREDITED]
        assert len(credited) in {1, 2}, order  # an event that is told again is answered as before
        assert await balance(credit, payer) == (n + 1) * USD, order
        assert (await payments.payment("", payment.payment_id)).state is PaymentState.PAID


@pytest.mark.parametrize("refunds_told", [[5], [5, 12], [20]])
async def test_refunds_at_the_provider_are_taken_back_once_in_any_order(
    payments: PaymentService, credit: CreditService, database: Database, new_payer: NewPayer, refunds_told: list[int]
) -> None:
    payer = await new_payer()
    notices = [(PAID, "paid", 20), *((REFUNDED, f"r{usd}", usd) for usd in refunds_told)]
    orders = list(permutations([*notices, notices[-1]]))
    for n, order in enumerate(orders):
        payment = await begun(payments, payer.org_id, key=f"topup-{n}")
        for kind, event, usd in order:
            await tell(payments, told(payment, kind, f"{event}-{n}", amount_nano_usd=usd * USD))
        left = 20 - max(refunds_told)
        assert await balance(credit, payer) == (n + 1) * left * USD, order
        after = await payments.payment(payer.org_id, payment.payment_id)
        assert (after.returned_nano_usd, after.uncovered_nano_usd) == (max(refunds_told) * USD, 0)
        assert after.state is (PaymentState.PAID if left else PaymentState.REFUNDED)
    assert await clearing(database, payer) == -len(orders) * left * USD


async def test_what_is_spent_already_is_not_taken_back_but_recorded(
    payments: PaymentService, credit: CreditService, charging: ChargingService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    payment = await begun(payments, payer.org_id)
    await tell(payments, told(payment, PAID, "e1"))
    await charging.reserve(payer, "req-1", amount_nano_usd=15 * USD, ttl_ms=60_000, model="gpt-x")
    assert await tell(payments, told(payment, REFUNDED, "e2")) is NoticeOutcome.RETURNED
    after = await payments.payment("", payment.payment_id)
    assert (after.returned_nano_usd, after.uncovered_nano_usd) == (20 * USD, 15 * USD)
    assert (await credit.balance(payer.org_id)).available_nano_usd == 0


@pytest.mark.parametrize(
    "change",
    [{"amount_nano_usd": 19 * USD}, {"currency": "eur"}, {"amount_nano_usd": 21 * USD}],
)
async def test_a_notice_that_says_something_else_credits_nothing_and_is_shown_to_the_operator(
    payments: PaymentService, credit: CreditService, new_payer: NewPayer, change: dict[str, object]
) -> None:
    payer = await new_payer()
    payment = await begun(payments, payer.org_id)
    said = told(payment, PAID, "e1", **change)  # type: ignore[arg-type]
    assert await tell(payments, said) is NoticeOutcome.MISMATCHED
    assert await tell(payments, said) is NoticeOutcome.MISMATCHED
    assert await balance(credit, payer) == 0
    (shown,), _ = await payments.notices(trouble_only=True, page_size=0, page_token="")
    assert (shown.notice.event_id, shown.notice.payment_id, shown.org_id) == ("e1", payment.payment_id, payer.org_id)
    assert await tell(payments, told(payment, PAID, "e2")) is NoticeOutcome.CREDITED


async def test_a_notice_of_another_session_or_of_no_payment_credits_nothing(
    payments: PaymentService, credit: CreditService, new_payer: NewPayer
) -> None:
    payer = await new_payer()
    first, second = await begun(payments, payer.org_id), await begun(payments, payer.org_id, key="topup-2")
    crossed = told(first, PAID, "e1").replace(f"cs_{first.payment_id}".encode(), f"cs_{second.payment_id}".encode())
    assert await tell(payments, crossed) is NoticeOutcome.MISMATCHED
    nobody = replace(first, payment_id="pay_nobody")
    assert await tell(payments, told(nobody, PAID, "e2")) is NoticeOutcome.UNKNOWN
    assert await tell(payments, told(first, NoticeKind.ATTENTION, "e3")) is NoticeOutcome.ATTENTION
    assert await balance(credit, payer) == 0
    found, _ = await payments.notices(trouble_only=True, page_size=0, page_token="")
    assert {taken.outcome.value for taken in found} == {"mismatched", "unknown", "attention"}


async def test_what_is_not_signed_or_not_for_us_is_refused(payments: PaymentService, store: PaymentRecords) -> None:
    with pytest.raises(InvalidNotice):
        await tell(payments, b"forged")
    with pytest.raises(NotFound):
        await payments.receive("stripe", b"{}", {})
    nobody = PaymentService(payments=store, provider=None, clock=FakeClock(), make_id=str)
    with pytest.raises(PaymentsNotConfigured, match="tallygate credit add"):
        await begun(nobody, "org_1")
    with pytest.raises(NotFound):
        await nobody.pay_at_till("cs_1")


@pytest.mark.parametrize("usd", ["0", "0.49", "1000000", "12.345"])
async def test_an_amount_that_no_provider_takes_is_refused(
    payments: PaymentService, new_payer: NewPayer, usd: str
) -> None:
    payer = await new_payer()
    with pytest.raises(InvalidRequest, match="amount_usd"):
        await payments.create(payer.org_id, amount_nano_usd=parse_usd(usd), idempotency_key="k")


async def test_payments_come_in_pages_of_one_organisation(
    payments: PaymentService, clock: FakeClock, new_payer: NewPayer
) -> None:
    payer, other = await new_payer(), await new_payer()
    made = []
    for n in range(5):
        made.append((await begun(payments, payer.org_id, key=f"k{n}")).payment_id)
        clock.advance(n % 2)
    foreign = await begun(payments, other.org_id)
    found, token = await payments.page(payer.org_id, page_size=3, page_token="")
    rest, end = await payments.page(payer.org_id, page_size=3, page_token=token)
    assert [payment.payment_id for payment in found + rest] == list(reversed(made))
    assert end == ""
    with pytest.raises(NotFound):
        await payments.payment(payer.org_id, foreign.payment_id)


async def paid(payments: PaymentService, payer: Principal, key: str = "topup-1") -> Payment:
    payment = await begun(payments, payer.org_id, key=key)
    await tell(payments, told(payment, PAID, f"paid-{key}"))
    return await payments.payment("", payment.payment_id)


async def test_a_refund_leaves_the_credit_first_and_is_made_once(
    payments: PaymentService,
    refunds: RefundService,
    provider: ScriptedProvider,
    credit: CreditService,
    database: Database,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    payment = await paid(payments, payer)

    async def refund(usd: int, key: str) -> Payment:
        _, after = await refunds.refund(
            "", payment.payment_id, amount_nano_usd=usd * USD, reason="asked", idempotency_key=key
        )
        return after

    first = await refund(5, "r1")
    assert await refund(5, "r1") == first
    assert (first.returned_nano_usd, len(provider.refunds)) == (5 * USD, 1)
    assert await balance(credit, payer) == 15 * USD
    # What the provider then tells of our own refund is known already; what it tells beyond is not.
    assert await tell(payments, told(payment, REFUNDED, "e2", amount_nano_usd=5 * USD)) is NoticeOutcome.NOTED
    assert await balance(credit, payer) == 15 * USD
    await tell(payments, told(payment, REFUNDED, "e3", amount_nano_usd=8 * USD))
    assert await balance(credit, payer) == 12 * USD
    with pytest.raises(IdempotencyConflict):
        await refund(6, "r1")
    with pytest.raises(InvalidRequest, match=r"only \$12"):
        await refund(13, "r2")
    assert (await refund(0, "r3")).state is PaymentState.REFUNDED
    assert await balance(credit, payer) == 0
    assert await clearing(database, payer) == 0
    with pytest.raises(InvalidRequest, match="nothing to refund"):
        await refund(0, "r4")
    assert [made.state for made in await refunds.refunds(payment)] == [RefundState.DONE] * 2


async def test_a_refund_of_what_is_held_or_not_paid_is_refused(
    payments: PaymentService,
    refunds: RefundService,
    provider: ScriptedProvider,
    charging: ChargingService,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    unpaid = await begun(payments, payer.org_id, key="unpaid")
    payment = await paid(payments, payer)
    await charging.reserve(payer, "req-1", amount_nano_usd=15 * USD, ttl_ms=60_000, model="gpt-x")
    for payment_id, refusal in ((payment.payment_id, InsufficientBalance), (unpaid.payment_id, InvalidRequest)):
        with pytest.raises(refusal):
            await refunds.refund("", payment_id, amount_nano_usd=0, reason="", idempotency_key="r1")
    with pytest.raises(NotFound):
        await refunds.refund("org_x", payment.payment_id, amount_nano_usd=0, reason="", idempotency_key="r1")
    assert provider.refunds == []
    assert (await payments.payment("", payment.payment_id)).returned_nano_usd == 0


async def test_a_refund_that_the_provider_refuses_is_credit_again(
    payments: PaymentService,
    refunds: RefundService,
    provider: ScriptedProvider,
    credit: CreditService,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    payment = await paid(payments, payer)
    provider.failure = ProviderRefused("no")
    with pytest.raises(ProviderRefused):
        await refunds.refund("", payment.payment_id, amount_nano_usd=5 * USD, reason="", idempotency_key="r1")
    assert await balance(credit, payer) == 20 * USD
    after = await payments.payment("", payment.payment_id)
    assert (after.returned_nano_usd, after.state) == (0, PaymentState.PAID)
    provider.failure = None
    refund, _ = await refunds.refund("", payment.payment_id, amount_nano_usd=5 * USD, reason="", idempotency_key="r1")
    assert refund.state is RefundState.FAILED
    await refunds.refund("", payment.payment_id, amount_nano_usd=5 * USD, reason="", idempotency_key="r2")
    assert await balance(credit, payer) == 15 * USD


async def test_a_refund_whose_end_is_not_known_goes_on_under_its_name(
    payments: PaymentService,
    refunds: RefundService,
    provider: ScriptedProvider,
    credit: CreditService,
    new_payer: NewPayer,
) -> None:
    payer = await new_payer()
    payment = await paid(payments, payer)
    provider.failure = ProviderFailed("away")
    with pytest.raises(ProviderFailed):
        await refunds.refund("", payment.payment_id, amount_nano_usd=0, reason="", idempotency_key="r1")
    assert await balance(credit, payer) == 0
    provider.failure = None
    refund, after = await refunds.refund("", payment.payment_id, amount_nano_usd=0, reason="", idempotency_key="r1")
    assert (refund.state, after.state) == (RefundState.DONE, PaymentState.REFUNDED)
    assert len({refund_id for refund_id, _ in provider.refunds}) == 1
