"""One suite for every SnapshotStore, then what only the directory promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from catalog_svc.domain import Snapshot, StoreUnavailable
from catalog_svc.service import SnapshotStore
from catalog_svc.store.directory import DirectoryStore
from catalog_svc.store.memory import MemoryStore

Make = Callable[..., SnapshotStore]
KEEP = 3


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotStore:
    return MemoryStore(keep=KEEP) if request.param == "memory" else DirectoryStore(tmp_path / "revisions", keep=KEEP)


@pytest.fixture
def snapshots(snapshot: Callable[..., Snapshot]) -> list[Snapshot]:
    return [snapshot(f"models: {{small: {{name: Number {number}}}}}") for number in range(5)]


async def test_what_was_put_is_got(store: SnapshotStore, snapshots: list[Snapshot], seed: Snapshot) -> None:
    assert await store.get(snapshots[0].revision) is None
    for snapshot in (snapshots[0], seed):
        await store.put(snapshot)
        assert await store.get(snapshot.revision) == snapshot
    got = await store.get(seed.revision)
    assert got is not None
    # Equality of prices leaves the revision out.
    assert {offer.price.catalog_revision for offer in got.offers if offer.price} == {seed.revision}


async def test_the_oldest_is_forgotten(store: SnapshotStore, snapshots: list[Snapshot]) -> None:
    for snapshot in snapshots:
        await store.put(snapshot)
    assert await store.revisions() == tuple(snapshot.revision for snapshot in snapshots[-KEEP:])
    assert await store.get(snapshots[0].revision) is None


async def test_putting_again_makes_it_the_newest_and_changes_nothing(
    store: SnapshotStore, snapshots: list[Snapshot]
) -> None:
    first, second, third, fourth, _ = snapshots
    for snapshot in (first, second, third, replace(first, created_at_ms=999), fourth):
        await store.put(snapshot)
    assert await store.revisions() == (third.revision, first.revision, fourth.revision)
    kept = await store.get(first.revision)
    assert kept is not None
    assert kept.created_at_ms == first.created_at_ms


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "0" * 16])
async def test_a_name_that_is_not_kept(store: SnapshotStore, name: str) -> None:
    assert await store.get(name) is None


async def test_a_directory_outlives_the_process(tmp_path: Path, snapshots: list[Snapshot]) -> None:
    before = DirectoryStore(tmp_path, keep=KEEP)
    for snapshot in (*snapshots[:3], snapshots[0]):
        await before.put(snapshot)
    after = DirectoryStore(tmp_path, keep=KEEP)
    assert await after.revisions() == await before.revisions()
    assert await after.get(snapshots[1].revision) == snapshots[1]
    await after.put(snapshots[4])
    assert await after.revisions() == tuple(snapshots[n].revision for n in (2, 0, 4))
    assert len(list(tmp_path.iterdir())) == KEEP


async def test_a_crash_while_writing_leaves_no_revision(tmp_path: Path, snapshots: list[Snapshot]) -> None:
    (tmp_path / f"0000000007-{snapshots[0].revision}.new").write_text("half of i")
    (tmp_path / "notes.txt").write_text("not ours")
    store = DirectoryStore(tmp_path, keep=KEEP)
    assert await store.revisions() == ()
    await store.put(snapshots[0])
    assert await store.get(snapshots[0].revision) == snapshots[0]


async def test_a_changed_file_is_not_served(tmp_path: Path, snapshots: list[Snapshot]) -> None:
    store = DirectoryStore(tmp_path, keep=KEEP)
    await store.put(snapshots[0])
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text("utf-8").replace('"input_pico_usd":1000000', '"input_pico_usd":1'), "utf-8")
    with pytest.raises(StoreUnavailable, match="is not what was written"):
        await store.get(snapshots[0].revision)
    path.unlink()
    with pytest.raises(StoreUnavailable, match="can't read catalog revision"):
        await store.get(snapshots[0].revision)


async def test_a_directory_that_can_not_be_used(tmp_path: Path, snapshots: list[Snapshot]) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(StoreUnavailable, match="can't use"):
        DirectoryStore(in_the_way, keep=KEEP)
    gone = tmp_path / "gone"
    store = DirectoryStore(gone, keep=KEEP)
    gone.rmdir()
    with pytest.raises(StoreUnavailable, match="can't write"):
        await store.put(snapshots[0])
