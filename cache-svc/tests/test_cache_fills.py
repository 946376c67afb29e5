"""Single flight as lookups, leaders and followers see it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_svc.domain.answer import read_chunks, renew_payload
from cache_svc.domain.fill import Claim, Lead
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason, Mode, Tier
from cache_svc.domain.unfold import unfold
from cache_svc.service import CacheService, FillLimits, FillService, Limits, StoreUnavailable
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_fills import MemoryFills
from meshkit.testing import FakeClock

LIMITS = Limits(max_entry_bytes=100_000, ttl_s=600)


@pytest.fixture
def fills(clock: FakeClock) -> MemoryFills:
    return MemoryFills(clock)


@pytest.fixture
def flying(memory: MemoryStore, clock: FakeClock, fills: MemoryFills) -> CacheService:
    return CacheService(memory, clock, LIMITS, fills=fills)


@pytest.fixture
def leading(fills: MemoryFills) -> FillService:
    return FillService(fills, FillLimits(max_lease_s=60, max_wait_s=30, alone_s=60))


async def missed(service: CacheService, subject: Any, token: str, controls: Controls | None = None) -> Miss:
    miss = await service.lookup(subject, controls or Controls(), "gen_1", Claim(token, 5.0))
    assert isinstance(miss, Miss)
    return miss


async def test_of_identical_misses_one_leads_and_all_may_store(flying: CacheService, sample: Any) -> None:
    first = await missed(flying, sample.subject(), "first")
    streamed = sample.subject({**sample.request, "stream": True})
    for subject in (sample.subject(), streamed):
        second = await missed(flying, subject, "second")
        assert (second.lead, second.underway, second.key) == (None, first.lead, first.key)
    assert first.lead == Lead(first.lead.name, "first") if first.lead else False
    assert first.underway is None
    other = await missed(flying, sample.subject({**sample.request, "seed": 7}), "third")
    assert other.lead is not None
    assert flying.counters.misses == 2, "who follows looks up again"


async def test_tenants_never_meet(flying: CacheService, sample: Any) -> None:
    await missed(flying, sample.subject(), "first")
    for changes in ({"model": "openai/gpt-5"}, {"policy_epoch": "p2"}):
        assert (await missed(flying, sample.subject(**changes), "second")).lead is not None
    for body in ({**sample.request, "user": "bob"},):
        assert (await missed(flying, sample.subject(body), "second")).lead is not None


@pytest.mark.parametrize(
    "controls",
    [Controls(Mode.OFF), Controls(Mode.REFRESH), Controls(Mode.ONLY), Controls(max_age_s=0)],
    ids=["off", "refresh", "only", "no age"],
)
async def test_who_takes_no_answer_of_another_takes_no_part(
    flying: CacheService, sample: Any, controls: Controls
) -> None:
    await missed(flying, sample.subject(), "first")
    miss = await missed(flying, sample.subject(), "second", controls)
    assert (miss.lead, miss.underway) == (None, None)


async def test_what_is_never_stored_is_led_by_nobody(flying: CacheService, sample: Any) -> None:
    miss = await missed(flying, sample.subject({**sample.request, "temperature": 1}), "first")
    assert (miss.reason, miss.lead, miss.underway) == (MissReason.NOT_ELIGIBLE, None, None)


async def test_an_answer_that_is_too_old_is_called_for_once(
    flying: CacheService, sample: Any, clock: FakeClock
) -> None:
    fresh = Controls(max_age_s=10)
    first = await missed(flying, sample.subject(), "first")
    assert await flying.store(sample.subject(), first.key, sample.fresh()) == ""
    clock.advance(60_000)
    stale = await missed(flying, sample.subject(), "second", fresh)
    assert (stale.reason, stale.lead is not None) == (MissReason.STALE, True)
    assert (await missed(flying, sample.subject(), "third", fresh)).underway == stale.lead


async def test_later_tiers_are_asked_before_anybody_leads(flying: CacheService, sample: Any) -> None:
    miss = await missed(flying, sample.subject(), "first", Controls(up_to=Tier.SEMANTIC))
    assert miss.lead is not None


async def test_a_purge_parts_those_before_it_from_those_after(flying: CacheService, sample: Any) -> None:
    await missed(flying, sample.subject(), "first")
    await flying.purge("org_a")
    assert (await missed(flying, sample.subject(), "second")).lead is not None


async def test_without_flights_each_calls_for_itself(service: CacheService, sample: Any) -> None:
    miss = await missed(service, sample.subject(), "first")
    assert (miss.lead, miss.underway, bool(miss.key)) == (None, None, True)


class _Away(MemoryFills):
    async def board(self, name: bytes, claim: Claim) -> str:
        raise StoreUnavailable("told so")


async def test_a_backend_that_forgets_to_board_costs_only_the_flight(
    memory: MemoryStore, clock: FakeClock, sample: Any
) -> None:
    miss = await missed(CacheService(memory, clock, LIMITS, fills=_Away(clock)), sample.subject(), "first")
    assert (miss.reason, miss.lead, bool(miss.key)) == (MissReason.NOT_STORED, None, True)


async def led(flying: CacheService, sample: Any) -> Lead:
    lead = (await missed(flying, sample.subject(), "first")).lead
    assert lead is not None
    return lead


async def heard(leading: FillService, lead: Lead, *, live: bool = True) -> list[bytes]:
    return [event async for event in leading.follow(lead, live=live)]


async def until_followed(fills: MemoryFills, lead: Lead) -> None:
    async with fills.watch(lead) as told:
        while not (await fills.renew(lead, 60)).followed:
            await told.wait()
            told.clear()


async def test_followers_hear_the_leader_as_it_speaks(
    flying: CacheService, fills: MemoryFills, leading: FillService, sample: Any
) -> None:
    lead = await led(flying, sample)
    events = aiter(leading.follow(lead, live=True))
    first = asyncio.ensure_future(anext(events))
    await until_followed(fills, lead)
    await leading.publish(lead, [b"one"])
    assert await first == b"one", "before the end"
    late = asyncio.create_task(heard(leading, lead))
    last = asyncio.create_task(heard(leading, lead, live=False))
    await leading.publish(lead, [b"two", b"three"])
    await asyncio.sleep(0)
    await leading.end(lead, b"end")
    assert [event async for event in events] == [b"two", b"three", b"end"]
    assert (await late, await last) == ([b"one", b"two", b"three", b"end"], [b"end"])
    assert not leading._relays


async def test_a_follower_that_leaves_hurts_nobody(
    flying: CacheService, fills: MemoryFills, leading: FillService, sample: Any
) -> None:
    lead = await led(flying, sample)
    leaving, staying = (asyncio.create_task(heard(leading, lead)) for _ in range(2))
    await until_followed(fills, lead)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await leading.publish(lead, [b"one"])
    await leading.end(lead, b"end")
    assert await staying == [b"one", b"end"]


async def test_a_leader_that_dies_is_missed_when_its_lease_lapses(
    flying: CacheService, fills: MemoryFills, leading: FillService, sample: Any, clock: FakeClock
) -> None:
    """Then exactly one of those who waited leads."""
    lead = await led(flying, sample)
    waiting = [asyncio.create_task(heard(leading, lead)) for _ in range(5)]
    await until_followed(fills, lead)
    clock.advance(60_000)
    fills._tell(lead)
    assert await asyncio.gather(*waiting) == [[]] * 5
    again = [await missed(flying, sample.subject(), f"next{number}") for number in range(5)]
    assert [miss.lead is not None for miss in again] == [True] + [False] * 4


async def test_a_leader_waits_for_who_wants_to_hear_it(
    flying: CacheService, fills: MemoryFills, leading: FillService, sample: Any
) -> None:
    lead = await led(flying, sample)
    assert not (await leading.attend(lead, lease_s=5, wait_s=0.01)).followed
    waiting = asyncio.create_task(leading.attend(lead, lease_s=5, wait_s=30))
    plain = asyncio.create_task(heard(leading, lead, live=False))
    await until_followed(fills, lead)
    await asyncio.sleep(0)
    assert not waiting.done(), "who waits for the end wants no chunks"
    live = asyncio.create_task(heard(leading, lead))
    async with asyncio.timeout(5):
        attended = await waiting
    assert (attended.leads, attended.live) == (True, True)
    await leading.end(lead, b"end")
    assert (await plain, await live) == ([b"end"], [b"end"])


async def test_after_an_answer_that_can_not_be_shared_nobody_waits(
    flying: CacheService, leading: FillService, sample: Any
) -> None:
    lead = await led(flying, sample)
    await leading.end(lead, b"end", shared=False)
    miss = await missed(flying, sample.subject(), "second")
    assert (miss.lead, miss.underway, bool(miss.key)) == (None, None, True)


async def test_after_the_end_the_answer_is_found(flying: CacheService, leading: FillService, sample: Any) -> None:
    miss = await missed(flying, sample.subject(), "first")
    assert miss.lead is not None
    await flying.store(sample.subject(), miss.key, sample.fresh())
    await leading.end(miss.lead, b"end")
    assert isinstance(await flying.lookup(sample.subject(), Controls(), "gen_2", Claim("second", 5.0)), Hit)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=40)
def test_what_a_follower_is_sent_folds_to_what_is_stored(parts: list[str], logprob: float) -> None:
    """Under its own id, every field."""
    message = {"role": "assistant", "content": "said: " + "".join(parts), "annotations": []}
    logprobs = {"content": [{"token": part, "logprob": logprob} for part in parts]}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    body = {"id": "up", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    chunks, usage_chunk = unfold(body)
    payloads = [orjson.dumps(chunk) for chunk in (*chunks, usage_chunk)]
    sent = [renew_payload(payload, completion_id="gen_2", created_s=9) for payload in payloads]
    assert read_chunks(sent) == {**body, "id": "gen_2", "created": 9}


def test_what_is_no_object_passes_as_it_is() -> None:
    for payload in (b"{broken", b"[1]", b"7"):
        assert renew_payload(payload, completion_id="gen_2", created_s=9) == payload
