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
from ledger_model import (
    KEYS,
    LIMITED_TO,
    AddCredit,
    Charge,
    Expire,
    Model,
    Name,
    Operation,
    Outcome,
    Release,
    Reserve,
    Settle,
)
from ledger_model_rig import BATCH, KEYRING, Rig

from ledger_svc.store.check import Terms, examine

T = TypeVar("T")

ORGS = 2
EXAMPLES, AT_ONCE = {"sqlite": 40, "postgresql": 15}, 10
"""How many histories; and where a time is given, how many before the clock is looked at."""

_orgs = st.integers(0, ORGS - 1)
_requests = st.sampled_from([f"req-{n}" for n in range(8)])
_keys = st.sampled_from([0, 0, 0, *range(1, KEYS)])
_tokens = st.integers(0, 6)
_amounts = st.integers(0, 60_000)

OPERATIONS: list[st.SearchStrategy[Operation]] = [
    st.builds(
        Reserve,
        org=_orgs,
        request=_requests,
        key=_keys,
        amount=_amounts,
        ttl_ms=st.integers(1, 2_000),
        model=st.sampled_from([LIMITED_TO, LIMITED_TO, "gpt-y"]),
    ),
    st.builds(Settle, org=_orgs, request=_requests, prompt=_tokens, answer=_tokens, interrupted=st.booleans()),
    st.builds(Release, org=_orgs, request=_requests, reason=st.sampled_from(["", "gave up"])),
    st.builds(Charge, org=_orgs, request=_requests, key=_keys, prompt=_tokens, answer=_tokens),
    st.builds(Expire, org=_orgs, request=_requests),
    st.builds(
        AddCredit,
        org=_orgs,
        name=st.sampled_from(["one", "two", "three"]),
        amount=st.integers(1, 100_000),
        promotional=st.booleans(),
    ),
]
_batches = st.lists(st.tuples(st.one_of(OPERATIONS), st.integers(0, 3)), min_size=1, max_size=7)
"""Each with an aim: 0 leaves the operation as it is, 1 to 3 turns one that ends a hold to one of the last holds."""
Drawn = list[tuple[Operation, int]]
_choices = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)


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

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @initialize()
    def found(self) -> None:
        """Two organisations with a little credit."""
        self._run(self._rig.open())
        self._run(self._rig.found(ORGS))
        self._send([AddCredit(org, "first", 100_000, promotional=False) for org in range(ORGS)])

    @rule(drawn=_batches)
    def at_once(self, drawn: Drawn) -> None:
        """What is sent at once is decided in its order."""
        self._send(self._aimed(drawn))

    def _aimed(self, drawn: Drawn) -> list[Operation]:
        operations: list[Operation] = []
        for operation, aim in drawn:
            held = list(self._model.orgs[operation.org].holds)
            held += [o.request for o in operations if isinstance(o, Reserve) and o.org == operation.org]
            if isinstance(operation, Settle | Release | Expire) and aim and held:
                operations.append(replace(operation, request=held[-min(aim, len(held))]))
            else:
                operations.append(operation)
        return operations

    def _send(self, operations: list[Operation]) -> None:
        found = self._run(self._rig.send(operations))
        self._sent += operations
        for operation, answer in zip(operations, found, strict=True):
            assert answer is not None, "nobody crashed"
            self._agree(operation, *answer)

    @precondition(lambda self: self._sent)
    @rule(choices=_choices)
    def again(self, choices: list[int]) -> None:
        """Duplicates: what came before comes again, much later or at the same time."""
        self._send([self._sent[choice % len(self._sent)] for choice in choices])

    @rule(drawn=_batches, point=st.sampled_from(["before", "after"]), commit=st.integers(0, 2))
    def crash(self, drawn: Drawn, point: str, commit: int) -> None:
        """The process ends at a COMMIT, and another one opens its database."""
        operations = self._aimed(drawn)
        commit %= -(-len(operations) // BATCH)
        self._rig.seam.plan(point, commit)
        found = self._run(self._rig.send(operations))
        answered, durable = commit * BATCH, (commit + (point == "after")) * BATCH
        for n, (operation, answer) in enumerate(zip(operations, found, strict=True)):
            # Credit is answered with a balance, which is read after the COMMIT.
            assert (answer is not None) == (n < answered) or isinstance(operation, AddCredit), (n, operation, answer)
            assert answer is None or n < answered, "nobody is told what is not durable"
        for operation, answer in zip(operations[:durable], found, strict=False):
            if answer is None:
                self._model.apply(operation, self._rig.clock.now_ms())
            else:
                self._agree(operation, *answer)
        # Whether the balance was read in time is chance, and what is drawn next must not hang on that.
        self._unanswered += [
            operation for n, operation in enumerate(operations) if n >= answered or isinstance(operation, AddCredit)
        ]
        self._sent += operations
        self.restart()

    @precondition(lambda self: self._unanswered)
    @rule(choices=_choices)
    def ask_again(self, choices: list[int]) -> None:
        """Those who had no answer ask again, in another order, and some of them late."""
        chosen = [self._unanswered.pop(choice % len(self._unanswered)) for choice in choices if self._unanswered]
        self._send(chosen)

    @rule()
    def restart(self) -> None:
        """The process ends, and another one opens its database."""
        self._run(self._rig.close())
        self._run(self._rig.open())

    @rule(ms=st.integers(1, 3_000))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self._rig.clock.advance(ms)

    @rule()
    def sweep(self) -> None:
        """Every hold past its time ends."""
        now_ms = self._rig.clock.now_ms()
        due = self._model.due(now_ms)
        assert self._run(self._rig.sweeper.sweep()) == len(due)
        for org, request in due:
            self._model.apply(Expire(org, request), now_ms)

    @rule(org=_orgs, key=st.integers(1, KEYS - 1))  # with no key left, little would happen
    def revoke(self, org: int, key: int) -> None:
        """A key ends; what it has begun is still paid for."""
        principal = self._rig.principals[org][key]
        self._run(self._rig.keys.revoke_key(principal.key_id, principal.org_id))
        self._model.orgs[org].revoked.add(key)

    @rule()
    def grow(self) -> None:
        """The log gets a checkpoint."""
        self._run(self._rig.grow())

    @rule()
    def crash_in_checkpoint(self) -> None:
        """The process ends while it writes one, and the next goes on from the last."""
        self._rig.seam.plan("checkpoint", 0)
        self._run(self._rig.grow())
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
            posted = {
                "promo": org.promo,
                "customer_credit": org.paid,
                "revenue": org.revenue,
                "platform_loss": org.loss,
                "promo_expense": org.given_promo,
                "credit_source": org.given_paid,
            }
            assert books == {
                "posted": {kind: amount for kind, amount in posted.items() if amount},
                "holds": {request: hold.state for request, hold in org.holds.items()},
                "receipts": {request: (each.charged, each.absorbed) for request, each in org.receipts.items()},
            }

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
            self._run(self._rig.close())
            self._runner.close()
            self._databases.close()


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
        (answer,) = await rig.send([Reserve(0, "req-0", 0, 7, 1_000, LIMITED_TO)])
        await rig.close()
        await rig.open()
        (books,) = await rig.books()
        await rig.close()
    assert answer is not None, "told before the COMMIT: what `crash` asserts that nobody is"
    assert (answer[0].word, books["holds"]) == ("hold", {})
