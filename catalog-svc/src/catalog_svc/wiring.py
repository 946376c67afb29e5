"""The composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from catalog_svc.service import CatalogService, Sleep, SnapshotStore
from catalog_svc.servicer import CatalogServicer
from catalog_svc.settings import CatalogSettings
from catalog_svc.store.directory import DirectoryStore
from catalog_svc.store.documents.origin import DocumentOrigin, seed_document
from catalog_svc.store.memory import MemoryStore
from meshkit.channels import Dial
from meshkit.clock import Clock, SystemClock
from meshkit.serve import Register
from meshkit.telemetry import Telemetry
from tallygate.catalog.v1 import catalog_pb2_grpc


@asynccontextmanager
async def build(
    settings: CatalogSettings,
    dial: Dial,  # noqa: ARG001 - the catalog calls nobody; every service is built alike
    telemetry: Telemetry,  # noqa: ARG001 - likewise
    *,
    clock: Clock | None = None,
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[Register]:
    """The catalog, loaded and watching its overlays while the context is open.

    Raises:
        CatalogInvalid: the seed or an overlay is not right.
        StoreUnavailable: revisions can't be kept where the settings say.
    """
    service = CatalogService(
        DocumentOrigin(seed_document(), settings.overlays),
        _store(settings),
        clock or SystemClock(),
        sleep,
        reload_poll_s=settings.reload_poll_s,
    )
    await service.start()
    servicer = CatalogServicer(service)
    # A reload that fails in an unforeseen way ends the service: serving old prices for ever would not be noticed.
    try:
        async with asyncio.TaskGroup() as tasks:
            reloads = tasks.create_task(service.keep_reloading())
            try:
                yield lambda server: catalog_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server)
            finally:
                service.close()
                reloads.cancel()
    except BaseExceptionGroup as group:
        # That there is a task group is nobody's business: what failed inside arrives as it was raised.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _store(settings: CatalogSettings) -> SnapshotStore:
    if settings.revisions_dir is None:
        return MemoryStore(keep=settings.keep_revisions)
    return DirectoryStore(settings.revisions_dir, keep=settings.keep_revisions)
