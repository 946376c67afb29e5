"""The semantic tier over the in-process stores: it explores, learns and replays, and never for another tenant."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_svc.domain.guards import signature, why_apart
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason, Mode, Tier
from cache_svc.domain.trust import STEPS
from cache_svc.service import CacheService, Leave, Limits, SemanticCounters, StoreUnavailable
from cache_svc.service.semantic import COMPARISONS_TTL_S, MAX_TEXT_CHARS, Lesson, SemanticTier, Vector
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_vectors import MemoryComparisons, MemoryVectors
from meshkit.principal import Principal
from meshkit.testing import FakeClock

TENTH = Controls(up_to=Tier.SEMANTIC, max_error=0.1)
ENOUGH = 51
"""Comparisons after which a bound of a tenth is proven, where all are right; see test_cache_trust."""
KEPT = "rivers lakes oceans"


class Bearings:
    """An embedder: all texts resemble each other by ``similarity``, but for those with a word that sets them apart."""

    def __init__(self) -> None:
        self.similarity = 0.9375
        self.asked = 0

    def vector(self, text: str) -> Vector | None:
        self.asked += 1
        if "nothing known" in text:
            return None
        whole = np.zeros(4, dtype=np.float32)
        aside = float(np.sqrt(1 - self.similarity**2))
        if "unlike" in text:
            whole[3] = 1
        else:
            whole[:2] = (1, 0) if text == KEPT else (self.similarity, aside)
        return whole


@dataclass
class Rig:
    """A cache with the tier; ``dice``: what the next random number is."""

    clock: FakeClock
    sample: Any
    store: MemoryStore
    dice: float = 0.5
    embedder: Bearings = field(default_factory=Bearings)
    questions: int = 0

    def __post_init__(self) -> None:
        self.vectors = MemoryVectors(max_bytes=2_000_000, clock=self.clock)
        self.comparisons = MemoryComparisons(clock=self.clock)
        self.service = self.over(self.comparisons)

    def over(self, comparisons: Any) -> CacheService:
        counters = SemanticCounters()
        tier = SemanticTier(self.embedder, self.vectors, comparisons, lambda: self.dice, counters)
        service = CacheService(self.store, self.clock, Limits(100_000, 6_000), [tier])
        service.counters.semantic = counters
        return service

    def body(self, text: str, **more: Any) -> dict[str, Any]:
        return {**self.sample.request, "messages": [{"role": "user", "content": text}], **more}

    def reworded(self) -> str:
        """A question that was not asked before and shares no word with another."""
        self.questions += 1
        number, letters = self.questions, ""
        while number:
            number, letter = divmod(number, 26)
            letters += chr(ord("a") + letter)
        return f"q{letters}k w{letters}k z{letters}k"

    async def look(self, text: str | None = None, controls: Controls = TENTH, **more: Any) -> Hit | Miss:
        body = self.body(text or self.reworded(), **more.pop("also", {}))
        return await self.service.lookup(self.sample.subject(body, **more), controls, "gen_1")

    async def ask(self, text: str, says: str = "Seven.", controls: Controls = TENTH, **more: Any) -> Miss:
        """A miss, and its fresh answer stored with the lesson."""
        body, outcome = self.body(text, **more.get("also", {})), await self.look(text, controls, **more)
        more.pop("also", None)
        assert isinstance(outcome, Miss)
        subject = self.sample.subject(body, **more)
        fresh = self.sample.fresh(self.answer(says))
        assert (
            await self.service.store(subject, outcome.key, fresh, Leave(up_to=controls.up_to, lesson=outcome.lesson))
            == ""
        )
        return outcome

    def answer(self, says: str) -> dict[str, Any]:
        (choice,) = self.sample.answer["choices"]
        return {**self.sample.answer, "choices": [{**choice, "message": {**choice["message"], "content": says}}]}

    async def teach(self, lessons: int = ENOUGH, **more: Any) -> None:
        """The kept question, and as many others that its answer would have been right for."""
        await self.ask(KEPT, **more)
        for _ in range(lessons):
            assert (await self.ask(self.reworded(), **more)).lesson


@pytest.fixture
def rig(clock: FakeClock, sample: Any, memory: MemoryStore) -> Rig:
    return Rig(clock, sample, memory)


def semantic(outcome: Hit | Miss) -> bool:
    return isinstance(outcome, Hit) and outcome.tier is Tier.SEMANTIC


async def test_it_explores_until_the_bound_is_proven_and_then_replays(rig: Rig) -> None:
    await rig.teach(ENOUGH - 1)
    refused = await rig.look()
    assert isinstance(refused, Miss)
    assert refused.detail == (
        "semantic: similarity 0.938, the bound is not proven by 50 comparisons of which 50 were right"
    )
    await rig.ask(rig.reworded())
    outcome = await rig.look()
    assert isinstance(outcome, Hit)
    assert (outcome.tier, round(outcome.similarity, 4)) == (Tier.SEMANTIC, 0.9375)
    assert orjson.loads(outcome.body)["choices"][0]["message"]["content"] == "Seven."
    counters = rig.service.counters
    assert counters.hits_by_tier[Tier.SEMANTIC] == 1
    assert (counters.semantic.agreed, counters.semantic.disagreed) == (ENOUGH, 0)


async def test_what_agreed_is_not_kept_a_second_time_as_a_neighbour(rig: Rig) -> None:
    await rig.teach(1)
    held = rig.vectors.held_bytes
    await rig.ask(rig.reworded())
    assert rig.vectors.held_bytes == held
    await rig.ask(rig.reworded(), says="Eight.")
    assert rig.vectors.held_bytes > held


async def test_answers_that_disagree_never_earn_trust(rig: Rig) -> None:
    await rig.ask(KEPT)
    for number in range(120):
        await rig.ask(rig.reworded(), says=f"Prose, number {number}.")
    assert isinstance(await rig.look(), Miss)
    assert rig.service.counters.semantic.agreed == 0
    assert rig.service.counters.semantic.disagreed > 100


async def test_one_that_is_often_right_meets_a_loose_bound_alone(rig: Rig) -> None:
    await rig.ask(KEPT)
    rig.vectors.add = _nowhere  # type: ignore[method-assign]  # so that the kept one stays the only neighbour
    for number in range(200):
        await rig.ask(rig.reworded(), says="Eight." if number % 5 == 0 else "Seven.")
    assert semantic(await rig.look(controls=replace(TENTH, max_error=0.5)))
    assert not semantic(await rig.look())


async def _nowhere(*_: Any, **__: Any) -> None: ...


async def test_what_is_trusted_is_still_explored_now_and_then(rig: Rig) -> None:
    await rig.teach()
    rig.dice = 0.01
    explored = await rig.look()
    assert isinstance(explored, Miss)
    assert len(explored.lesson) == 66


@pytest.mark.parametrize(
    "controls",
    [
        replace(TENTH, max_error=None),
        replace(TENTH, up_to=Tier.CANONICAL),
        replace(TENTH, up_to=Tier.EXACT),
        replace(TENTH, mode=Mode.OFF),
        replace(TENTH, mode=Mode.REFRESH),
    ],
)
async def test_who_has_not_asked_for_it_gets_none_and_teaches_none(rig: Rig, controls: Controls) -> None:
    await rig.teach()
    rig.embedder.asked = 0
    outcome = await rig.look(controls=controls)
    assert isinstance(outcome, Miss)
    assert (outcome.lesson, rig.embedder.asked) == (b"", 0)


async def test_read_only_takes_what_is_proven_and_explores_nothing(rig: Rig) -> None:
    only = replace(TENTH, mode=Mode.ONLY)
    await rig.teach(ENOUGH - 1)
    explored = rig.service.counters.semantic.explored
    outcome = await rig.look(controls=only)
    assert isinstance(outcome, Miss)
    assert (outcome.reason, outcome.key, outcome.lesson) == (MissReason.NOT_STORED, b"", b"")
    assert "not proven by 50" in outcome.detail
    await rig.ask(rig.reworded())
    rig.dice = 0.0
    assert semantic(await rig.look(controls=only)), "an audit would be a miss, and nothing learned"
    assert rig.service.counters.semantic.explored == explored + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": Principal("org_b", "prj_a", "key_a")},
        {"principal": Principal("org_a", "prj_b", "key_a")},
        {"model": "openai/gpt-4o-mini"},
        {"policy_epoch": "p2"},
        {"also": {"user": "u"}},
        {"also": {"seed": 7}},
        {"also": {"response_format": {"type": "json_object"}}},
        {"also": {"tools": [{"type": "function", "function": {"name": "f"}}]}},
        {
            "also": {
                "messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "a b c"}],
            }
        },
    ],
)
async def test_what_differs_anywhere_else_is_not_even_a_neighbour(rig: Rig, changes: dict[str, Any]) -> None:
    await rig.teach()
    assert semantic(await rig.look(principal=Principal("org_a", "prj_a", "key_of_a_colleague")))
    outcome = await rig.look(**changes)
    assert isinstance(outcome, Miss)
    assert outcome.lesson == b"", "nothing is compared with it either"


@pytest.mark.parametrize("also", [{"temperature": 0.7}, {"temperature": None}, {"logprobs": True}])
async def test_samples_and_log_probabilities_are_not_read(rig: Rig, also: dict[str, Any]) -> None:
    sampled = replace(TENTH, allow_sampled=True)
    await rig.ask(KEPT, controls=sampled, also=also)
    assert (await rig.ask(rig.reworded(), controls=sampled, also=also)).lesson == b""
    assert rig.embedder.asked == 0


async def test_what_projects_share_is_not_read(rig: Rig) -> None:
    request = rig.sample.read()
    tier = rig.service._upper._tiers[0]
    assert tier.reads(request)
    assert not tier.reads(replace(request, _facts=replace(request._facts, shared=True)))


async def test_the_guards_come_first_and_the_next_one_is_asked(rig: Rig) -> None:
    await rig.teach()
    outcome = await rig.look("rivers lakes seas")
    assert (isinstance(outcome, Miss), rig.service.counters.semantic.guarded) == (True, 1)
    # Two neighbours that are nearer to what is asked than the kept one, and apart from it by a word.
    for text in ("mills dams gates", "mills dams locks"):
        await rig.ask(text, says="Eight.", controls=replace(TENTH, max_error=None))
    assert semantic(await rig.look("mills dams canals"))
    assert rig.service.counters.semantic.guarded == 3


async def test_what_a_guard_looks_for_is_not_even_a_neighbour(rig: Rig) -> None:
    await rig.teach()
    assert (await rig.ask("rivers 3 lakes", says="Three.")).lesson == b""
    for number in range(4, 12):
        assert (await rig.ask(f"boats {number} ships")).lesson == b""
    assert rig.service.counters.semantic.guarded == 0


async def test_what_resembles_too_little_teaches_nothing(rig: Rig) -> None:
    await rig.ask(KEPT)
    assert (await rig.ask("unlike any of it")).lesson == b""
    rig.embedder.similarity = 0.59
    assert (await rig.ask(rig.reworded())).lesson == b""


@pytest.mark.parametrize("text", ["nothing known here", "long " * (MAX_TEXT_CHARS // 5 + 1)])
async def test_a_question_without_a_vector_is_answered_afresh(rig: Rig, text: str) -> None:
    await rig.teach()
    assert (await rig.ask(text)).lesson == b""


async def test_a_purge_holds_for_neighbours_too(rig: Rig) -> None:
    await rig.teach()
    assert semantic(await rig.look())
    await rig.service.purge("org_a")
    assert isinstance(await rig.look(), Miss)
    assert rig.vectors.held_bytes == 0, "what led to it is forgotten"


async def test_an_answer_that_has_changed_begins_without_trust(rig: Rig) -> None:
    await rig.teach()
    refresh = replace(TENTH, mode=Mode.REFRESH)
    await rig.ask(KEPT, says="Eight.", controls=refresh)
    assert isinstance(await rig.look(), Miss)
    await rig.ask(KEPT, says=" Seven.", controls=refresh)
    assert semantic(await rig.look()), "what was learned of this answer holds"


async def test_what_was_learned_is_forgotten_in_time(rig: Rig) -> None:
    await rig.teach()
    rig.clock.advance(COMPARISONS_TTL_S * 1_000)
    await rig.ask(KEPT)
    assert isinstance(await rig.look(), Miss)


async def test_an_entry_that_left_is_no_neighbour(rig: Rig) -> None:
    await rig.teach()
    await rig.store.delete(rig.sample.read(rig.body(KEPT)).address)
    assert isinstance(await rig.look(), Miss)
    assert rig.vectors.held_bytes == 0


async def test_too_old_is_too_old_for_a_neighbour(rig: Rig) -> None:
    await rig.teach()
    rig.clock.advance(20_000)
    outcome = await rig.look(controls=replace(TENTH, max_age_s=10))
    assert isinstance(outcome, Miss)
    assert outcome.reason is MissReason.STALE


@pytest.mark.parametrize("lesson", [b"x", b"x" * 64, b"x" * 64 + (STEPS + 1).to_bytes(2, "big"), b"x" * 67])
async def test_a_lesson_of_another_form_teaches_nothing_and_hinders_nothing(rig: Rig, lesson: bytes) -> None:
    assert Lesson.from_bytes(lesson) is None
    miss = await rig.look(KEPT)
    assert isinstance(miss, Miss)
    subject = rig.sample.subject(rig.body(KEPT))
    assert (
        await rig.service.store(subject, miss.key, rig.sample.fresh(), Leave(up_to=Tier.SEMANTIC, lesson=lesson)) == ""
    )
    assert (await rig.ask(rig.reworded())).lesson != b"", "it is a neighbour all the same"


@pytest.mark.parametrize("away", ["nearest", "read", "remove"])
async def test_where_the_tiers_own_stores_are_away_the_rest_goes_on(rig: Rig, away: str) -> None:
    async def nobody(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("told so")

    await rig.teach()
    setattr(rig.comparisons if away == "read" else rig.vectors, away, nobody)
    if away == "remove":
        await rig.store.delete(rig.sample.read(rig.body(KEPT)).address)
    text = rig.reworded()
    assert (await rig.ask(text)).lesson == b""
    outcome = await rig.look(text)
    assert isinstance(outcome, Hit)
    assert outcome.tier is Tier.EXACT


async def test_where_nothing_can_be_learned_the_answer_is_still_kept(rig: Rig) -> None:
    class Away(MemoryComparisons):
        async def record(self, name: bytes, step: int, *, right: bool, ttl_s: int) -> None:
            raise StoreUnavailable("told so")

    rig.service = rig.over(Away(clock=rig.clock))
    await rig.ask(KEPT)
    text = rig.reworded()
    await rig.ask(text)
    outcome = await rig.look(text)
    assert isinstance(outcome, Hit)
    assert outcome.tier is Tier.EXACT


async def test_a_streamed_replay_is_a_stream(rig: Rig) -> None:
    await rig.teach()
    outcome = await rig.look(also={"stream": True, "stream_options": {"include_usage": True}})
    assert isinstance(outcome, Hit)
    assert (outcome.tier, outcome.body) == (Tier.SEMANTIC, b"")
    assert outcome.chunks
    assert outcome.usage_chunk


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("boats leaking badly", "ships taking water", True),
        ("is the order 12 late", "is the order 13 late", False),
        ("send it to Anna", "send it to Bert", False),
        ("never send it", "send it", False),
        ("run `ls -a`", "run `ls -l`", False),
        ("x " * 9_000, "y " * 9_000, False),
        ("你好", "你好", True),
        ("你好", "您好", False),
    ],
)
def test_a_signature_is_of_what_the_guards_want_the_same(one: str, other: str, same: bool) -> None:
    assert (signature(one) == signature(other)) is same


WORDS = ("send", "not", "12", "3kg", "to", "from", "Anna", "`x`", "?", "monday", "best", "reset", "list", "boat", "你")


@settings(max_examples=60)
@given(st.data())
def test_what_the_guards_let_pass_has_one_signature(data: st.DataObject) -> None:
    """Else a neighbour would be looked for where it does not lie."""
    words = st.lists(st.sampled_from(WORDS), max_size=8)
    one, other = (" ".join(data.draw(words)) for _ in range(2))
    if why_apart(one, other) == "":
        assert signature(one) == signature(other)
