"""The service as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from meshkit.channels import Dialer
from meshkit.telemetry import Telemetry
from tallygate.catalog.v1 import catalog_pb2, catalog_pb2_grpc


async def start(**variables: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, **{f"TALLYGATE_CATALOG_{name}": value for name, value in variables.items()}}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catalog_svc", env=environment, stderr=asyncio.subprocess.PIPE
    )


async def test_it_serves_and_ends_on_sigterm_with_a_watch_open() -> None:
    telemetry = Telemetry.off()
    with tempfile.TemporaryDirectory(prefix="cat-") as folder:
        address = f"unix://{folder}/s"
        process = await start(LISTEN=address, DRAIN_S="20")
        try:
            async with Dialer(telemetry) as dial:
                stub = catalog_pb2_grpc.CatalogServiceStub(dial(address))
                watch = stub.WatchSnapshot(catalog_pb2.WatchSnapshotRequest(), timeout=40, wait_for_ready=True)
                assert len((await anext(aiter(watch))).snapshot.models) >= 42
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.communicate()


async def test_a_broken_overlay_is_told_plainly(write: Callable[[str, str], Path]) -> None:
    overlay = write("overlay.yaml", "aliases: {default: nothing}")
    process = await start(LISTEN="grpc://127.0.0.1:0", OVERLAYS=str(overlay))
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert stderr.decode().splitlines() == [
        "the catalog is not right, so it is not served:",
        f"{overlay}:1: aliases.default: stands for 'nothing', which is no model; an alias can't stand for an alias",
    ]
