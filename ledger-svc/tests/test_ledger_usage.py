"""Usage is what the receipts say: at any moment, after any history, on both databases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from ledger_statements import statements
from sqlalchemy import func, select, text

from ledger_svc.domain import latency
from ledger_svc.domain.charges import ChargeFacts, ServedMode
from ledger_svc.domain.errors import InvalidRequest, LedgerUnavailable, Standby
from ledger_svc.domain.receipts import Receipt, decode
from ledger_svc.domain.usage import COUNTS, DAY_MS, HOUR_MS, Dimension, Group, Question, Sums, Use, Values, values_of
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.usage import UsageFolding, UsageService
from ledger_svc.service.usage_ports import Failure
from ledger_svc.store import tail, usage_answer
from ledger_svc.store import usage as usage_store
from ledger_svc.store.check import Terms, examine
from ledger_svc.store.database import Database
from ledger_svc.store.reading import read_only
from ledger_svc.store.tables import AUDIT_LOG, FAILED_REQUEST, RECEIPT, RESERVATION
from ledger_svc.store.usage import UsageSums
from ledger_svc.store.usage_audit import SUMMED
from ledger_svc.store.uses import failed_use_of
from ledger_svc.store.writer import Writer
from meshkit.money import BillingTier
from meshkit.principal import Principal
from meshkit.testing import FakeClock

NewPayer = Callable[..., Awaitable[Principal]]
NewFacts = Callable[..., ChargeFacts]

ASKED = [
    (),
    (Dimension.DAY,),
    (Dimension.HOUR,),
    (Dimension.KEY,),
    (Dimension.PROJECT,),
    (Dimension.MODEL,),
    (Dimension.SOURCE,),
    (Dimension.TIER,),
    (Dimension.SERVED_MODE,),
    (Dimension.TAG,),
    (Dimension.DAY, Dimension.TAG),
    (Dimension.TAG, Dimension.MODEL),
    (Dimension.HOUR, Dimension.SERVED_MODE),
]


class History:
    """Requests of all kinds over some days, of three payers."""

    def __init__(
        self, charging: ChargingService, sums: UsageSums, clock: FakeClock, payers: list[Principal], new_facts: NewFacts
    ) -> None:
        self.draw = random.Random(4)
        self._charging, self._sums, self.clock, self._payers, self._new_facts = (
            charging,
            sums,
            clock,
            payers,
            new_facts,
        )
        self._number = 0

    async def go_on(self, requests: int) -> None:
        for _ in range(requests):
            self.clock.advance(self.draw.choice([1, 1_000, 700_000, 5_000_000]))
            await self._one(self.draw.choice(self._payers))

    async def _one(self, payer: Principal) -> None:
        self._number += 1
        request_id, draw, now_ms = f"req_{self._number}", self.draw, self.clock.now_ms()
        tags = {key: draw.choice(["a", "b", ""]) for key in draw.sample(["team", "env"], draw.randint(0, 2))}
        model = draw.choice(["gpt-x", "gpt-y"])
        if draw.random() < 0.2:
            failure = Failure(
                *(payer.org_id, request_id, payer.project_id, payer.key_id, model, draw.choice([model, ""])),
                *(429, "rate_limit_exceeded", 12, "", tuple(sorted(tags.items())), now_ms),
            )
            assert await self._sums.record([failure, failure]) == 1
            assert await self._sums.record([failure]) == 0
            return
        replay = draw.random() < 0.4
        facts = self._new_facts(
            prompt=draw.randint(0, 50), answer=draw.randint(1, 9), mode=ServedMode.EXACT if replay else ServedMode.FRESH
        )
        flat = draw.random() < 0.3
        facts = replace(
            facts,
            price=replace(facts.price, tier=BillingTier.FLAT) if flat else facts.price,
            requested_model="tallygate/fast" if flat else model,
            model=model,
            source_id=draw.choice(["openai", "groq"]),
            tags=tuple(sorted(tags.items())),
            started_at_ms=draw.choice([0, now_ms - draw.randint(0, 90_000)]),
        )
        if replay:
            await self._charging.charge(payer, request_id, facts=facts)
        else:
            await self._charging.reserve(payer, request_id, amount_nano_usd=10**6, ttl_ms=10**6, model=model)
            self.clock.advance(draw.choice([0, 300, 20_000]))
            await self._charging.settle(payer.org_id, request_id, facts=facts, attempts=())


@pytest.fixture
async def payers(new_payer: NewPayer) -> list[Principal]:
    return [await new_payer(10**9), await new_payer(10**9)]


@pytest.fixture
def history(
    charging: ChargingService, sums: UsageSums, clock: FakeClock, payers: list[Principal], new_facts: NewFacts
) -> History:
    return History(charging, sums, clock, payers, new_facts)


async def summed_by_hand(database: Database, question: Question) -> dict[Values, tuple[list[int], list[int]]]:
    """Counts and latencies by group, from the documents of the receipts alone."""
    receipts = select(RECEIPT.c.document, RESERVATION.c.created_at_ms).join(
        RESERVATION, RESERVATION.c.hold_id == RECEIPT.c.hold_id
    )
    rows = await database.read(lambda connection: connection.execute(receipts).all())
    failed = await database.read(lambda connection: connection.execute(select(FAILED_REQUEST)).all())
    groups: dict[Values, tuple[list[int], list[int]]] = {}

    def add(use: Use, latency_ms: int | None) -> None:
        if use.org_id != question.org_id or not question.from_ms <= use.at_ms < question.to_ms:
            return
        if question.key_id not in ("", use.group.key_id) or question.model not in ("", use.group.model):
            return
        counts, latencies = groups.setdefault(values_of(question, use), ([0] * len(COUNTS), []))
        counts[:] = [mine + other for mine, other in zip(counts, use.counts, strict=True)]
        latencies += [] if latency_ms is None else [latency_ms]

    for document, held_at_ms in rows:
        receipt = decode(document)
        add(_use(receipt), receipt.created_at_ms - (receipt.facts.started_at_ms or held_at_ms))
    for row in failed:
        add(failed_use_of(row), None)
    return groups


def _use(receipt: Receipt) -> Use:
    facts, used = receipt.facts, receipt.facts.usage
    tier = "fast" if facts.price.tier is BillingTier.FLAT else facts.price.tier.name.lower()
    return Use(
        receipt.org_id,
        Group(receipt.project_id, receipt.key_id, facts.model, facts.source_id, tier, facts.served_mode.value),
        receipt.created_at_ms,
        facts.tags,
        (
            *(1, 0, used.input_tokens, used.cached_input_tokens, used.cache_write_tokens, used.output_tokens),
            *(used.reasoning_tokens, receipt.charged_nano_usd, receipt.saved_nano_usd, receipt.absorbed_nano_usd),
        ),
        0,
    )


async def check(usage: UsageService, database: Database, org_id: str, clock: FakeClock, **filters: str) -> int:
    requests = 0
    now_ms = clock.now_ms()
    for dimensions in ASKED:
        for from_ms in (now_ms - 300 * DAY_MS, now_ms - 2 * DAY_MS - 5 * HOUR_MS, now_ms - HOUR_MS):
            asked = Question(org_id, from_ms, now_ms + 1, dimensions, "team", **filters)
            question, found = await usage.usage(asked)
            expected = await summed_by_hand(database, question)
            assert {values: sums.counts for values, sums in found.groups.items()} == {
                values: counts for values, (counts, _) in expected.items()
            }
            for values, (counts, latencies) in expected.items():
                assert_near(latencies, found.groups[values])
                requests += counts[0] + counts[1]
    return requests


def assert_near(latencies: list[int], sums: Sums) -> None:
    found = latency.percentiles_ms(sums.latencies, 50, 90, 99)
    if not latencies:
        assert found is None
        return
    assert found is not None
    for percent, near in zip((50, 90, 99), found, strict=True):
        exact = sorted(latencies)[-(-len(latencies) * percent // 100) - 1]
        assert abs(near - exact) <= exact * 0.05


async def test_usage_equals_the_receipts_whatever_of_it_is_summed_up(
    history: History,
    usage: UsageService,
    folding: UsageFolding,
    sums: UsageSums,
    database: Database,
    payers: list[Principal],
    clock: FakeClock,
) -> None:
    await history.go_on(40)
    assert await check(usage, database, payers[0].org_id, clock) > 0
    assert await sums.fold(limit=7) > 0
    assert await check(usage, database, payers[0].org_id, clock) > 0
    await history.go_on(40)
    assert await folding.fold() > 0
    await history.go_on(11)
    for payer in payers:
        assert await check(usage, database, payer.org_id, clock, model="gpt-x") > 0
        assert await check(usage, database, payer.org_id, clock, key_id=payer.key_id) > 0
    assert await folding.fold() == 11
    assert await folding.fold() == 0
    assert await check(usage, database, payers[1].org_id, clock) > 0
    receipts = await sums.rebuild()
    assert await check(usage, database, payers[1].org_id, clock) > 0
    entries = select(func.count()).select_from(AUDIT_LOG)
    told = await database.read(lambda connection: int(connection.execute(entries).scalar_one()))
    assert receipts <= await folding.fold() == 91 + told  # entries are leaves too, though of no use
    assert await check(usage, database, payers[1].org_id, clock) > 0


async def test_a_fold_that_is_run_twice_counts_once(
    history: History, sums: UsageSums, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.go_on(20)
    doubtful = usage_store._add
    calls: Counter[str] = Counter()

    async def twice(work: Callable[..., object], *, beside_books: bool = False) -> object:
        assert beside_books
        calls["writes"] += 1
        await database.write(work)  # a COMMIT of which nobody knows
        return await database.write(work)

    monkeypatch.setattr(sums._writer, "write", twice)
    monkeypatch.setattr(usage_store, "_add", lambda *args: (calls.update(["adds"]), doubtful(*args)))
    while await sums.fold(limit=6):
        pass
    assert calls["adds"] == calls["writes"] > 1  # and the audit at the end finds nothing


async def test_a_writer_does_not_read_back_what_it_has_just_written(
    history: History, folding: UsageFolding, usage: UsageService, database: Database, payers: list[Principal]
) -> None:
    await history.go_on(5)
    await folding.fold()
    await history.go_on(20)
    with statements() as found:
        assert await folding.fold() == 20
    assert not [statement for statement in found if "log_leaf" in statement or "receipt" in statement]
    assert await check(usage, database, payers[0].org_id, history.clock) > 0


async def test_a_replica_that_stands_by_leaves_the_sums_alone(
    history: History, sums: UsageSums, writer: Writer
) -> None:
    await history.go_on(3)
    await writer._drop_lease(Standby)
    with statements() as found, pytest.raises(Standby):
        await sums.fold(limit=5)
    assert found == []


async def test_however_receipts_come_into_the_sums_each_is_added_once(
    history: History,
    folding: UsageFolding,
    usage: UsageService,
    sums: UsageSums,
    database: Database,
    writer: Writer,
    payers: list[Principal],
    new_payer: NewPayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaves that no batch wrote, another process that adds, sums that begin anew, runs that are full: in any order."""
    monkeypatch.setattr(usage_store, "MAX_ALIKE", 3)
    monkeypatch.setattr(tail, "MAX_RUNS", 4)
    others = UsageFolding(UsageSums(database, writer))

    async def lose_a_run() -> None:
        sums._tail.take(history.draw.randint(0, 60))

    acts: list[Callable[[], Awaitable[object]]] = [
        *(folding.fold, folding.fold, lambda: sums.fold(limit=3), others.fold, sums.rebuild, lose_a_run),
        *(lambda: new_payer(10**6), lambda: history.go_on(9), lambda: history.go_on(2), lambda: history.go_on(1)),
    ]
    for _ in range(5):
        for act in history.draw.sample(acts, len(acts)):
            await act()
    assert await check(usage, database, payers[0].org_id, history.clock) > 0
    await folding.fold()
    assert await check(usage, database, payers[1].org_id, history.clock) > 0


async def test_the_check_names_sums_that_are_wrong(
    history: History, folding: UsageFolding, unchecked: Database, url: str, payers: list[Principal]
) -> None:
    await history.go_on(20)
    await folding.fold()

    async def findings() -> list[str]:
        found = await read_only(url, lambda connection: list(examine(connection, Terms())))
        return [violation.detail for ruling in found if ruling.rule == SUMMED for violation in ruling.breaks]

    async def change(statement: str) -> None:
        await unchecked.write(lambda connection: connection.execute(text(statement)))

    assert await findings() == []
    one = "(SELECT min(group_id) FROM usage_sum WHERE period = 'day')"
    await change(
        f"UPDATE usage_sum SET charged_nano_usd = charged_nano_usd + 1 WHERE group_id = {one} AND period = 'day'"
    )
    assert any("charged_nano_usd is" in detail for detail in await findings())
    await change(
        f"UPDATE usage_sum SET charged_nano_usd = charged_nano_usd - 1 WHERE group_id = {one} AND period = 'day'"
    )
    assert await findings() == []
    await change("UPDATE usage_cursor SET next_leaf = next_leaf - 1")
    assert await findings() != []
    await change("UPDATE usage_cursor SET next_leaf = next_leaf + 1")


async def test_what_was_given_back_is_shown_apart_at_the_time_of_the_charge(
    charging: ChargingService,
    credit: CreditService,
    usage: UsageService,
    payers: list[Principal],
    new_facts: NewFacts,
    clock: FakeClock,
) -> None:
    payer, day_ms = payers[0], clock.now_ms() // DAY_MS * DAY_MS
    receipt = await charging.charge(payer, "req_1", facts=new_facts(answer=4, mode=ServedMode.EXACT))
    clock.advance(3 * DAY_MS)
    await credit.correct(payer.org_id, receipt.receipt_id, amount_nano_usd=900, reason="", idempotency_key="k")
    question = Question(payer.org_id, day_ms, clock.now_ms(), (Dimension.DAY, Dimension.SERVED_MODE))
    _, found = await usage.usage(question)
    assert found.groups[day_ms, "exact"].counts[COUNTS.index("charged_nano_usd")] == receipt.charged_nano_usd == 10_000
    assert found.corrected_nano_usd == {(day_ms, "exact"): 900}


async def test_sums_that_are_far_behind_are_not_guessed(
    history: History, usage: UsageService, payers: list[Principal], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.go_on(9)
    monkeypatch.setattr(usage_answer, "MAX_BEHIND", 3)
    with pytest.raises(LedgerUnavailable, match="being made up"):
        await usage.usage(Question(payers[0].org_id, 0, DAY_MS))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"dimensions": (Dimension.DAY, Dimension.HOUR)}, "group_by"),
        ({"dimensions": (Dimension.KEY, Dimension.KEY)}, "group_by"),
        ({"dimensions": (Dimension.KEY, Dimension.MODEL, Dimension.TIER)}, "group_by"),
        ({"dimensions": (Dimension.TAG,)}, "tag_key"),
        ({"to_ms": 0}, "to_ms"),
        ({"to_ms": 400 * DAY_MS}, "to_ms"),
        ({"to_ms": 2**60}, "to_ms"),
        ({"model": "\0"}, "model"),
    ],
)
async def test_a_question_that_means_nothing_is_refused(
    usage: UsageService, changes: dict[str, object], param: str
) -> None:
    asked = replace(Question("org", 0, DAY_MS), **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        await usage.usage(asked)
    assert refused.value.metadata["param"] == param


def test_a_percentile_is_at_most_five_percent_from_the_exact_one() -> None:
    draw = random.Random(1)
    for size in (1, 2, 3, 10, 1_000):
        drawn = [round(draw.lognormvariate(6, 2)) for _ in range(size)]
        both = Sums()
        for latency_ms in drawn:
            both.latencies += latency.decode(latency.encode(latency.latencies_of(latency_ms)))
        assert_near(drawn, both)
    worst = max(abs(latency.percentiles_ms(latency.latencies_of(n), 50)[0] - n) / n for n in range(1, 200_000))  # type: ignore[index]
    assert worst <= 0.05
    assert latency.percentiles_ms(latency.latencies_of(10**12), 50) is not None
