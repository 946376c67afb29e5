"""What the cache costs a request, in microseconds of CPU: ``make bench-cache``. Ends with one line of JSON.

The key, at three sizes of body. ``floor``: orjson's sorted dump of the parsed body and SHA-256 of it, nothing else.
``key``: all of the work on a key but the parsing: the deny-list, markers, the order of properties, the canonical bytes,
the address and the key under purge epochs. ``ratio``: key to floor. ``parse``: the body read, and seen to have one
reading; ``orjson``: what of that is orjson's alone. ``whole``: parse and key. Then whole lookups in the service, over
the in-process store as it is wired: a miss, a hit rendered as a body and as a stream.

Last, what compression costs and gives, on prose (this repository's own pages).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from cache_svc.domain import canonical
from cache_svc.domain.replay import Controls, FreshAnswer, Hit, Miss, Subject
from cache_svc.domain.request import keyed, read_request
from cache_svc.service import CacheService, Limits
from cache_svc.settings import CacheSettings
from cache_svc.store.memory import MemoryStore
from cache_svc.store.packed import PackedStore
from meshkit.money import BillingTier, PriceSnapshot, Provenance, Rates, RateTier, Usage
from meshkit.principal import Principal
from meshkit.testing import FakeClock

ROOT = Path(__file__).parents[2]
SIZES = {"1kb": 1_000, "13kb": 13_000, "117kb": 117_000}
PRINCIPAL = Principal("org_a", "prj_a", "key_a")
EPOCHS = (1_800_000_000_000_000_001, 1_800_000_000_000_000_002, 1_800_000_000_000_000_003)
SPELLINGS = 600
"""More than the service remembers."""
ENDPOINT, MODEL, POLICY_EPOCH = "chat/completions", "openai/gpt-4o", "p1"


def prose() -> str:
    """The pages of this repository, one after the other."""
    pages = sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("deploy/**/*.md"), *ROOT.glob("*-svc/*.md"), *ROOT.glob("edge/*.md")]
    )
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def body_of(size: int, text: str) -> dict[str, Any]:
    """A conversation with three tools, as JSON about ``size`` bytes long."""
    rng = random.Random(size)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": parameters}} for n in range(3)]
    body: dict[str, Any] = {"model": "gpt-4o", "temperature": 0, "messages": [], "tools": tools}
    while len(orjson.dumps(body)) < size:
        start, length = rng.randrange(len(text) - 600), min(600, max(20, size - len(orjson.dumps(body))))
        message = {"role": rng.choice(["user", "assistant"]), "content": text[start : start + length]}
        body["messages"].append(message)
    return body


def cpu_us(*works: Callable[[], object]) -> list[float]:
    """The least of nine runs of each, taken in turns, so that what else the machine does weighs on all alike."""
    rounds = []
    for work in works:
        start, count = time.process_time(), 0
        while time.process_time() - start < 0.02:
            work()
            count += 1
        rounds.append(count)
    best = [float("inf")] * len(works)
    for _ in range(9):
        for index, work in enumerate(works):
            start = time.process_time()
            for _ in range(rounds[index]):
                work()
            best[index] = min(best[index], (time.process_time() - start) / rounds[index])
    return [seconds * 1e6 for seconds in best]


def key_costs(body: dict[str, Any]) -> list[float]:
    """Floor, key, parse, orjson's part of it, and whole."""
    raw = orjson.dumps(body)

    def floor() -> bytes:
        return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()

    def key() -> bytes:
        request = keyed(body, principal=PRINCIPAL, endpoint=ENDPOINT, model=MODEL, policy_epoch=POLICY_EPOCH)
        return request.key(EPOCHS)

    def whole() -> bytes:
        request = read_request(principal=PRINCIPAL, endpoint=ENDPOINT, model=MODEL, policy_epoch=POLICY_EPOCH, raw=raw)
        return request.key(EPOCHS)

    return cpu_us(floor, key, lambda: canonical.parse_object(raw), lambda: orjson.loads(raw), whole)


def lookup_costs(body: dict[str, Any], text: str) -> list[float]:
    """Of a miss, a hit as a body, a hit as a stream with usage. The answer has about 1 KB."""
    clock, settings = FakeClock(), CacheSettings()
    memory = MemoryStore(max_bytes=settings.max_bytes, clock=clock, new_epoch=itertools.count(EPOCHS[0]).__next__)
    store = PackedStore(memory, from_bytes=settings.compress_from_bytes, max_bytes=settings.max_entry_bytes)
    service = CacheService(store, clock, Limits(max_entry_bytes=settings.max_entry_bytes, ttl_s=settings.ttl_s))

    def subjects(**changes: Any) -> list[Subject]:
        # One request in many spellings: the service remembers how it read the last ones, and is not to here.
        bodies = (orjson.dumps({**body, **changes, "metadata": {"n": f"{n:04}"}}) for n in range(SPELLINGS))
        return [Subject(PRINCIPAL, ENDPOINT, MODEL, POLICY_EPOCH, raw) for raw in bodies]

    asyncio.run(fill(service, subjects()[0], text))
    cases = [(subjects(seed=1), Miss), (subjects(), Hit)]
    cases.append((subjects(stream=True, stream_options={"include_usage": True}), Hit))
    return cpu_us(*(once(service, asked, outcome) for asked, outcome in cases))


async def fill(service: CacheService, subject: Subject, text: str) -> None:
    """Stores an answer."""
    miss = await service.lookup(subject, Controls(), "gen_0")
    assert isinstance(miss, Miss)
    answer = {
        "object": "chat.completion",
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text[:900]}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 200, "total_tokens": 201},
    }
    usage = Usage(input_tokens=1, output_tokens=200, provenance=Provenance.PROVIDER)
    price = PriceSnapshot("o/m", BillingTier.PASSTHROUGH, (RateTier(0, Rates(1, 1)),))
    fresh = FreshAnswer(usage, price, "rcpt_1", "o", "m", body=orjson.dumps(answer))
    assert await service.store(subject, miss.key, fresh) == ""


def once(service: CacheService, subjects: list[Subject], expected: type[Hit | Miss]) -> Callable[[], None]:
    """One lookup, without an event loop: the in-process store waits for nothing."""
    asked = itertools.cycle(subjects)

    def work() -> None:
        try:
            service.lookup(next(asked), Controls(), "gen_1").send(None)
        except StopIteration as done:
            assert isinstance(done.value, expected)
            return
        raise AssertionError("the in-process store waits for nothing")

    return work


def line(*cells: object) -> None:
    """One row of a table."""
    sys.stdout.write("".join(f"{cell:>11.1f}" if isinstance(cell, float) else f"{cell:>11}" for cell in cells) + "\n")


def main() -> None:
    """The tables, and the line."""
    text = prose()
    figures: dict[str, dict[str, float]] = {
        name: {} for name in ("hit_us", "miss_us", "key_ratio", "hit_stream_us", "key_with_parse_ratio")
    }
    line("bytes", "floor", "key", "ratio", "parse", "orjson", "whole", "miss", "hit", "hit stream")
    for name, size in SIZES.items():
        body = body_of(size, text)
        floor, key, parse, loads, whole = key_costs(body)
        miss, hit, stream = lookup_costs(body, text)
        line(len(orjson.dumps(body)), floor, key, f"{key / floor:.2f}", parse, loads, whole, miss, hit, stream)
        values = (hit, miss, key / floor, stream, whole / floor)
        for figure, value in zip(figures.values(), values, strict=True):
            figure[name] = round(value, 2)
    sys.stdout.write("\n")
    line("bytes", "level", "pack", "unpack", "smaller by")
    for size, level in itertools.product(SIZES.values(), (1, 3, 6)):
        raw = orjson.dumps(body_of(size, text))
        packed = zlib.compress(raw, level)
        costs = cpu_us(lambda raw=raw, level=level: zlib.compress(raw, level), lambda z=packed: zlib.decompress(z))  # type: ignore[misc]
        line(len(raw), level, *costs, f"{len(raw) / len(packed):.2f}")
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
