"""The cheap source and the cheap client, written in C so that they are not what is measured; built when needed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).with_name("c")
EVENTS = 23
"""Content events of a stream."""
GAP_US = 5_000
"""Between two events of a paced stream."""
MARKER = "#0000000000000000"
"""Stands for the digits that make a request unlike any other, and that its answer repeats."""
_HALVES = "and each side kept one, so that neither could change what was owed."
PLAIN_TEXT = f"{MARKER} A tally stick was split in two halves, {_HALVES}"
"""What the source says, with the request's marker."""
_WORDS = ("A", " tally", " stick", " kept", " two", " halves", " of", " one", " debt")
STREAM_TEXT = f"{MARKER} " + "".join(_WORDS[number % len(_WORDS)] for number in range(1, EVENTS))
"""The same over all events of a stream."""
GATEWAY_CORE, LOAD_CORE = 1, 0
START_WITHIN_S = 10.0


class BenchError(Exception):
    """The measurement can't be taken; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The two executables."""

    upstream: Path
    load: Path


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client sends. ``headers``: beside Host, Content-Type and Content-Length. ``body`` has MARKER in it."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """How often it is sent. ``rate``: so many begin in a second; 0: each connection sends the next when it has its
    answer. ``unique``: each request is unlike the others.
    """

    connections: int
    requests: int
    rate: float = 0.0
    unique: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """What a client saw. Times in milliseconds, from when a request was due; ``ttfc``: until the first text."""

    requests: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    ttfc_p50_ms: float
    ttfc_p99_ms: float


def pin(command: Sequence[str], *cores: int) -> list[str]:
    """The command on these cores, where there is more than one."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command] if (os.cpu_count() or 1) > 1 else list(command)


def all_but_the_load() -> list[int]:
    """The cores that a gateway of several processes may have."""
    return [core for core in range(os.cpu_count() or 1) if core != LOAD_CORE] or [LOAD_CORE]


def build(folder: Path) -> Programs:
    """Compiles what has changed since the last time, with `cc` or the compiler of the `ziglang` package.

    Raises:
        BenchError: there is no compiler.
    """
    built = []
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "load"):
        source = SOURCES / f"{name}.c"
        target = folder / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
        if not target.exists():
            subprocess.run([*_compiler(), "-O2", "-o", str(target), str(source)], check=True)
        built.append(target)
    return Programs(*built)


def _compiler() -> list[str]:
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if found := shutil.which("python-zig"):
        return [found, "cc"]
    raise BenchError("no C compiler: install gcc, or `.venv/bin/uv pip install ziglang` for a compiler in a package")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_upstream(programs: Programs) -> Iterator[int]:
    """The source inside the block; yields its port."""
    port = free_port()
    command = pin([str(programs.upstream), str(port), str(EVENTS), str(GAP_US)], LOAD_CORE)
    with subprocess.Popen(command) as process:
        try:
            until_listening(port, process)
            yield port
        finally:
            process.terminate()


def until_listening(port: int, process: subprocess.Popen[bytes], within_s: float = START_WITHIN_S) -> None:
    """Waits until ``port`` takes connections.

    Raises:
        BenchError: it does not, or the process has ended.
    """
    give_up_at = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                raise BenchError(f"{process.args!r} ended with {process.returncode}") from None
            if time.monotonic() > give_up_at:
                raise BenchError(f"nothing listens on port {port} after {within_s:.0f} s") from None
            time.sleep(0.05)
        else:
            return


def answered(upstream_port: int) -> int:
    """How many requests the source has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{upstream_port}/requests", timeout=5) as answer:
        return int(json.load(answer)["requests"])


def load_command(programs: Programs, ask: Ask, load: Load, folder: Path) -> list[str]:
    """The client, whose files are put into ``folder``. One more argument: where the ids of receipts go."""
    head, body, text = folder / "head", folder / "body", folder / "text"
    lines = [f"POST {ask.path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in ask.headers.items()]
    head.write_text("".join(f"{line}\r\n" for line in lines), encoding="ascii", newline="")
    body.write_bytes(ask.body)
    text.write_text(STREAM_TEXT if ask.stream else PLAIN_TEXT, encoding="ascii")
    return [
        *(str(programs.load), str(ask.port), str(head), str(body), str(text), str(load.connections)),
        *(str(load.requests), str(load.rate), str(int(ask.stream)), str(int(load.unique))),
    ]


def send(programs: Programs, ask: Ask, load: Load) -> Timing:
    """Sends a load and waits for its end.

    Raises:
        BenchError: an answer was wrong: not 200, not whole, or not what the source says to the request.
    """
    with tempfile.TemporaryDirectory(prefix="tg-load-") as folder:
        command = load_command(programs, ask, load, Path(folder))
        ended = subprocess.run(pin(command, LOAD_CORE), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise BenchError(f"the load ended with {ended.returncode}: {ended.stderr.strip()[:1_000]}")
    facts = json.loads(ended.stdout)
    if facts.pop("wrong") or facts.pop("failed"):
        raise BenchError(
            f"{load.requests - facts['right']} of {load.requests} were wrong: {ended.stderr.strip()[:1_000]}"
        )
    return Timing(requests=facts.pop("right"), **facts)
