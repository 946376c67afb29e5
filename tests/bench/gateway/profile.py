"""Where a gateway's time goes, function by function, under each kind of load: a flame graph for each, on one page.

    python -m tests.bench.gateway.profile [--modes allinone,mesh] [--seconds N] [--workers N]

Stacks are sampled by py-spy, of whichever thread holds the interpreter's lock, in each of the gateway's processes
that has something to do. What C does without the lock is not seen: gRPC's threads, a commit of SQLite. A
profile slows what it looks at and is no measure of speed: `make bench` is.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.gateway.contenders import Running, Tallygate, allinone, is_database, mesh, with_workers
from tests.bench.gateway.programs import (
    LOAD_CORE,
    BenchError,
    Load,
    Programs,
    build,
    load_command,
    pin,
    running_upstream,
    send,
)
from tests.bench.gateway.rounds import Scenario, ask_of, scenarios

HOME = Path(".make/bench")
PY_SPY = "py-spy==0.4.3"
KINDS = ("plain c=16", "replay c=16", "stream c=16")
SAMPLES_PER_S = 250
FRAMES = b'id="frames"'
"""What is in the graph of a process that did anything."""
WARM_UP = Load(16, 200)
FOR_EVER = 10_000_000
"""Requests; the load is ended when the profile is taken."""


def main() -> int:
    """Writes one SVG for each mode, kind of request and process, and a page with all of them."""
    arguments = _arguments()
    programs, py_spy = build(HOME), installed_py_spy(HOME)
    arguments.out.mkdir(parents=True, exist_ok=True)
    graphs: dict[str, bytes] = {}
    for mode in arguments.modes.split(","):
        with _running(programs, _contender(mode, arguments.workers)) as running:
            for scenario in (found for found in scenarios(1) if found.name in KINDS):
                folder = arguments.out / mode / scenario.name.partition(" ")[0]
                folder.mkdir(parents=True, exist_ok=True)
                print(f"profiling {mode}, {scenario.name}, {arguments.seconds} s", file=sys.stderr, flush=True)
                with loaded(programs, running, scenario):
                    recorded = record(py_spy, processes_of(running), folder, arguments.seconds)
                graphs |= {f"{mode}, {scenario.name}: {name}": svg for name, svg in recorded.items()}
    (arguments.out / "profile.html").write_text(page(graphs), encoding="utf-8")
    print(arguments.out / "profile.html")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gateway.profile", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--modes", default="allinone,mesh")
    parser.add_argument("--seconds", type=int, default=10, help="for each kind of request")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer clients")
    parser.add_argument("--out", type=Path, default=HOME / "profile", help="where the graphs go")
    return parser.parse_args()


def _contender(mode: str, workers: int) -> Tallygate:
    known = {"allinone": allinone(), "mesh": mesh()}
    if mode not in known:
        raise BenchError(f"{mode!r} is not one of {', '.join(known)}")
    return known[mode] if workers == 1 else with_workers(known[mode], workers)


@contextmanager
def _running(programs: Programs, contender: Tallygate) -> Iterator[Running]:
    with (
        tempfile.TemporaryDirectory(prefix="tg-profile-", ignore_cleanup_errors=True) as folder,
        running_upstream(programs) as upstream_port,
        contender.running(Path(folder, "data"), upstream_port) as running,
    ):
        yield running


def installed_py_spy(home: Path) -> Path:
    """The profiler; installed at the first use, into a virtual environment of its own.

    Raises:
        BenchError: it can't be.
    """
    folder = home / "py-spy"
    command = folder / "bin" / "py-spy"
    if not command.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        for step in (
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), PY_SPY],
        ):
            ended = subprocess.run(step, capture_output=True, text=True, check=False)
            if ended.returncode != 0:
                raise BenchError(f"{PY_SPY} could not be installed: {ended.stderr.strip()[-300:]}")
    return command


@contextmanager
def loaded(programs: Programs, running: Running, scenario: Scenario) -> Iterator[None]:
    """A load without end inside the block.

    Raises:
        BenchError: an answer was wrong.
    """
    ask = ask_of(running, scenario)
    load = Load(scenario.load.connections, FOR_EVER, unique=scenario.load.unique)
    send(programs, ask, Load(WARM_UP.connections, WARM_UP.requests, unique=scenario.load.unique))
    with tempfile.TemporaryDirectory(prefix="tg-load-") as folder:
        command = pin(load_command(programs, ask, load, Path(folder)), LOAD_CORE)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield
        finally:
            process.terminate()
            said, complaints = process.communicate(timeout=30)
    if process.returncode != 0 or '"wrong": 0, "failed": 0' not in said:
        raise BenchError(f"the load ended with {process.returncode}: {said}{complaints.strip()[:1_000]}")


def record(py_spy: Path, pids: dict[str, int], folder: Path, seconds: int) -> dict[str, bytes]:
    """Samples all processes at once, each by a profiler of its own; gives the graphs of those that did anything.

    Raises:
        BenchError: it may not.
    """
    paths = {name: folder / f"{name}.svg" for name in pids}
    running = {}
    for name, pid in pids.items():
        paths[name].unlink(missing_ok=True)
        command = [
            *(str(py_spy), "record", "--gil", "--function", "--pid", str(pid), "--duration", str(seconds)),
            *("--rate", str(SAMPLES_PER_S), "--format", "flamegraph", "--output", str(paths[name])),
        ]
        running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    graphs = {}
    for name, process in running.items():
        _, complaints = process.communicate(timeout=seconds + 120)
        if process.returncode != 0 or not paths[name].exists():
            raise BenchError(f"py-spy ended with {process.returncode} at {name}: {complaints.strip()[-500:]}")
        graph = paths[name].read_bytes()
        if FRAMES in graph:
            graphs[name] = graph
        else:
            paths[name].unlink()
    return graphs


def processes_of(running: Running) -> dict[str, int]:
    """Its Python processes by name: those of a part that has several are numbered."""
    found: dict[str, int] = {}
    for part, pids in sorted(running.processes().items()):
        if not is_database(part):
            found |= {f"{part}-{number}" if len(pids) > 1 else part: pid for number, pid in enumerate(pids, start=1)}
    return found


def page(graphs: dict[str, bytes]) -> str:
    """All of them on one page that needs nothing else. A click on a frame shows it alone; there is a search."""
    parts = []
    for title, svg in graphs.items():
        height = re.search(rb'<svg[^>]* height="(\d+)"', svg)
        inside = base64.b64encode(svg).decode()
        parts.append(
            f"<h2>{html.escape(title)}</h2><object type=image/svg+xml width=1200 "
            f'height={int(height[1]) if height else 800} data="data:image/svg+xml;base64,{inside}"></object>'
        )
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>Where a gateway's time goes</title>"
    style = "<style>body{font:15px/1.5 system-ui,sans-serif;margin:24px}h2{font-size:17px}</style>"
    return f"{head}{style}<h1>Where a gateway's time goes</h1>{''.join(parts)}</html>\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
