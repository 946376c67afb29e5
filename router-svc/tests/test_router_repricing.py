"""What is told of new prices: each revision once, whoever tells, whatever was missed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from router_rig import price

from meshkit.money import PriceSnapshot, Rates, RateTier
from router_svc.domain.catalog import CatalogSnapshot, Offer
from router_svc.domain.errors import CatalogUnavailable, LedgerUnavailable
from router_svc.domain.repricing import PriceChange, Repricing, repricing
from router_svc.service.repricing import PriceTeller


def snapshot(revision: str, **prices: PriceSnapshot | None) -> CatalogSnapshot:
    offers = {name: (Offer(f"a/{name}", name, "a", name, given),) for name, given in prices.items()}
    return CatalogSnapshot(revision, {}, {}, offers)


CHEAP = price("a/m")
DEAR = replace(CHEAP, rate_tiers=(RateTier(0, Rates(input_pico_usd=7)),))
A, B, C = snapshot("A", m=CHEAP, gone=CHEAP), snapshot("B", m=DEAR, new=None), snapshot("C", m=CHEAP, new=None)


def test_what_changed_is_prices_and_offers() -> None:
    found = repricing(A, B)
    assert found == Repricing("B", "A", (PriceChange("a/m", CHEAP, DEAR),), ("a/new",), ("a/gone",))
    dated = snapshot("A2", m=replace(CHEAP, price_date="2027-01-01", catalog_revision="A2"), gone=CHEAP)
    assert repricing(A, dated).price_changes == (), "the same rates, read from another data set"
    assert repricing(B, snapshot("D", m=DEAR, new=DEAR)).price_changes == (PriceChange("a/new", None, DEAR),)
    assert repricing(None, A) == Repricing("A", "", (), ("a/gone", "a/m"), ())


@dataclass
class World:
    """A catalog and a trail, as the routers see them."""

    kept: dict[str, CatalogSnapshot]
    in_force: str
    told: list[Repricing] = field(default_factory=list)
    failures: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    recorded: asyncio.Queue[Repricing] = field(default_factory=asyncio.Queue)

    async def revision(self, name: str) -> CatalogSnapshot | None:
        return self.kept.get(name or self.in_force)

    async def next_revision(self, seen: str) -> str:
        while self.in_force == seen:
            self.changed.clear()
            await self.changed.wait()
        return self.in_force

    async def record(self, change: Repricing) -> str:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailable("away")
        last = self.told[-1].revision if self.told else ""
        if change.revision == last or change.previous_revision != last:
            return last
        self.told.append(change)
        self.recorded.put_nowait(change)
        return change.revision

    @property
    def chain(self) -> list[tuple[str, str]]:
        return [(change.previous_revision, change.revision) for change in self.told]


async def test_of_many_routers_one_tells_and_a_price_that_comes_back_is_told_again() -> None:
    world = World({"A": A, "B": B, "C": C}, "A")
    routers = [PriceTeller(world, world) for _ in range(4)]
    for revision in ("A", "B", "A", "C"):
        world.in_force = revision
        await asyncio.gather(*(router.tell() for router in routers))
    assert world.chain == [("", "A"), ("A", "B"), ("B", "A"), ("A", "C")]
    assert world.told[1] == repricing(A, B)


async def test_a_router_that_starts_tells_what_changed_while_none_ran_and_nothing_else() -> None:
    world = World({"A": A, "B": B}, "A")
    await PriceTeller(world, world).tell()
    await PriceTeller(world, world).tell()
    assert world.chain == [("", "A")]
    world.in_force = "B"
    await PriceTeller(world, world).tell()
    assert world.told[1:] == [repricing(A, B)]


async def test_a_router_that_lags_behind_does_not_tell_of_prices_that_are_gone() -> None:
    world = World({"A": A, "B": B}, "A")
    lagging, other = PriceTeller(world, world), PriceTeller(world, world)
    await lagging.tell()
    world.in_force = "B"
    await other.tell()
    await lagging.tell()  # its watch has not brought B yet
    assert world.chain == [("", "A"), ("A", "B")]


async def test_a_previous_revision_that_nobody_keeps_is_said_not_to_be_known() -> None:
    world = World({"A": A, "B": B}, "A")
    await PriceTeller(world, world).tell()
    world.in_force = "B"
    del world.kept["A"]
    await PriceTeller(world, world).tell()
    assert world.told[1:] == [Repricing("B", "A", known=False)]


async def test_a_failure_is_tried_again_and_the_next_revision_awaited() -> None:
    world, pauses = World({"A": A, "B": B}, "A", failures=3), list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    running = asyncio.create_task(PriceTeller(world, world, sleep=sleep).run())
    await world.recorded.get()
    world.in_force = "B"
    world.changed.set()
    await world.recorded.get()
    running.cancel()
    assert world.chain == [("", "A"), ("A", "B")]
    assert pauses == [0.5, 1.0, 2.0]


async def test_a_catalog_that_is_away_is_a_failure_too() -> None:
    class Away(World):
        async def revision(self, name: str) -> CatalogSnapshot | None:
            if not pauses:
                raise CatalogUnavailable("away")
            return await super().revision(name)

    pauses = list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    world = Away({"A": A}, "A")
    running = asyncio.create_task(PriceTeller(world, world, sleep=sleep).run())
    await world.recorded.get()
    running.cancel()
    assert world.chain == [("", "A")]
