"""Prints what the canonical tier costs, in microseconds of CPU, and what it finds in the ``fow-cache`` pairs:
``python cache-svc/tests/bench_canonical.py``.

The rules were made with the pairs of even number in sight; those of odd number are held out.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson

from cache_svc.domain.guards import why_apart
from cache_svc.domain.question import read_question
from cache_svc.domain.request import CacheRequest, read_request
from cache_svc.domain.wording.normal_form import normal_form
from meshkit.principal import Principal

ASKED = "What is the minimum order for free delivery to London on Mondays?"
REWORDED = "Hi there, what's the minimum order for free delivery to London on Mondays, please?"


def cpu_us(call: Callable[[], object], times: int = 200) -> float:
    """The least of five."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            call()
        taken.append((time.process_time() - began) / times * 1e6)
    return round(min(taken), 1)


def read(raw: bytes) -> CacheRequest:
    """As a lookup reads it."""
    caller = Principal("o", "p", "k")
    return read_request(principal=caller, endpoint="chat/completions", model="m", policy_epoch="e", raw=raw)


def costs() -> dict[str, float]:
    """Of each step, by name."""
    found = {
        "normal form": cpu_us(lambda: normal_form(REWORDED)),
        "guards": cpu_us(lambda: why_apart(ASKED, REWORDED)),
    }
    for kb in (1, 13, 117):
        said = [{"role": "system", "content": "x y\n" * (kb * 256)}, {"role": "user", "content": REWORDED}]
        raw = orjson.dumps({"model": "m", "temperature": 0, "messages": said})
        request = read(raw)
        found[f"read {kb} KB"] = cpu_us(partial(read, raw))
        found[f"split {kb} KB"] = cpu_us(partial(read_question, request))
    return found


def findings() -> Counter[str]:
    """By half, kind of pair, and what becomes of it."""
    spec = importlib.util.find_spec("fow_cache")
    if spec is None or spec.origin is None:
        sys.exit("fow-cache is not installed: make setup")
    found: Counter[str] = Counter()
    for line in (Path(spec.origin).parent / "data" / "pairs.jsonl").read_bytes().splitlines():
        pair = orjson.loads(line)
        half = "held out" if int(re.findall(r"\d+", pair["id"])[-1]) % 2 else "in sight"
        kind = pair["category"] if pair["same_answer"] else "trap"
        form = normal_form(pair["a"])
        guarded = bool(why_apart(pair["a"], pair["b"]))
        same = form.plain and form == normal_form(pair["b"]) and not guarded
        ending = "replayed" if same else "missed, guards see it" if guarded else "missed, guards see nothing"
        found[f"{half}: {kind}: {ending}"] += 1
    return found


if __name__ == "__main__":
    for name, cost in costs().items():
        sys.stdout.write(f"{name:14} {cost:8.1f} us\n")
    for name, count in sorted(findings().items()):
        sys.stdout.write(f"{count:5} {name}\n")
