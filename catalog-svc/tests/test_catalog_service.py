"""Starting, reloading, watching, without files and without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date

import pytest
from structlog.testing import capture_logs

from catalog_svc.domain import (
    CatalogInvalid,
    Contents,
    Model,
    RevisionNotFound,
    Snapshot,
    StoreUnavailable,
    make_snapshot,
)
from catalog_svc.service import CatalogService
from catalog_svc.store.memory import MemoryStore
from meshkit.testing import FakeClock

DAY_MS = 86_400_000
FIRST_DAY = date(2026, 11, 22)
NOON_MS = 1_795_348_800_000  # 2026-11-22T12:00:00Z


def contents(name: str) -> Contents:
    return Contents(models=(Model("m", name, "o", 100, 10),))


def revision(name: str) -> str:
    return make_snapshot(contents(name), created_at_ms=0).revision


class ScriptedOrigin:
    """What stands in the documents is what a test says."""

    def __init__(self) -> None:
        self.text = "first"
        self.next_text_from: date | None = None
        self.reads = 0

    async def fingerprint(self) -> str:
        return self.text

    async def read(self, today: date) -> Contents:
        self.reads += 1
        if self.text.startswith("broken"):
            raise CatalogInvalid([f"overlay.yaml:3: {self.text}"])
        return contents("tomorrow" if self.next_text_from and today >= self.next_text_from else self.text)


class FailingStore(MemoryStore):
    """A store whose disk is full until told otherwise."""

    full = True

    async def put(self, snapshot: Snapshot) -> None:
        if self.full:
            raise StoreUnavailable("disk full")
        await super().put(snapshot)


class Sleeper:
    """Sleeps until released, and says for how long it was asked to."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self._wake: asyncio.Queue[None] = asyncio.Queue()
        self.asleep = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        self.asleep.set()
        await self._wake.get()

    async def wake(self) -> None:
        """One sleep ends; returns once the sleeper sleeps again."""
        await self.asleep.wait()
        self.asleep.clear()
        self._wake.put_nowait(None)
        await self.asleep.wait()


@pytest.fixture
def origin() -> ScriptedOrigin:
    return ScriptedOrigin()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON_MS)


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
async def service(origin: ScriptedOrigin, clock: FakeClock, sleeper: Sleeper) -> CatalogService:
    service = CatalogService(origin, MemoryStore(keep=3), clock, sleeper, reload_poll_s=2.0)
    await service.start()
    return service


async def test_start_gives_the_current_revision(service: CatalogService) -> None:
    assert service.current.revision == revision("first")
    assert service.current.created_at_ms == NOON_MS
    assert await service.snapshot("") is service.current
    assert await service.snapshot(revision("first")) is service.current


async def test_a_broken_catalog_at_start_is_refused(origin: ScriptedOrigin, clock: FakeClock, sleeper: Sleeper) -> None:
    origin.text = "broken"
    with pytest.raises(CatalogInvalid, match=r"overlay.yaml:3: broken"):
        await CatalogService(origin, MemoryStore(keep=3), clock, sleeper, reload_poll_s=2.0).start()


async def test_nothing_is_read_again_without_a_change(service: CatalogService, origin: ScriptedOrigin) -> None:
    assert await service.reload_if_changed() is False
    assert origin.reads == 1


async def test_a_change_makes_a_revision_and_keeps_the_old(
    service: CatalogService, origin: ScriptedOrigin, clock: FakeClock
) -> None:
    clock.advance(5_000)
    origin.text = "second"
    assert await service.reload_if_changed() is True
    assert service.current.revision == revision("second")
    assert service.current.created_at_ms == NOON_MS + 5_000
    assert (await service.snapshot(revision("first"))).models[0].display_name == "first"


async def test_a_revision_that_comes_back_is_the_one_that_was(
    service: CatalogService, origin: ScriptedOrigin, clock: FakeClock
) -> None:
    origin.text = "second"
    await service.reload_if_changed()
    clock.advance(60_000)
    origin.text = "first"
    assert await service.reload_if_changed() is True
    assert (service.current.revision, service.current.created_at_ms) == (revision("first"), NOON_MS)


async def test_old_revisions_are_bounded(service: CatalogService, origin: ScriptedOrigin) -> None:
    for text in ("second", "third", "fourth"):
        origin.text = text
        await service.reload_if_changed()
    with pytest.raises(RevisionNotFound) as caught:
        await service.snapshot(revision("first"))
    assert caught.value.metadata == {"param": "revision"}
    assert (await service.snapshot(revision("second"))).revision == revision("second")


async def test_a_broken_change_leaves_the_revision_and_is_logged_once(
    service: CatalogService, origin: ScriptedOrigin
) -> None:
    origin.text = "broken"
    with capture_logs() as logs:
        assert await service.reload_if_changed() is False
        assert await service.reload_if_changed() is False
    assert service.current.revision == revision("first")
    assert [(entry["event"], entry["log_level"], entry["problems"]) for entry in logs] == [
        ("catalog_reload_refused", "error", ("overlay.yaml:3: broken",))
    ]
    origin.text = "second"
    assert await service.reload_if_changed() is True


async def test_a_full_disk_is_tried_again(origin: ScriptedOrigin, clock: FakeClock, sleeper: Sleeper) -> None:
    store = FailingStore(keep=3)
    store.full = False
    service = CatalogService(origin, store, clock, sleeper, reload_poll_s=2.0)
    await service.start()
    store.full, origin.text = True, "second"
    with capture_logs() as logs:
        assert await service.reload_if_changed() is False
    assert logs[0]["event"] == "catalog_store_unavailable"
    assert service.current.revision == revision("first")
    store.full = False
    assert await service.reload_if_changed() is True


async def test_a_new_day_is_a_change(service: CatalogService, origin: ScriptedOrigin, clock: FakeClock) -> None:
    origin.next_text_from = date(2026, 11, 23)
    clock.advance(DAY_MS // 2 - 1)
    assert await service.reload_if_changed() is False
    clock.advance(1)
    assert await service.reload_if_changed() is True
    assert service.current.models[0].display_name == "tomorrow"


async def next_of(watch: AsyncIterator[Snapshot]) -> str:
    return (await asyncio.wait_for(anext(watch), 5)).revision


async def test_a_watch_begins_with_the_current_revision(service: CatalogService, origin: ScriptedOrigin) -> None:
    watch = service.watch()
    assert await next_of(watch) == revision("first")
    waiting = asyncio.ensure_future(next_of(watch))
    await asyncio.sleep(0)
    assert not waiting.done()
    origin.text = "second"
    await service.reload_if_changed()
    assert await waiting == revision("second")


async def test_a_known_revision_is_not_sent_again(service: CatalogService, origin: ScriptedOrigin) -> None:
    watch = service.watch(revision("first"))
    waiting = asyncio.ensure_future(next_of(watch))
    await asyncio.sleep(0)
    assert not waiting.done()
    origin.text = "second"
    await service.reload_if_changed()
    assert await waiting == revision("second")


async def test_a_slow_watcher_gets_the_newest(service: CatalogService, origin: ScriptedOrigin) -> None:
    slow, quick = service.watch(), service.watch("unknown-revision")
    assert await next_of(slow) == await next_of(quick) == revision("first")
    for text in ("second", "third"):
        origin.text = text
        await service.reload_if_changed()
        assert await next_of(quick) == revision(text)
    assert await next_of(slow) == revision("third")


async def test_a_broken_change_wakes_nobody(service: CatalogService, origin: ScriptedOrigin) -> None:
    waiting = asyncio.ensure_future(next_of(service.watch(revision("first"))))
    origin.text = "broken"
    await service.reload_if_changed()
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_closing_ends_watches(service: CatalogService) -> None:
    async def all_of() -> list[str]:
        return [snapshot.revision async for snapshot in service.watch()]

    watching = asyncio.ensure_future(all_of())
    await asyncio.sleep(0)
    service.close()
    assert await asyncio.wait_for(watching, 5) == [revision("first")]


async def test_the_loop_polls_at_its_interval(
    service: CatalogService, origin: ScriptedOrigin, sleeper: Sleeper
) -> None:
    loop = asyncio.ensure_future(service.keep_reloading())
    await sleeper.wake()
    assert service.current.revision == revision("first")
    origin.text = "second"
    await sleeper.wake()
    assert service.current.revision == revision("second")
    assert sleeper.asked_s == [2.0, 2.0, 2.0]
    loop.cancel()
