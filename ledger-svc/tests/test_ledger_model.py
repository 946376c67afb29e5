"""Any history of the ledger gives what a simple model of it gives, on both databases: commands that come at once,
twice, late, in another order and with another content; a clock; and crashes before and after a COMMIT.

``TALLYGATE_MODEL_SECONDS``: go on for so long on each database; `make faults` asks for more than `make test` has.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger_model import Model, Org
from ledger_model_caps import DAY_MS, period_began_ms, scopes_of
from ledger_model_drawing import (
    AIMS,
    AN_ORG,
    ANY_STATE,
    BATCHES,
    CAPS,
    CHOICES,
    GIVEN,
    LIMITS_USD,
    ORGS,
    PERIODS,
    SPENDING,
    TOKENS,
    Drawn,
)
from ledger_model_operations import (
    KEYS,
    LIMITED_TO,
    AddCredit,
    Charge,
    Correct,
    Expire,
    ExpireCredit,
    Extend,
    Name,
    OfCredit,
    Operation,
    Outcome,
    Refund,
    Release,
    Reserve,
    SetCap,
    Settle,
)
from ledger_model_rig import KEYRING, Rig, transactions

from ledger_svc.store.check import Terms, examine

T = TypeVar("T")

EXAMPLES, AT_ONCE = {"sqlite": 40, "postgresql": 15}, 10
"""How many histories; and where a time is given, how many before the clock is looked at."""


class LedgerMachine(RuleBasedStateMachine):
    """Does the same to the model and to the ledger."""

    def __init__(self, kind: str, fresh: Any) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._databases = ExitStack()
        self._rig = Rig(self._databases.enter_context(fresh(kind)))
        self._model = Model(ORGS)
        self._sent: list[Operation] = []
        self._unanswered: list[Operation] = []
        self._ids: dict[tuple[str, Name], str] = {}
        self._begun = 0

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @initialize(first=st.lists(st.tuples(st.one_of(CAPS, GIVEN), AIMS), min_size=2, max_size=8))
    def found(self, first: Drawn) -> None:
        """Two organisations with a little credit, some of it given, and with caps."""
        self._run(self._rig.open())
        self._run(self._rig.found(ORGS))
        self._send([AddCredit(org, "first", 100_000, promotional=False) for org in range(ORGS)])
        self._send(self._aimed(first))

    @rule(drawn=BATCHES)
    def at_once(self, drawn: Drawn) -> None:
        """What is sent at once is decided in its order."""
        self._send(self._aimed(drawn))

    @rule(drawn=SPENDING)
    def spend(self, drawn: Drawn) -> None:
        """Holds, charges and what becomes of them."""
        self._send(self._aimed(drawn))

    @rule(drawn=SPENDING)
    def spend_more(self, drawn: Drawn) -> None:
        """Twice as often as anything else."""
        self.spend(drawn)

    @precondition(lambda self: any(org.open_holds() for org in self._model.orgs))
    @rule(choice=st.integers(0, 10), scope=st.integers(0, 2), period=PERIODS, limit=LIMITS_USD, answer=TOKENS)
    def lower_and_settle(self, choice: int, scope: int, period: str, limit: int, answer: int) -> None:
        """A cap is set while something is held that meets it, and that is settled."""
        held = [(number, hold) for number, org in enumerate(self._model.orgs) for hold in org.open_holds().items()]
        org, (request, hold) = held[choice % len(held)]
        cap = SetCap(org, scopes_of(hold.key)[scope], period, "usd", limit)
        self._send([cap, Settle(org, request, 1, answer, interrupted=False)])

    def _aimed(self, drawn: Drawn) -> list[Operation]:
        operations: list[Operation] = []
        for operation, aim in drawn:
            of_same = [o for o in operations if o.org == operation.org]
            operations.append(self._aim(operation, aim, of_same) if aim else operation)
        return operations

    def _aim(self, operation: Operation, aim: int, before: list[Operation]) -> Operation:
        org = self._model.orgs[operation.org]
        held = list(org.holds if aim == ANY_STATE else org.open_holds())
        held += [o.request for o in before if isinstance(o, Reserve)]
        self._begun += 1
        match operation:
            case Reserve() | Charge():
                return replace(operation, request=f"req-{self._begun}-new")
            case Settle() | Release() | Expire() | Extend() if held:
                return replace(operation, request=held[-min(aim, len(held))])
            case AddCredit(name=name, expires_ms=expires_ms):
                until_ms = expires_ms and self._rig.clock.now_ms() + expires_ms
                return replace(operation, name=f"{name} {self._begun}", expires_ms=until_ms)
            case Refund(name=name):
                return replace(operation, name=f"{name} {self._begun}")
            case Correct():
                return self._of_receipt(operation, aim, org)
            case _:
                return operation

    def _of_receipt(self, operation: Correct, aim: int, org: Org) -> Correct:
        charged = [request for request, hold in org.holds.items() if hold.receipt is not None]
        request = charged[-min(aim, len(charged))] if charged else operation.request
        known = self._ids.get(("receipt", (operation.org, request)), "")
        return replace(operation, name=f"{operation.name} {aim}", request=request, receipt=known)

    def _send(self, operations: list[Operation]) -> None:
        found = iter(self._run(self._rig.send(operations)))
        self._sent += operations
        for batch in transactions(operations):
            self._model.look(batch, self._rig.clock.now_ms())
            for operation in batch:
                answer = next(found)
                assert answer is not None, "nobody crashed"
                self._agree(operation, *answer)

    @precondition(lambda self: self._sent)
    @rule(choices=CHOICES)
    def again(self, choices: list[int]) -> None:
        """Duplicates: what came before comes again, much later or at the same time."""
        self._send([self._sent[choice % len(self._sent)] for choice in choices])

    @rule(drawn=BATCHES, point=st.sampled_from(["before", "after"]), commit=st.integers(0, 2))
    def crash(self, drawn: Drawn, point: str, commit: int) -> None:
        """The process ends at a COMMIT, and another one opens its database."""
        operations = self._aimed(drawn)
        batches = transactions(operations)
        commit %= len(batches)
        self._rig.seam.plan(point, commit)
        found = self._run(self._rig.send(operations))
        answered = sum(map(len, batches[:commit]))
        for n, (operation, answer) in enumerate(zip(operations, found, strict=True)):
            # Credit is answered with a balance, which is read after the COMMIT.
            assert (answer is not None) == (n < answered) or isinstance(operation, OfCredit), (n, operation, answer)
            assert answer is None or n < answered, "nobody is told what is not durable"
        answers = iter(found)
        for batch in batches[: commit + (point == "after")]:
            self._model.look(batch, self._rig.clock.now_ms())
            for operation in batch:
                answer = next(answers)
                if answer is None:
                    self._model.apply(operation, self._rig.clock.now_ms())
                else:
                    self._agree(operation, *answer)
        # Whether the balance was read in time is chance, and what is drawn next must not hang on that.
        self._unanswered += [
            operation for n, operation in enumerate(operations) if n >= answered or isinstance(operation, OfCredit)
        ]
        self._sent += operations
        self.restart()

    @precondition(lambda self: self._unanswered)
    @rule(choices=CHOICES)
    def ask_again(self, choices: list[int]) -> None:
        """Those who had no answer ask again, in another order, and some of them late."""
        chosen = [self._unanswered.pop(choice % len(self._unanswered)) for choice in choices if self._unanswered]
        self._send(chosen)

    def restart(self) -> None:
        """The process ends, and another one opens its database."""
        self._run(self._rig.close())
        self._run(self._rig.open())

    @rule(ms=st.one_of(st.integers(1, 3_000), PERIODS), less_ms=st.sampled_from([0, 0, 1, 700]))
    def wait(self, ms: int | str, less_ms: int) -> None:
        """Time passes; or a day or a month of UTC ends, or nearly: what is held still is of one that has passed."""
        now_ms = self._rig.clock.now_ms()
        if isinstance(ms, str):
            days = 1 if ms == "day" else 31
            ms = period_began_ms(ms, period_began_ms(ms, now_ms) + days * DAY_MS) - now_ms
        self._rig.clock.advance(max(1, ms - less_ms))

    @rule()
    def sweep(self) -> None:
        """Every hold past its time ends, and credit past its time goes."""
        now_ms = self._rig.clock.now_ms()
        due = self._model.due(now_ms)
        assert self._run(self._rig.sweeper.sweep()) == len(due)
        expiries: list[Operation] = [Expire(org, request) for org, request in due]
        for batch in transactions(expiries):
            self._model.look(batch, now_ms)
            for operation in batch:
                self._model.apply(operation, now_ms)
        for org in range(ORGS):
            self._model.apply(ExpireCredit(org), now_ms)

    @rule(org=AN_ORG, key=st.integers(1, KEYS - 1))  # with no key left, little would happen
    def revoke(self, org: int, key: int) -> None:
        """A key ends; what it has begun is still paid for."""
        principal = self._rig.principals[org][key]
        self._run(self._rig.keys.revoke_key(principal.key_id, principal.org_id))
        self._model.orgs[org].revoked.add(key)

    @rule(what=st.sampled_from(["restart", "checkpoint", "crash in a checkpoint"]))
    def apart(self, what: str) -> None:
        """What changes nothing in the books: another process, a checkpoint of the log, and one that was half written,
        so that the next process goes on from the last.
        """
        if what == "crash in a checkpoint":
            self._rig.seam.plan("checkpoint", 0)
        if what != "restart":
            self._run(self._rig.grow())
        if what != "checkpoint":
            self.restart()

    def _agree(self, operation: Operation, outcome: Outcome, made: str) -> None:
        assert outcome == self._model.apply(operation, self._rig.clock.now_ms()), operation
        if outcome.name is not None:
            known = self._ids.setdefault((outcome.word, outcome.name), made)
            assert made == known, "who asks again gets the same"

    @invariant()
    def books_are_those_of_the_model(self) -> None:
        """Balances, holds and receipts, as they stand in the database."""
        if not self._rig.principals:
            return
        for org, books in zip(self._model.orgs, self._run(self._rig.books()), strict=True):
            assert books == _books(org)

    def teardown(self) -> None:
        """At the end of a history nothing is past its time, and every rule holds."""
        try:
            if self._rig.principals:
                self.sweep()
                terms = Terms(overdue_before_ms=self._rig.clock.now_ms(), keys=KEYRING.public)
                rulings = self._run(self._rig.database.snapshot(lambda connection: list(examine(connection, terms))))
                assert [violation for ruling in rulings for violation in ruling.breaks] == []
                assert not any(ruling.left_out for ruling in rulings)
        finally:
            try:
                self._run(self._rig.close())
            finally:
                self._runner.close()
                self._databases.close()


def _books(org: Org) -> dict[str, Any]:
    """As ``Rig.books`` has them."""
    posted = {
        "promo": org.balance(True),
        "customer_credit": org.balance(False),
        "revenue": org.revenue,
        "platform_loss": org.loss,
        "promo_expense": org.given_promo,
        "credit_source": org.given_paid,
        "refunds": org.refunded,
    }
    reserved = {"promo": org.held(True), "customer_credit": org.held(False)}
    receipts = {request: hold.receipt for request, hold in org.holds.items() if hold.receipt is not None}
    return {
        "posted": {kind: amount for kind, amount in posted.items() if amount},
        "reserved": {kind: amount for kind, amount in reserved.items() if amount},
        "lots": sorted(
            ("promo" if lot.promotional else "customer_credit", lot.priority, lot.expires_ms, lot.granted, lot.left)
            for lot in org.lots
        ),
        "holds": {request: hold.state for request, hold in org.holds.items()},
        "receipts": {request: [each.charged, each.absorbed, each.tokens] for request, each in receipts.items()},
        "buckets": {bucket: (*org.caps.counted(bucket), bound) for bucket, bound in org.caps.bounds.items()},
    }


@pytest.mark.timeout(3_600)  # bounded by the number of histories; the session's default is for one of them
def test_every_history_is_that_of_the_model(kind: str, fresh: Any) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(kind, fresh)

    seconds = os.environ.get("TALLYGATE_MODEL_SECONDS")
    until_s = time.monotonic() + float(seconds or 0)
    run_state_machine_as_test(Machine, settings=_settings(AT_ONCE if seconds else EXAMPLES[kind]))
    while time.monotonic() < until_s:
        run_state_machine_as_test(Machine, settings=_settings(AT_ONCE))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


async def test_the_crash_that_loses_an_answer_is_one_that_the_model_sees(kind: str, fresh: Any) -> None:
    """The bug that must never be: whoever was told that money is held finds no hold."""
    with fresh(kind) as url:
        rig = Rig(url)
        await rig.open()
        await rig.found(1)
        await rig.send([AddCredit(0, "first", 100, promotional=False)])
        rig.seam.plan("before", 0, answers_early=True)
        (answer,) = await rig.send([Reserve(0, "req-0", 0, 7, 0, 1_000, LIMITED_TO)])
        await rig.close()
        await rig.open()
        (books,) = await rig.books()
        await rig.close()
    assert answer is not None, "told before the COMMIT: what `crash` asserts that nobody is"
    assert (answer[0].word, books["holds"]) == ("hold", {})
