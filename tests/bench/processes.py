"""The ledger as a process of its own for the bench, and where its CPU goes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from meshkit.channels import Dialer
from meshkit.telemetry import Telemetry
from tests.bench.ledger_spending import PEPPER, SEED, Spend, grpc_spending


@dataclass(slots=True)
class Served:
    """A ledger that serves: an operation on it, and its process."""

    spend: Spend
    pid: int


@asynccontextmanager
async def over_socket(url: str, profile: Path | None = None) -> AsyncIterator[Served]:
    """The service in a process of its own, over a unix socket. ``profile``: where to leave a profile of it, which
    begins with SIGUSR1.
    """
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        address = f"unix://{folder}/s"
        env = os.environ | {
            "TALLYGATE_LEDGER_LISTEN": address,
            "TALLYGATE_LEDGER_DATABASE_URL": url,
            "TALLYGATE_LEDGER_PEPPERS": json.dumps({"1": PEPPER}),
            "TALLYGATE_LEDGER_SIGNING_KEYS": json.dumps({"bench": SEED}),
            "TALLYGATE_LEDGER_LOG_LEVEL": "info",
        }
        module = ["ledger_svc"] if profile is None else ["tests.bench.profiled_ledger", str(profile)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, env=env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        while b'"serving"' not in (line := await process.stderr.readline()):
            assert line, "the ledger ended before it served"
        drained = asyncio.create_task(process.stderr.read())
        try:
            async with Dialer(Telemetry.off("bench")) as dial:
                yield Served(await grpc_spending(dial(address)), process.pid)
        finally:
            process.terminate()
            await process.wait()
            await drained


def print_profile(path: Path, operations: int, *, lines: int = 45) -> None:
    """Where the ledger's CPU went, by function: microseconds per operation in itself, and with what it called."""
    found = json.loads(path.read_text())
    samples: dict[str, tuple[int, int]] = found["samples"]
    total_us = found["cpu_s"] * 1e6 / operations
    each_us = total_us / sum(own for own, _ in samples.values())
    print(f"{'itself':>8} {'all':>8}  of {total_us:,.0f} µs of CPU per operation", file=sys.stderr)
    for name, (own, every) in sorted(samples.items(), key=lambda item: -item[1][0])[:lines]:
        print(f"{own * each_us:8.1f} {every * each_us:8.1f}  {name}", file=sys.stderr)
