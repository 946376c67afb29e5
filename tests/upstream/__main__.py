"""`python -m tests.upstream --ready-file F`: the scripted upstream as a process, until SIGTERM or Ctrl-C.

The ready-file gets {"base_url", "overlay", "pid"}; the overlay is a catalog file for `tallygate up --catalog`. Handy to
try a gateway by hand; tests serve it from their own process, where they can look at the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
from pathlib import Path

from tests.upstream.server import scripted_upstream


async def serve(port: int, ready_file: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="tallygate-upstream-") as folder:
        async with scripted_upstream(port) as upstream:
            overlay = upstream.write_overlay(Path(folder) / "overlay.yaml")
            line = json.dumps({"base_url": upstream.base_url(), "overlay": str(overlay), "pid": os.getpid()})
            if ready_file is None:
                print(line, flush=True)
            else:
                draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
                draft.write_text(line, encoding="utf-8")
                draft.replace(ready_file)
            await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.ready_file))


if __name__ == "__main__":
    main()
