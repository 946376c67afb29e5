"""Cases of the catalog."""

from __future__ import annotations

import asyncio

import pytest

from tallygate.catalog.v1 import catalog_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tests.contract.cases import (
    TIMEOUT_S,
    covers,
    refused,
)
from tests.contract.world import World


@covers("CatalogService/GetSnapshot")
async def get_snapshot(world: World) -> None:
    current = await world.catalog.GetSnapshot(catalog_pb2.GetSnapshotRequest(), timeout=TIMEOUT_S)
    named = catalog_pb2.GetSnapshotRequest(revision=current.snapshot.revision)
    assert (await world.catalog.GetSnapshot(named, timeout=TIMEOUT_S)).snapshot == current.snapshot
    assert len(current.snapshot.models) >= 42
    missing = catalog_pb2.GetSnapshotRequest(revision="0" * 16)
    await refused(world.catalog.GetSnapshot(missing, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("CatalogService/WatchSnapshot")
async def watch_snapshot(world: World) -> None:
    watch = world.catalog.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(), timeout=TIMEOUT_S)
    first = await anext(aiter(watch))
    watch.cancel()
    known = catalog_pb2.WatchSnapshotRequest(known_revision=first.snapshot.revision)
    quiet = world.catalog.WatchSnapshot(known, timeout=TIMEOUT_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(aiter(quiet)), 0.2)
    quiet.cancel()
