"""What calling a source costs the router, in CPU: ``make bench-source``. Ends with one line of JSON.

A stand-in source in a process of its own answers at once: a plain answer of 700 bytes, or 23 events of a stream, in one
write or (``paced``) an event at a time. At 16 calls under way, the clients take turns in one run, each turn's CPU by
the clock of this process; the median of the turns is told, with the quartiles. ``http``: the HTTP client alone;
``adapter``: OpenAISourceClient above it, as it is wired, from the client's body to the answer read.

Options: ``--loop asyncio|uvloop|both``, ``--turns N``, ``--tls``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from raw_source import make_certificates
from router_rig import chunk, completion_body, price, sse, usage_block, usage_chunk

from meshkit.telemetry import Telemetry
from router_svc.domain.catalog import Offer, Source
from router_svc.domain.plan import Candidate
from router_svc.service.ports import SourceCall
from router_svc.sources.http.opening import open_http, verifying
from router_svc.sources.http.port import SourceHttp
from router_svc.sources.openai import OpenAISourceClient, OpenAITimeouts

AT_ONCE = 16
CALLS = {"plain": 800, "stream": 400, "paced": 200}
WORDS = "It is the first of many notes on how tallies were kept, and who kept them in those days. "
PLAIN = completion_body(WORDS * 5, usage_block(150, 90))
EVENTS = [
    chunk(""),
    *(chunk(WORDS[n : n + 4], created=1_764_000_000, system_fingerprint="fp_1") for n in range(20)),
    chunk(finish="stop"),
    usage_chunk(150, 20),
]

Call = Callable[[], Awaitable[None]]


class StandIn(asyncio.Protocol):
    """Reads a request and answers by its path."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.buffer = body[length:]
        if b"/plain/" in head[:60]:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(PLAIN), PLAIN)
            )
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        parts = [sse(event, done=False) for event in EVENTS] + [b"data: [DONE]\n\n"]
        written = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts] + [b"0\r\n\r\n"]
        if b"/stream/" in head[:60]:
            self.transport.write(b"".join(written))
        else:
            asyncio.get_running_loop().create_task(self.pace(written))

    async def pace(self, parts: list[bytes]) -> None:
        for part in parts:
            if self.transport.is_closing():
                return
            self.transport.write(part)
            await asyncio.sleep(0.001)


def tell(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def stand_in(tls: ssl.SSLContext | None) -> None:
    server = await asyncio.get_running_loop().create_server(StandIn, "127.0.0.1", 0, ssl=tls)
    tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def http_call(http: SourceHttp, base_url: str, body: bytes) -> Call:
    """A POST and its answer read."""
    headers = {"accept": "application/json", "authorization": "Bearer sk-1", "traceparent": "00-0-0-00"}

    async def call() -> None:
        answer = await http.post(base_url + "/chat/completions", headers, body, connect_s=5.0, head_s=60.0, read_s=60.0)
        while await answer.read():
            pass
        answer.close()

    return call


def adapter_call(http: SourceHttp, base_url: str, body: bytes, *, stream: bool) -> Call:
    """The adapter's whole work."""
    client = OpenAISourceClient(
        http, Telemetry.off().tracer, lambda _: None, timeouts=OpenAITimeouts(), max_answer_bytes=2**24
    )
    candidate = Candidate(Offer("a/m", "m", "a", "up", None), Source("a", base_url), price(), 0, 10_000, 1_000)
    source_call = SourceCall(candidate, body, 60.0)

    async def plain() -> None:
        answer = await client.ask(source_call)
        assert answer.usage is not None

    async def streamed() -> None:
        told = 0
        async with client.stream(source_call) as batches:
            async for batch in batches:
                told += len(batch.payloads)
        assert told == len(EVENTS) - 1

    return streamed if stream else plain


async def cpu_us(call: Call, calls: int) -> float:
    """CPU of a call, with 16 of them under way."""
    left = calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    start = time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return (time.process_time() - start) / calls * 1e6


async def measure(address: str, trusted: str, turns: int) -> dict[str, dict[str, list[float]]]:
    """The CPU of each turn, by scenario and client."""
    asked = orjson.dumps(
        {"model": "m", "temperature": 0, "max_tokens": 64, "messages": [{"role": "user", "content": WORDS * 8}]}
    )
    taken: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        clients: dict[str, SourceHttp] = {}
        for name in ("aiohttp", "own"):
            opened = open_http(name, max_connections=100, tls=verifying(trusted) if trusted else None)
            clients[name] = await stack.enter_async_context(opened)
        work: list[tuple[str, str, Call, int]] = []
        for scenario, calls in CALLS.items():
            base_url = f"{address}/{scenario}/v1"
            for name, http in clients.items():
                work.append((f"http {scenario}", name, http_call(http, base_url, asked), calls))
                adapter = adapter_call(http, base_url, asked, stream=scenario != "plain")
                work.append((f"adapter {scenario}", name, adapter, calls))
        for turn in range(-1, turns):
            for scenario, name, call, calls in work:
                us = await cpu_us(call, calls)
                if turn >= 0:  # the first fills caches and makes the connections
                    taken.setdefault(scenario, {}).setdefault(name, []).append(us)
    return taken


def table(loop: str, taken: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Prints a row a scenario; gives the medians in CPU-ms."""
    medians: dict[str, float] = {}
    tell(f"\n{loop}, µs of CPU a call{'aiohttp':>20}{'own':>28}{'ratio':>16}")
    for scenario, clients in taken.items():
        cells = []
        for name, turns in clients.items():
            low, middle, high = statistics.quantiles(turns, n=4)
            medians[f"{loop} {scenario} {name}"] = round(middle / 1_000, 4)
            cells.append(f"{middle:8.1f} ({low:6.1f} to {high:6.1f})")
        # Turn by turn, so that what else the machine does weighs on both alike.
        ratio = statistics.median(a / b for a, b in zip(clients["aiohttp"], clients["own"], strict=True))
        tell(f"{scenario:18}{cells[0]:>32}{cells[1]:>28}{ratio:>10.2f}")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "both"], default="both")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        served = Path(options.serve)
        tls = None
        if options.tls:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(served / "certificate.pem", served / "key.pem")
        uvloop.run(stand_in(tls))
        return
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        trusted = str(make_certificates(Path(folder)).trusted) if options.tls else ""
        command = [sys.executable, __file__, "--serve", folder, *(["--tls"] if options.tls else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as server:
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline())
                address = f"https://localhost:{port}" if options.tls else f"http://127.0.0.1:{port}"
                loops = {"asyncio": asyncio.run, "uvloop": uvloop.run}
                for loop, run in loops.items():
                    if options.loop in {loop, "both"}:
                        medians |= table(loop, run(measure(address, trusted, options.turns)))
            finally:
                server.terminate()
    tell(orjson.dumps(medians).decode())


if __name__ == "__main__":
    main()
