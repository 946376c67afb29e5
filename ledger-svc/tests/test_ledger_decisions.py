"""The rules alone, without a database: any history of commands on a book in memory keeps what must always hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from ledger_svc.domain.accounts import SPENDABLE, Account, AccountKind, CreditKind, Spend, account_id, spread
from ledger_svc.domain.book import Book
from ledger_svc.domain.charges import ChargeFacts, Outcome, Quote, ServedMode, quote
from ledger_svc.domain.command import Command
from ledger_svc.domain.crediting import AddCredit
from ledger_svc.domain.errors import HoldClosed, IdempotencyConflict, InsufficientBalance, LedgerError
from ledger_svc.domain.holding import Expire, Release, Reserve
from ledger_svc.domain.holds import HoldState
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.settling import Charge, Settle
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier, Usage, charge_nano_usd

ORG = "org_1"
PRICE = PriceSnapshot("a/b", BillingTier.PASSTHROUGH, (RateTier(0, Rates(1_000, 0, 0, 1_000, 1_000)),), 0, 2_500)
"""1 nano-USD for each token."""

MODES = st.sampled_from(ServedMode)
OUTCOMES = st.sampled_from(Outcome)
AMOUNTS = st.integers(0, 300)


def facts(
    tokens: int,
    mode: ServedMode = ServedMode.FRESH,
    outcome: Outcome = Outcome.COMPLETE,
    *,
    input_tokens: int = 0,
    reasoning_tokens: int = 0,
) -> ChargeFacts:
    usage = Usage(input_tokens=input_tokens, output_tokens=tokens, reasoning_tokens=reasoning_tokens)
    return ChargeFacts(usage, PRICE, mode, outcome, "m", "m", "s", "u")


def account(kind: AccountKind, posted: int, reserved: int = 0, floor: int = 0) -> Account:
    return Account(account_id(ORG, kind), ORG, kind, posted, reserved, floor)


@pytest.mark.parametrize(
    ("amount", "promo", "paid", "expected"),
    [
        (10, (10, 0, 0), (10, 0, 0), Spend(10, 0, 0)),
        (15, (10, 0, 0), (10, 0, 0), Spend(10, 5, 0)),
        (25, (10, 0, 0), (10, 0, 0), Spend(10, 10, 5)),
        (15, (10, 4, 0), (10, 0, 0), Spend(6, 9, 0)),
        (15, (10, 10, 0), (10, 10, 0), Spend(0, 0, 15)),
        (15, (0, 0, 0), (20, 0, 10), Spend(0, 10, 5)),
        (15, (0, 0, 0), (20, 0, -10), Spend(0, 15, 0)),
        (5, (0, 0, 0), (10, 0, 20), Spend(0, 0, 5)),
        (0, (0, 0, 0), (0, 0, 0), Spend(0, 0, 0)),
    ],
)
def test_promotional_credit_first_then_paid_then_nothing(
    amount: int, promo: tuple[int, int, int], paid: tuple[int, int, int], expected: Spend
) -> None:
    found = spread(amount, promo=account(AccountKind.PROMO, *promo), paid=account(AccountKind.CUSTOMER_CREDIT, *paid))
    assert found == expected


@pytest.mark.parametrize(
    ("given_facts", "expected"),
    [
        (facts(100), Quote(100, 0)),
        (facts(100, ServedMode.EXACT), Quote(25, 75)),
        (facts(101, ServedMode.SEMANTIC), Quote(26, 75)),
        (facts(0, outcome=Outcome.COMPLETE, input_tokens=7), Quote(7, 0)),
        (facts(0, outcome=Outcome.INTERRUPTED, input_tokens=7), Quote(0, 0)),
        (facts(0, outcome=Outcome.INTERRUPTED, input_tokens=7), Quote(0, 0)),
        (facts(0, outcome=Outcome.CLIENT_GONE, input_tokens=7), Quote(7, 0)),
        (facts(0, outcome=Outcome.CLIENT_GONE, input_tokens=7, reasoning_tokens=1), Quote(8, 0)),
        (facts(1, outcome=Outcome.INTERRUPTED, input_tokens=7), Quote(8, 0)),
        (replace(facts(9), price=PriceSnapshot("a/b", BillingTier.FREE, ())), Quote(0, 0)),
    ],
)
def test_what_is_owed(given_facts: ChargeFacts, expected: Quote) -> None:
    assert quote(given_facts) == expected


@given(st.integers(0, 10**9), st.integers(0, 10**9), MODES)
def test_charge_and_saving_are_the_fresh_price(prompt: int, answer: int, mode: ServedMode) -> None:
    used = facts(answer, mode, input_tokens=prompt)
    found = quote(used)
    assert found.due_nano_usd + found.saved_nano_usd == charge_nano_usd(PRICE, used.usage)
    assert found.saved_nano_usd >= 0
    assert found.due_nano_usd >= 0


class Histories(RuleBasedStateMachine):
    """Commands in any order, some of them again, some with another content, while time passes."""

    requests = Bundle("requests")
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.key = ApiKey("key_1", ORG, "prj_1", "k", "tg-", (), 0)
        self.book = Book(
            accounts={account_id(ORG, kind): account(kind, 0) for kind in AccountKind}, keys={"key_1": self.key}
        )
        self.numbers = 0
        self.now_ms = 1_000
        self.credited = 0
        self.answers: dict[int, object] = {}

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def run(self, command: Command[Any]) -> object:
        before = repr(self.book)
        try:
            return command.decide(self.book)
        except LedgerError as refusal:
            assert repr(self.book) == before, "a refusal changed the book"
            return refusal

    @rule(amount=st.integers(1, 500), kind=st.sampled_from(CreditKind))
    def add_credit(self, amount: int, kind: CreditKind) -> None:
        n = self.number()
        assert self.run(AddCredit(ORG, amount, f"credit-{n}", kind, f"xfer_{n}", self.now_ms)) is None
        self.credited += amount

    @rule(target=requests, amount=AMOUNTS, ttl_ms=st.integers(1, 50))
    def reserve(self, amount: int, ttl_ms: int) -> str:
        n = self.number()
        available = sum(self.book.account(ORG, kind).available_nano_usd for kind in SPENDABLE)
        command = Reserve(self.key.principal, f"req-{n}", amount, ttl_ms, "m", f"hold_{n}", self.now_ms)
        answer = self.run(command)
        assert isinstance(answer, InsufficientBalance) == (amount > available)
        if amount <= available:
            assert self.run(replace(command, hold_id="hold_again", now_ms=self.now_ms + 5)) == answer
            assert isinstance(self.run(replace(command, amount_nano_usd=amount + 1)), IdempotencyConflict)
        return command.request_id

    @rule(request_id=requests, tokens=AMOUNTS, outcome=OUTCOMES)
    def settle(self, request_id: str, tokens: int, outcome: Outcome) -> None:
        n = self.number()
        hold, settled = self.book.holds.get((ORG, request_id)), self.book.receipts.get((ORG, request_id))
        used = facts(tokens, outcome=outcome)
        command = Settle(ORG, request_id, used, (), f"rcpt_{n}", f"xfer_{n}", self.now_ms)
        answer = self.run(command)
        if settled is None and hold is not None and not hold.released_at_ms:
            assert self.run(replace(command, receipt_id="rcpt_again", now_ms=self.now_ms + 1)) == answer
            receipt = self.book.receipts[ORG, request_id].receipt
            assert receipt.charged_nano_usd + receipt.absorbed_nano_usd == tokens
            assert hold.state is not HoldState.OPEN or receipt.charged_nano_usd >= min(tokens, hold.amount_nano_usd)
        elif settled is not None:
            same = settled.receipt.facts == used
            assert answer == settled.receipt if same else isinstance(answer, IdempotencyConflict)
        else:
            assert isinstance(answer, LedgerError)

    @rule(request_id=requests)
    def release(self, request_id: str) -> None:
        hold, settled = self.book.holds.get((ORG, request_id)), (ORG, request_id) in self.book.receipts
        answer = self.run(Release(ORG, request_id, "", (), self.now_ms))
        assert isinstance(answer, HoldClosed) == settled
        assert settled or hold is None or answer == hold.amount_nano_usd

    @rule(request_id=requests)
    def expire(self, request_id: str) -> None:
        hold = self.book.holds.get((ORG, request_id))
        due = hold is not None and hold.state is HoldState.OPEN and hold.expires_at_ms <= self.now_ms
        assert self.run(Expire(ORG, request_id, self.now_ms)) is due

    @rule(tokens=AMOUNTS, mode=st.sampled_from([ServedMode.EXACT, ServedMode.SEMANTIC]))
    def charge(self, tokens: int, mode: ServedMode) -> None:
        n = self.number()
        command = Charge(
            self.key.principal, f"req-{n}", facts(tokens, mode), f"hold_{n}", f"rcpt_{n}", f"xfer_{n}", self.now_ms
        )
        answer = self.run(command)
        if not isinstance(answer, InsufficientBalance):
            assert self.run(replace(command, receipt_id="rcpt_again")) == answer

    @rule(ms=st.integers(1, 60))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    @invariant()
    def transfers_sum_to_0_and_accounts_chain(self) -> None:
        sums: defaultdict[str, int] = defaultdict(int)
        balances: defaultdict[str, int] = defaultdict(int)
        versions: defaultdict[str, int] = defaultdict(int)
        for posting in self.book.new_postings:
            sums[posting.transfer_id] += posting.amount_nano_usd
            balances[posting.account_id] += posting.amount_nano_usd
            versions[posting.account_id] += 1
            assert posting.account_version == versions[posting.account_id]
            assert posting.balance_after_nano_usd == balances[posting.account_id]
        assert not any(sums.values())
        for kept in self.book.accounts.values():
            assert (kept.posted_nano_usd, kept.version) == (balances[kept.account_id], versions[kept.account_id])

    @invariant()
    def reserved_is_the_open_holds_and_nothing_is_overspent(self) -> None:
        still_open = [hold for hold in self.book.holds.values() if hold.state is HoldState.OPEN]
        promo, paid = (self.book.account(ORG, kind) for kind in (AccountKind.PROMO, AccountKind.CUSTOMER_CREDIT))
        assert promo.reserved_nano_usd == sum(hold.from_promo_nano_usd for hold in still_open)
        assert paid.reserved_nano_usd == sum(hold.from_paid_nano_usd for hold in still_open)
        assert all(kept.posted_nano_usd >= kept.reserved_nano_usd for kept in (promo, paid))

    @invariant()
    def every_receipt_is_one_settlement(self) -> None:
        entries = self.book.new_receipts
        assert len({entry.transfer_id for entry in entries}) == len(entries)
        charged = sum(entry.receipt.charged_nano_usd for entry in entries)
        absorbed = sum(entry.receipt.absorbed_nano_usd for entry in entries)
        spendable = sum(self.book.account(ORG, kind).posted_nano_usd for kind in SPENDABLE)
        assert spendable == self.credited - charged
        assert self.book.account(ORG, AccountKind.REVENUE).posted_nano_usd == charged + absorbed


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
