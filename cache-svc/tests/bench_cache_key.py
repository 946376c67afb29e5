"""Prints what a key and a lookup cost, in microseconds of CPU: ``python cache-svc/tests/bench_cache_key.py``.

Columns: the floor (orjson parses, dumps with sorted keys, SHA-256); the request read and its key made; the same for a
body with spaces after colons and commas, as Python's json writes it; the floor with json's parser and hooks, which
need no trick to see duplicate keys; then a whole lookup, hit and miss.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from cache_svc.domain.fill import Claim
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, Subject
from cache_svc.domain.request import read_request
from cache_svc.service import CacheService, Limits
from cache_svc.store.memory import MemoryStore
from cache_svc.store.memory_fills import MemoryFills
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

WORDS = [
    "the",
    "quick",
    "fox:",
    "jumps",
    "over",
    "42",
    "lazy",
    "dogs,",
    "says",
    '"no"',
    "and\nsees",
    "https://example.com/a?b=c",
    "2026-11-22",
]
PRINCIPAL = Principal("org_a", "prj_a", "key_a")


def body_of(size: int) -> dict[str, Any]:
    """A conversation with three tools, as JSON about ``size`` bytes long."""
    rng = random.Random(size)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": parameters}} for n in range(3)]
    body: dict[str, Any] = {"model": "gpt-4o", "temperature": 0, "stream": True, "messages": [], "tools": tools}
    while len(orjson.dumps(body)) < size:
        text = " ".join(rng.choice(WORDS) for _ in range(min(80, size // 20)))
        text += " – café" if len(body["messages"]) % 8 == 0 else ""
        body["messages"].append({"role": rng.choice(["user", "assistant"]), "content": text})
    return body


def cpu_us(work: Callable[[], object]) -> float:
    """The least of seven runs, each of at least 20 ms."""
    rounds, best, runs = 1, float("inf"), 0
    while runs < 7:
        start = time.process_time()
        for _ in range(rounds):
            work()
        took = time.process_time() - start
        if took < 0.02:
            rounds *= 2
            continue
        runs += 1
        best = min(best, took / rounds)
    return best * 1e6


def lookup_us(raw: bytes, *, hit: bool) -> float:
    """A whole lookup in the service, over the in-process store."""
    clock = FakeClock()
    store = MemoryStore(max_bytes=2**30, clock=clock, new_epoch=itertools.count(1).__next__)
    service = CacheService(store, clock, Limits(max_entry_bytes=2**24, ttl_s=60))
    subject = Subject(PRINCIPAL, "chat/completions", "openai/gpt-4o", "p1", raw)
    price = PriceSnapshot("o/m", BillingTier.PASSTHROUGH, (RateTier(0, Rates(1, 1)),))
    message = {"role": "assistant", "content": "word " * 200}
    answer = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 200},
    }
    usage = Usage(input_tokens=1, output_tokens=200, provenance=Provenance.PROVIDER)

    async def run() -> float:
        miss = await service.lookup(subject, Controls(), "gen_0")
        assert isinstance(miss, Miss)
        if hit:
            fresh = FreshAnswer(usage, price, "rcpt_1", "o", "m", body=orjson.dumps(answer))
            assert await service.store(subject, miss.key, fresh) == ""
        coroutine = service.lookup(subject, Controls(), "gen_1")
        assert isinstance(await coroutine, Hit if hit else Miss)

        def once() -> None:
            try:
                service.lookup(subject, Controls(), "gen_1").send(None)
            except StopIteration:
                return
            raise AssertionError("the in-process store waits for nothing")

        return cpu_us(once)

    return asyncio.run(run())


def led_us(raw: bytes) -> float:
    """A lookup that finds nothing and leads, and the end of the flight, which nobody followed."""
    clock = FakeClock()
    store = MemoryStore(max_bytes=2**30, clock=clock, new_epoch=itertools.count(1).__next__)
    fills = MemoryFills(clock)
    service = CacheService(store, clock, Limits(max_entry_bytes=2**24, ttl_s=60), fills)
    subject = Subject(PRINCIPAL, "chat/completions", "openai/gpt-4o", "p1", raw)

    async def fly() -> None:
        miss = await service.lookup(subject, Controls(), "gen_1", Claim("req_1", 5.0))
        assert isinstance(miss, Miss)
        assert miss.lead is not None
        assert await fills.end(miss.lead, b"end", alone_s=0)

    def once() -> None:
        try:
            fly().send(None)
        except StopIteration:
            return
        raise AssertionError("the in-process stores wait for nothing")

    return cpu_us(once)


def main() -> None:
    """One line for each size."""
    columns = ("bytes", "floor", "key", "spaced", "hooks", "hit", "miss", "led")
    sys.stdout.write("".join(f"{column:>9}" for column in columns) + "\n")
    for size in (1_000, 13_000, 117_000):
        body = body_of(size)
        raw, spaced = orjson.dumps(body), json.dumps(body).encode()
        figures = (
            cpu_us(partial(floor, raw)),
            cpu_us(partial(key, raw)),
            cpu_us(partial(key, spaced)),
            cpu_us(partial(hooks, raw)),
            lookup_us(raw, hit=True),
            lookup_us(raw, hit=False),
            led_us(raw),
        )
        sys.stdout.write(f"{len(raw):>9}" + "".join(f"{figure:>9.1f}" for figure in figures) + "\n")


def floor(raw: bytes) -> bytes:
    """What any key over sorted JSON costs."""
    return hashlib.sha256(orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)).digest()


def key(raw: bytes) -> bytes:
    """The key as it is made."""
    request = read_request(
        principal=PRINCIPAL, endpoint="chat/completions", model="openai/gpt-4o", policy_epoch="p1", raw=raw
    )
    return request.key((1, 2, 3))


def hooks(raw: bytes) -> bytes:
    """The floor with json's parser, which can see duplicate keys."""
    value = json.loads(raw, object_pairs_hook=dict, parse_int=int)
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


if __name__ == "__main__":
    main()
