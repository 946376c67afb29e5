"""Looking up, storing and purging, over the in-process store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from cache_svc.domain import request as requests
from cache_svc.domain.canonical import NotCanonical
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason, Mode
from cache_svc.domain.unfold import unfold
from cache_svc.service import BadRequest, CacheService, Limits, answers
from cache_svc.store.memory import MemoryStore
from meshkit.answers.fold import fold
from meshkit.money import Provenance
from meshkit.principal import Principal
from meshkit.testing import FakeClock

DEFAULT = Controls()
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


class Desk:
    """A service and one request, in the words of the tests."""

    def __init__(self, service: CacheService, store: MemoryStore, clock: FakeClock, sample: Any) -> None:
        self.service, self.store, self.clock, self.sample = service, store, clock, sample

    async def lookup(self, body: Any = None, controls: Controls = DEFAULT, **changes: Any) -> Hit | Miss:
        return await self.service.lookup(self.subject(body, **changes), controls, "gen_1")

    def subject(self, body: Any = None, **changes: Any) -> Any:
        return self.sample.subject(self.sample.request if body is None else body, **changes)

    async def fill(self, body: Any = None, controls: Controls = DEFAULT, **changes: Any) -> bytes:
        """Stores the answer to ``body``; its key."""
        miss = await self.missed(body, controls, **changes)
        assert await self.service.store(self.subject(body, **changes), miss.key, self.sample.fresh()) == ""
        return miss.key

    async def missed(self, *args: Any, **changes: Any) -> Miss:
        outcome = await self.lookup(*args, **changes)
        assert isinstance(outcome, Miss)
        return outcome

    async def hit(self, *args: Any, **changes: Any) -> Hit:
        outcome = await self.lookup(*args, **changes)
        assert isinstance(outcome, Hit)
        return outcome


@pytest.fixture
def desk(service: CacheService, memory: MemoryStore, clock: FakeClock, sample: Any) -> Desk:
    return Desk(service, memory, clock, sample)


async def test_a_stored_answer_is_replayed_under_a_new_id_and_time(desk: Desk) -> None:
    key = await desk.fill()
    desk.clock.advance(5_000)
    hit = await desk.hit()
    assert orjson.loads(hit.body) == {**desk.sample.answer, "id": "gen_1", "created": desk.clock.now_ms() // 1000}
    assert (hit.age_ms, hit.key, hit.chunks, hit.usage_chunk) == (5_000, key, [], b"")
    assert (hit.entry.usage, hit.entry.price) == (desk.sample.usage, desk.sample.price)
    assert (hit.entry.receipt_id, hit.entry.source_id) == ("rcpt_origin", "openai")
    counters = desk.service.counters
    assert (counters.hits, counters.misses, counters.stores, counters.store_refusals) == (1, 1, 1, 0)


async def test_one_entry_is_replayed_as_a_body_and_as_a_stream(desk: Desk) -> None:
    await desk.fill({**desk.sample.request, **STREAM})
    body = orjson.loads((await desk.hit()).body)
    streamed = await desk.hit({**desk.sample.request, **STREAM})
    chunks = [orjson.loads(chunk) for chunk in streamed.chunks]
    assert streamed.body == b""
    assert fold([*chunks, orjson.loads(streamed.usage_chunk)]) == body
    unasked = await desk.hit({**desk.sample.request, "stream": True})
    assert (unasked.chunks, unasked.usage_chunk) == (streamed.chunks, b"")


async def test_a_streamed_answer_is_kept_as_what_it_says(desk: Desk) -> None:
    miss = await desk.missed({**desk.sample.request, **STREAM})
    chunks, usage_chunk = unfold(desk.sample.answer)
    offered = desk.sample.fresh(b"", chunks=[orjson.dumps(chunk) for chunk in [*chunks, usage_chunk]])
    assert await desk.service.store(desk.subject(), miss.key, offered) == ""
    replayed = orjson.loads((await desk.hit()).body)
    assert {**replayed, "id": 0, "created": 0} == {**desk.sample.answer, "id": 0, "created": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"principal": Principal("org_b", "prj_a", "key_a")},
        {"principal": Principal("org_a", "prj_b", "key_a")},
        {"model": "openai/gpt-4o-mini"},
        {"policy_epoch": "p2"},
    ],
)
async def test_another_tenant_project_model_or_policy_finds_nothing(desk: Desk, changes: dict[str, Any]) -> None:
    await desk.fill()
    assert (await desk.missed(**changes)).reason is MissReason.NOT_STORED
    assert (await desk.missed({**desk.sample.request, "user": "u"})).reason is MissReason.NOT_STORED
    assert isinstance(await desk.lookup(principal=Principal("org_a", "prj_a", "key_of_a_colleague")), Hit)


async def test_modes(desk: Desk) -> None:
    only, off, refresh = (Controls(mode) for mode in (Mode.ONLY, Mode.OFF, Mode.REFRESH))
    cold = await desk.missed(controls=only)
    assert (cold.reason, cold.key) == (MissReason.NOT_STORED, b""), "read only: no leave to store"
    key = await desk.fill()
    assert isinstance(await desk.lookup(controls=only), Hit)
    bypassed = await desk.missed(controls=off)
    assert (bypassed.reason, bypassed.key) == (MissReason.BYPASSED, b"")
    refreshed = await desk.missed(controls=refresh)
    assert (refreshed.reason, refreshed.key) == (MissReason.BYPASSED, key)
    desk.clock.advance(1_000)
    await desk.fill(controls=refresh)
    assert (await desk.hit()).age_ms == 0, "the refreshed answer took the place of the old one"


@pytest.mark.parametrize(
    ("max_age_s", "age_ms", "fresh_enough"),
    [(None, 599_999, True), (10, 10_000, True), (10, 10_001, False), (0, 0, False), (-1, 0, False)],
)
async def test_max_age(desk: Desk, max_age_s: int | None, age_ms: int, fresh_enough: bool) -> None:
    key = await desk.fill()
    desk.clock.advance(age_ms)
    outcome = await desk.lookup(controls=Controls(max_age_s=max_age_s))
    if fresh_enough:
        assert isinstance(outcome, Hit)
    else:
        assert outcome == Miss(MissReason.STALE, key), "a stale answer may be replaced"


async def test_an_answer_is_kept_for_its_ttl(desk: Desk) -> None:
    await desk.fill()
    desk.clock.advance(599_999)
    await desk.hit()
    desk.clock.advance(1)
    assert (await desk.missed()).reason is MissReason.NOT_STORED


async def test_a_request_that_is_never_stored_gets_no_leave_and_a_reason(desk: Desk) -> None:
    miss = await desk.missed({**desk.sample.request, "temperature": 0.7})
    assert (miss.reason, miss.key) == (MissReason.NOT_ELIGIBLE, b"")
    assert "temperature" in miss.detail


async def test_a_sample_is_replayed_to_those_alone_who_opted_in(desk: Desk) -> None:
    sampled = {**desk.sample.request, "temperature": 0.7}
    opted_in = Controls(allow_sampled=True)
    await desk.fill(sampled, opted_in)
    assert isinstance(await desk.lookup(sampled, opted_in), Hit)
    assert (await desk.missed(sampled)).reason is MissReason.NOT_ELIGIBLE


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_body_without_canonical_form_is_refused_in_every_mode(desk: Desk, mode: Mode) -> None:
    with pytest.raises(NotCanonical, match="duplicate"):
        await desk.lookup(b'{"messages":[],"messages":[]}', Controls(mode))


async def test_a_forged_or_mistaken_ticket_stores_nothing(desk: Desk) -> None:
    key = (await desk.missed()).key
    other = {**desk.sample.request, "messages": [{"role": "user", "content": "Name another."}]}
    for subject, ticket in (
        (desk.subject(other), key),
        (desk.subject(model="openai/gpt-4o-mini"), key),
        (desk.subject(policy_epoch="p2"), key),
        (desk.subject(endpoint="embeddings"), key),
        (desk.subject(principal=Principal("org_b", "prj_a", "key_a")), key),
        (desk.subject(), b""),
        (desk.subject(), b"\0" * 32),
    ):
        assert await desk.service.store(subject, ticket, desk.sample.fresh()) != ""
    assert desk.service.counters.store_refusals == 7
    assert (await desk.store.usage()).held_bytes == 0


async def test_usage_that_the_source_did_not_say_is_not_stored(desk: Desk) -> None:
    key = (await desk.missed()).key
    for provenance in (Provenance.ESTIMATED, Provenance.NONE):
        offered = desk.sample.fresh(usage=replace(desk.sample.usage, provenance=provenance))
        assert "did not say" in await desk.service.store(desk.subject(), key, offered)


async def test_an_entry_over_the_limit_is_not_stored(desk: Desk) -> None:
    long = {**desk.sample.request, "messages": [{"role": "user", "content": "x" * 99_000}]}
    miss = await desk.missed(long)
    assert "limit" in await desk.service.store(desk.subject(long), miss.key, desk.sample.fresh())


@pytest.mark.parametrize("what", [{}, {"project_id": "prj_a"}, {"model": "openai/gpt-4o"}])
async def test_a_purge_holds_at_once_and_for_answers_under_way(desk: Desk, what: dict[str, str]) -> None:
    key = await desk.fill()
    epoch = await desk.service.purge("org_a", **what)
    assert await desk.service.store(desk.subject(), key, desk.sample.fresh()) != "", "begun before the purge"
    miss = await desk.missed()
    assert (miss.reason, miss.key == key) == (MissReason.NOT_STORED, False)
    assert (await desk.store.usage()).held_bytes == 0, "what was purged is gone when it is met"
    await desk.fill()
    assert isinstance(await desk.lookup(), Hit)
    assert await desk.service.purge("org_a", **what) > epoch


@pytest.mark.parametrize(
    "what",
    [
        ("org_b", {}),
        ("org_a", {"project_id": "prj_b"}),
        ("org_a", {"model": "m"}),
        ("org_b", {"model": "openai/gpt-4o"}),
    ],
)
async def test_a_purge_of_something_else_leaves_it(desk: Desk, what: tuple[str, dict[str, str]]) -> None:
    await desk.fill()
    await desk.service.purge(what[0], **what[1])
    assert isinstance(await desk.lookup(), Hit)


async def test_a_purge_says_what_it_means(desk: Desk) -> None:
    with pytest.raises(BadRequest):
        await desk.service.purge("")
    with pytest.raises(BadRequest):
        await desk.service.purge("org_a", project_id="prj_a", model="openai/gpt-4o")


async def test_a_collision_of_addresses_replays_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were SHA-256 broken, the stored canonical bytes would still tell two requests apart."""
    monkeypatch.setattr(requests, "_sha256_with", lambda *_: b"\1" * 32)
    monkeypatch.setattr(answers, "_read_again", answers._read)
    await desk.fill()
    assert isinstance(await desk.lookup(), Hit)
    other = {**desk.sample.request, "messages": [{"role": "user", "content": "Name another."}]}
    assert (await desk.missed(other)).reason is MissReason.NOT_STORED
    assert desk.service.counters.poisoned == 1


async def test_a_corrupted_entry_is_a_miss_and_is_deleted(desk: Desk) -> None:
    await desk.fill()
    address = desk.sample.read().address
    blob = (await desk.store.find(address, [])).blob
    assert blob is not None
    at = blob.index(b"Seven.")
    await desk.store.put(address, blob[:at] + b"Eight." + blob[at + 6 :], ttl_s=600, epoch_names=())
    miss = await desk.missed()
    assert (miss.reason, len(miss.key)) == (MissReason.NOT_STORED, 32)
    assert desk.service.counters.poisoned == 1
    assert (await desk.store.find(address, [])).blob is None
    await desk.fill()
    assert isinstance(await desk.lookup(), Hit)


async def test_a_long_request_and_a_long_answer_are_read_beside_the_loop(
    sample: Any, memory: MemoryStore, clock: FakeClock
) -> None:
    service = CacheService(memory, clock, Limits(max_entry_bytes=900_000, ttl_s=600))
    long = {**sample.request, "messages": [{"role": "user", "content": "x" * 300_000}]}
    said = {**sample.answer, "padding": "y" * 300_000}
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    assert isinstance(await service.lookup(sample.subject(long), DEFAULT, "gen_1"), Miss)
    after_lookup = turns
    assert after_lookup > 0
    miss = await service.lookup(sample.subject(), DEFAULT, "gen_1")
    assert isinstance(miss, Miss)
    assert turns == after_lookup, "a short one is not worth a thread"
    assert await service.store(sample.subject(), miss.key, sample.fresh(said)) == ""
    assert turns > after_lookup
    assert isinstance(await service.lookup(sample.subject(), DEFAULT, "gen_1"), Hit)
    with pytest.raises(NotCanonical):
        await service.lookup(sample.subject(b'{"a":1,"a":"' + b"x" * 300_000 + b'"}'), DEFAULT, "gen_1")
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)


async def test_many_at_once_each_get_their_own(desk: Desk) -> None:
    bodies = [{**desk.sample.request, "seed": seed} for seed in range(40)]

    async def store_own(seed: int) -> None:
        miss = await desk.missed(bodies[seed])
        said = {**desk.sample.answer, "system_fingerprint": f"fp_{seed}"}
        assert await desk.service.store(desk.subject(bodies[seed]), miss.key, desk.sample.fresh(said)) == ""

    await asyncio.gather(*(store_own(seed) for seed in range(40)))
    hits = await asyncio.gather(*(desk.hit(body) for body in bodies))
    assert [orjson.loads(hit.body)["system_fingerprint"] for hit in hits] == [f"fp_{seed}" for seed in range(40)]
