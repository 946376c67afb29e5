"""The seam of the upper tiers: what is verified of whatever a tier points at, and what it costs who does not ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cache_svc.domain.entry import open_sealed, seal
from cache_svc.domain.fill import Claim
from cache_svc.domain.question import Question
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason, Mode, Tier
from cache_svc.domain.request import CacheRequest
from cache_svc.service import (
    CacheService,
    Candidate,
    Clue,
    Found,
    KeptAnswer,
    Leave,
    Limits,
    Ruling,
    StoreFull,
    Verdict,
)
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_fills import MemoryFills
from meshkit.principal import Principal
from meshkit.testing import FakeClock

UP_TO_CANONICAL = Controls(up_to=Tier.CANONICAL)
TEXTS = ("Name a prime.", "Name one prime.")


@dataclass
class Pointing:
    """A tier that points at the last kept answer, whatever is asked, and notes what it is told."""

    tier: Tier = Tier.CANONICAL
    verdict: Verdict = field(default_factory=lambda: Verdict(Ruling.REPLAY))
    kept: list[KeptAnswer] = field(default_factory=list)
    judged: list[tuple[str, str]] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    asked: int = 0
    full: bool = False

    def clue(self, question: Question) -> bytes:
        return b""

    def reads(self, request: CacheRequest) -> bool:
        return True

    async def find(self, question: Question, clue: Clue | None, controls: Controls) -> list[Candidate]:
        self.asked += 1
        return [Candidate(self.kept[-1].address)] if self.kept else []

    async def judge(
        self, question: Question, kept_text: str, answer: bytes, candidate: Candidate, controls: Controls
    ) -> Verdict:
        self.judged.append((kept_text, question.text))
        return self.verdict

    async def keep(self, kept: KeptAnswer) -> None:
        if self.full:
            raise StoreFull("no more")
        self.kept.append(kept)

    async def forget(self, question: Question, candidate: Candidate) -> None:
        self.forgotten.append(candidate.address)


class CountingStore(MemoryStore):
    """Counts its reads, and the clues among them."""

    reads = 0
    clues_read = 0

    async def find(
        self,
        address: bytes,
        epoch_names: Sequence[str],
        clues: Sequence[bytes] = (),
        claim: Claim | None = None,
    ) -> Found:
        self.reads += 1
        self.clues_read += len(clues)
        return await super().find(address, epoch_names, clues, claim)


class Rig:
    """A service with two tiers that point anywhere, and the words of the tests."""

    def __init__(self, clock: FakeClock, new_epoch: Any, sample: Any) -> None:
        self.clock, self.sample = clock, sample
        self.store = CountingStore(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)
        self.canonical, self.semantic = Pointing(), Pointing(Tier.SEMANTIC)
        tiers = [self.semantic, self.canonical]
        self.service = CacheService(self.store, clock, Limits(max_entry_bytes=100_000, ttl_s=600), tiers)

    def body(self, text: Any, **changes: Any) -> dict[str, Any]:
        return {**self.sample.request, "messages": [{"role": "user", "content": text}], **changes}

    async def lookup(self, body: dict[str, Any], controls: Controls = UP_TO_CANONICAL, **subject: Any) -> Hit | Miss:
        return await self.service.lookup(self.sample.subject(body, **subject), controls, "gen_1")

    async def fill(self, body: dict[str, Any], up_to: Tier = Tier.SEMANTIC, lesson: bytes = b"") -> bytes:
        miss = await self.lookup(body, Controls(mode=Mode.REFRESH))
        assert isinstance(miss, Miss)
        subject = self.sample.subject(body)
        assert await self.service.store(subject, miss.key, self.sample.fresh(), Leave(up_to=up_to, lesson=lesson)) == ""
        return miss.key


@pytest.fixture
def rig(clock: FakeClock, new_epoch: Any, sample: Any) -> Rig:
    return Rig(clock, new_epoch, sample)


async def test_a_tier_replays_another_text_s_answer_under_its_own_name_and_key(rig: Rig) -> None:
    key = await rig.fill(rig.body(TEXTS[0]))
    rig.clock.advance(3_000)
    hit = await rig.lookup(rig.body(TEXTS[1]))
    assert isinstance(hit, Hit)
    assert (hit.tier, hit.key, hit.age_ms) == (Tier.CANONICAL, key, 3_000)
    assert rig.canonical.judged == [TEXTS]
    assert rig.service.counters.hits_by_tier == {Tier.CANONICAL: 1}
    assert rig.semantic.asked == 0, "a tier that answered spares the next one"


async def test_tiers_are_asked_in_order_as_far_as_the_request_says(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.canonical.verdict = Verdict(Ruling.APART)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert (rig.canonical.asked, rig.semantic.asked) == (1, 0)
    hit = await rig.lookup(rig.body(TEXTS[1]), Controls(up_to=Tier.SEMANTIC))
    assert isinstance(hit, Hit)
    assert hit.tier is Tier.SEMANTIC
    exact = await rig.lookup(rig.body(TEXTS[0]), Controls(up_to=Tier.SEMANTIC))
    assert isinstance(exact, Hit)
    assert exact.tier is Tier.EXACT


async def test_a_request_for_the_exact_tier_costs_nothing_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_svc.service.tiers.read_question", None)  # to call it would fail
    await rig.fill(rig.body(TEXTS[0]), up_to=Tier.EXACT)
    rig.store.reads = 0
    assert isinstance(await rig.lookup(rig.body(TEXTS[1]), Controls()), Miss)
    assert isinstance(await rig.lookup(rig.body(TEXTS[0]), Controls()), Hit)
    assert (rig.store.reads, rig.store.clues_read, rig.canonical.asked, rig.canonical.kept) == (2, 0, 0, [])


async def test_tiers_are_told_of_answers_as_far_as_the_request_let_them_find_one(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]), up_to=Tier.CANONICAL, lesson=b"compare me")
    (kept,) = rig.canonical.kept
    assert (kept.question.text, kept.ttl_s, kept.lesson) == (TEXTS[0], 600, b"compare me")
    assert kept.address == rig.sample.read(rig.body(TEXTS[0])).address
    assert rig.semantic.kept == []


async def test_a_tier_that_takes_no_more_does_not_undo_the_store(rig: Rig) -> None:
    rig.canonical.full = True
    await rig.fill(rig.body(TEXTS[0]))
    assert isinstance(await rig.lookup(rig.body(TEXTS[0])), Hit)


CHANGED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.0},
    "seed": {"seed": 1},
    "system": {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": TEXTS[1]}]},
    "name": {"messages": [{"role": "user", "content": TEXTS[1], "name": "n"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXTS[1]}]}]},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "schema": {"response_format": {"type": "json_object"}},
    "user": {"user": "u"},
}


@pytest.mark.parametrize("changed", CHANGED)
async def test_a_pointer_to_a_request_that_differs_elsewhere_replays_nothing(rig: Rig, changed: str) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    miss = await rig.lookup({**rig.body(TEXTS[1]), **CHANGED[changed]})
    assert isinstance(miss, Miss)
    assert (miss.reason, len(miss.key)) == (MissReason.NOT_STORED, 32)
    assert rig.canonical.judged == [], "it is not even judged"
    assert rig.canonical.forgotten == [rig.canonical.kept[0].address]
    assert rig.service.counters.poisoned == 1
    assert isinstance(await rig.lookup(rig.body(TEXTS[0])), Hit), "the entry itself is sound, and stays"


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": Principal("org_b", "prj_a", "key_a")},
        {"principal": Principal("org_a", "prj_b", "key_a")},
        {"model": "openai/gpt-4o-mini"},
        {"policy_epoch": "p2"},
    ],
)
async def test_a_pointer_to_another_tenant_project_model_or_policy_replays_nothing(
    rig: Rig, changes: dict[str, Any]
) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    assert isinstance(await rig.lookup(rig.body(TEXTS[1]), **changes), Miss)
    assert rig.canonical.judged == []


async def test_a_pointer_to_nothing_is_forgotten(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    await rig.store.delete(rig.canonical.kept[0].address)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert rig.canonical.forgotten == [rig.canonical.kept[0].address]
    assert rig.service.counters.poisoned == 0


async def test_a_record_of_another_text_is_poison(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.canonical.verdict = Verdict(Ruling.POISONED)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert (rig.service.counters.poisoned, len(rig.canonical.forgotten)) == (1, 1)


async def test_a_poisoned_entry_is_deleted_whoever_points_at_it(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    address = rig.canonical.kept[0].address
    blob = (await rig.store.find(address, ())).blob
    assert blob is not None
    at = blob.index(b"Seven.")
    await rig.store.put(address, blob[:at] + b"Eight." + blob[at + 6 :], ttl_s=600, epoch_names=())
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert rig.service.counters.poisoned == 1
    assert rig.canonical.forgotten == [address]
    assert (await rig.store.find(address, ())).blob is None


async def test_an_entry_whose_request_says_another_text_of_another_kind_is_poison(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    address = rig.canonical.kept[0].address
    request = rig.sample.read(rig.body(TEXTS[0])).canonical
    blob = (await rig.store.find(address, ())).blob
    assert blob is not None
    forged = request.replace(b'"Name a prime."', b'["Name a prime."]')
    await rig.store.put(address, seal(open_sealed(blob, request), forged), ttl_s=600, epoch_names=())
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert rig.canonical.judged == []


@pytest.mark.parametrize("what", [{}, {"project_id": "prj_a"}, {"model": "openai/gpt-4o"}])
async def test_a_purge_holds_for_upper_tiers(rig: Rig, what: dict[str, str]) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    await rig.service.purge("org_a", **what)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)
    assert (rig.canonical.judged, len(rig.canonical.forgotten)) == ([], 1)


async def test_max_age_holds_for_upper_tiers(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.clock.advance(10_001)
    miss = await rig.lookup(rig.body(TEXTS[1]), Controls(max_age_s=10, up_to=Tier.CANONICAL))
    assert isinstance(miss, Miss)
    assert (miss.reason, len(miss.key)) == (MissReason.STALE, 32)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1]), Controls(max_age_s=11, up_to=Tier.CANONICAL)), Hit)


async def test_ttl_holds_for_upper_tiers(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.clock.advance(600_000)
    assert isinstance(await rig.lookup(rig.body(TEXTS[1])), Miss)


async def test_a_lesson_goes_out_with_the_miss_that_may_be_stored(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.canonical.verdict = Verdict(Ruling.APART, b"compare me")
    miss = await rig.lookup(rig.body(TEXTS[1]))
    assert isinstance(miss, Miss)
    assert miss.lesson == b"compare me"
    read_only = await rig.lookup(rig.body(TEXTS[1]), Controls(Mode.ONLY, up_to=Tier.CANONICAL))
    assert isinstance(read_only, Miss)
    assert (read_only.key, read_only.lesson) == (b"", b"")


async def test_of_identical_requests_that_are_to_teach_one_calls(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    rig.canonical.verdict = Verdict(Ruling.APART, b"compare me")
    limits, fills = Limits(max_entry_bytes=100_000, ttl_s=600), MemoryFills(rig.clock)
    service = CacheService(rig.store, rig.clock, limits, [rig.canonical], fills=fills)
    subject, controls = rig.sample.subject(rig.body(TEXTS[1])), Controls(up_to=Tier.CANONICAL)
    first, second = [await service.lookup(subject, controls, "gen_1", Claim(name, 5.0)) for name in ("one", "two")]
    assert isinstance(first, Miss)
    assert isinstance(second, Miss)
    assert (first.lesson, first.lead is not None) == (b"compare me", True)
    assert (second.lead, second.underway) == (None, first.lead)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.REFRESH])
async def test_who_does_not_read_the_cache_reads_no_tier_of_it(rig: Rig, mode: Mode) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    assert isinstance(await rig.lookup(rig.body(TEXTS[1]), Controls(mode, up_to=Tier.SEMANTIC)), Miss)
    assert rig.canonical.asked == 0


async def test_a_sampled_request_is_replayed_to_those_alone_who_opted_in(rig: Rig) -> None:
    await rig.fill(rig.body(TEXTS[0]))
    sampled = await rig.lookup(rig.body(TEXTS[1], temperature=1))
    assert isinstance(sampled, Miss)
    assert (sampled.reason, rig.canonical.asked) == (MissReason.NOT_ELIGIBLE, 0)
