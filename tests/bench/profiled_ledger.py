"""``python -m tests.bench.profiled_ledger FILE``: the ledger's process, with samples of its stack, one for each tick of
CPU time, from when SIGUSR1 comes. At its end the samples are in FILE.

Sampled and not traced: a profiler that is called for every function makes the small ones look expensive. What other
threads spend (gRPC's, the one that commits to SQLite) counts for whatever the event loop's thread does then, which is
mostly to wait. A garbage collection counts for the function that it struck. Callers of a greenlet (SQLAlchemy's on
asyncpg) are not seen from within it, so "all" of those is too little.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from ledger_svc import __main__ as ledger

SAMPLE_S = 0.001
"""Asked for; many kernels tick every four."""


class Sampler:
    """Counts functions by how often they were running, and how often they or what they called were."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self._began_s = 0.0

    def start(self, *_: object) -> None:
        """From now on."""
        self._began_s = time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)

    def write(self, path: Path) -> None:
        """Ends, and leaves in a file the CPU seconds and, for each function, its samples."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        samples = {name: [self.own[name], count] for name, count in self.all.items()}
        path.write_text(json.dumps({"cpu_s": time.process_time() - self._began_s, "samples": samples}))

    def _sample(self, _: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.own[_name(frame)] += 1
        seen = set()
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        self.all.update(seen)


def _name(frame: FrameType) -> str:
    code = frame.f_code
    if code.co_filename == "<string>":  # what dataclasses generate
        return f"{type(frame.f_locals.get('self')).__name__}.{code.co_name}"
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno} {code.co_qualname}"


if __name__ == "__main__":
    sampler = Sampler()
    signal.signal(signal.SIGUSR1, sampler.start)
    asyncio.run(ledger.main())
    sampler.write(Path(sys.argv[1]))
