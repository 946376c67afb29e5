"""The bench of gateways can be believed: it sees wrong answers, and its arithmetic is right."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.bench.gateway import capacity, profile
from tests.bench.gateway.contenders import Running, part_of
from tests.bench.gateway.curves import slope
from tests.bench.gateway.programs import (
    EVENTS,
    GAP_US,
    MARKER,
    PLAIN_TEXT,
    STREAM_TEXT,
    Ask,
    BenchError,
    Load,
    Programs,
    answered,
    build,
    free_port,
    running_upstream,
    send,
)
from tests.bench.gateway.report import page, table
from tests.bench.gateway.result import DIRECT, Result
from tests.bench.gateway.rounds import Sample, body_of, spent

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang", "python-zig")):
        pytest.skip("no C compiler")
    return build(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def upstream(programs: Programs) -> Iterator[int]:
    with running_upstream(programs) as port:
        yield port


def ask(port: int, *, model: str = "bench/ok", stream: bool = False, size: int = 887) -> Ask:
    return Ask(port, PATH, {"authorization": "Bearer x"}, body_of(model, {}, stream=stream, size=size), stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [887, 300_000])
def test_each_request_has_its_own_answer(programs: Programs, upstream: int, stream: bool, size: int) -> None:
    before = answered(upstream)
    timing = send(programs, ask(upstream, stream=stream, size=size), Load(16, 500))
    assert (timing.requests, answered(upstream) - before) == (500, 500)
    assert 0 < timing.p50_ms <= timing.p99_ms


def test_a_paced_stream_begins_at_once_and_takes_its_time(programs: Programs, upstream: int) -> None:
    timing = send(programs, ask(upstream, model="bench/paced", stream=True), Load(4, 8))
    whole_ms = (EVENTS - 1) * GAP_US / 1_000
    assert timing.ttfc_p50_ms < whole_ms / 2 < whole_ms <= timing.p50_ms


def test_an_open_loop_keeps_its_rate(programs: Programs, upstream: int) -> None:
    timing = send(programs, ask(upstream), Load(8, 100, rate=200.0))
    assert timing.rps == pytest.approx(200, rel=0.15)


def _plain(marker: str) -> bytes:
    return json.dumps({"content": PLAIN_TEXT.replace(MARKER, marker)}).encode()


def _stream(events: Iterable[int], end: bytes = b"data: [DONE]\n\n") -> bytes:
    """Those of the events of the right answer."""
    words = [f"{MARKER} ", *re.findall(" [a-z]+|A", STREAM_TEXT.removeprefix(f"{MARKER} "))]
    assert len(words) == EVENTS
    return b"".join(b'data: {"content": "%s"}\n\n' % words[number].encode() for number in events) + end


@pytest.fixture
def wrong_server() -> Iterator[tuple[int, dict[str, web.Response]]]:
    """A server in a thread that gives the answer that a test puts in."""
    port, said = free_port(), {"answer": web.Response()}
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        answer = said["answer"]
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_post(PATH, handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(serve())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    yield port, said
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_a_right_answer_passes(programs: Programs, wrong_server: tuple[int, dict[str, web.Response]]) -> None:
    port, told = wrong_server
    for stream, body in ((False, _plain(MARKER)), (True, _stream(range(EVENTS)))):
        told["answer"] = web.Response(body=body)
        send(programs, ask(port, stream=stream), Load(1, 2, unique=False))


@pytest.mark.parametrize(
    ("answer", "stream", "said"),
    [
        (web.Response(body=b'{"content": "#0000000000000007"}'), False, "2 of 2 were wrong"),
        (web.Response(status=500, body=b"#0000000000000000"), False, "status 500"),
        (web.Response(body=_plain("#0000000000000007")), False, "2 of 2 were wrong"),
        (web.Response(body=_plain("#0000000000000000")[:-40] + b'"}'), False, "2 of 2 were wrong"),
        (web.Response(body=_stream(range(EVENTS), end=b"")), True, "2 of 2 were wrong"),
        (web.Response(body=_stream(range(EVENTS - 1))), True, "2 of 2 were wrong"),
    ],
    ids=["no answer", "an error", "another's", "the end is missing", "no [DONE]", "an event is missing"],
)
def test_a_wrong_answer_ends_the_bench(
    programs: Programs, wrong_server: tuple[int, dict[str, web.Response]], answer: web.Response, stream: bool, said: str
) -> None:
    port, told = wrong_server
    told["answer"] = answer
    with pytest.raises(BenchError, match=said):
        send(programs, ask(port, stream=stream), Load(1, 2, unique=False))


def samples() -> Result:
    """Two rounds of two gateways, one with its parts."""
    result = Result(versions={"allinone": "1", "mesh": "1"}, missing={"portkey": "no npm"})
    timing = {"requests": 10, "seconds": 1.0, "rps": 10.0, "p99_ms": 9.0, "ttfc_p50_ms": 1.0, "ttfc_p99_ms": 2.0}
    from tests.bench.gateway.programs import Timing

    for scenario in ("plain c=1", "plain c=16", "replay c=16", "stream c=16", "paced c=16"):
        result.add(DIRECT, scenario, Sample(Timing(p50_ms=1.0, **timing), {}))  # type: ignore[arg-type]
        for cpu_ms in (1.0, 3.0, 2.0):
            result.add("allinone", scenario, Sample(Timing(p50_ms=3.5, **timing), {"gateway": cpu_ms}))  # type: ignore[arg-type]
            parts = {"edge": cpu_ms, "ledger": 2 * cpu_ms, "postgresql": 100.0, "redis": 10.0}
            result.add("mesh", scenario, Sample(Timing(p50_ms=4.5, **timing), parts))  # type: ignore[arg-type]
    result.rss["mesh"] = {"edge": 100.0, "ledger": 90.5}
    result.soak["mesh"] = [(0, 180.0), (1_000, 190.5)]
    result.curves["mesh"] = [
        {"curve": "body", "size": size, "cpu_ms": size / 1_000, "rps": 50.0} for size in (1_000, 10_000)
    ]
    return result


def test_medians_and_what_is_added_are_told_in_the_last_line() -> None:
    line = samples().line("mesh")
    assert (line["fresh_cpu_ms"], line["replay_cpu_ms"]) == (6.0, 6.0), "the databases are apart"
    assert (line["added_p50_ms"], line["added_p99_ms"], line["rss_mib"]) == (3.5, 0.0, 190.5)
    assert samples().line("allinone")["rss_mib"] is None


def test_the_report_shows_what_the_last_line_says() -> None:
    result = samples()
    shown = page(result)
    assert "no npm" in shown
    assert not re.search(r"(?:src|href)=|https?://", shown), "it needs nothing else"
    assert shown.count("<svg") == 5
    assert "slope 1.00" in shown
    assert "<td>6<br><small>3 to 9</small>" in shown, "medians have their spread"
    assert re.search(r"fresh, CPU-ms +2 +6", table(result))
    assert re.search(r"largest service, MiB +- +100", table(result))


def test_costs_are_by_part_and_slopes_by_logarithms() -> None:
    assert spent({"edge": 1.0}, {"edge": 3.0, "new": 0.5}, 1_000) == {"edge": 2.0, "new": 0.5}
    assert slope([{"size": size, "cpu_ms": 5.0} for size in (1, 10, 100)]) == pytest.approx(0)
    with pytest.raises(BenchError, match="two points"):
        slope([{"size": 1, "cpu_ms": 1.0}])


def test_capacity_is_worked_out_from_the_costs() -> None:
    assert capacity.cores(1_000, 0.8) == 1
    assert capacity.cores(1_001, 0.8) == 2
    result = samples()
    result.made_by = "`make bench` (rounds 3, scale 1)"
    parts = {"gateway": 0.5, "worker": 1.2}
    result.curves["allinone"] = [{"curve": "edge processes", "size": 2, "cpu_ms": 1.7, "rps": 1.0, "parts": parts}]
    text = capacity.page(capacity.figures(json.loads(json.dumps(result.as_json()))))
    text = text.replace("\n", " ")
    assert "`make bench` (rounds 3, scale 1)," in text
    assert "| fresh, plain | 2.00 | 2.00 | 0.00 | 0.00 | 4.00 | 0.00 | 100.00 | 10.00 | 6.00 |" in text
    assert "| fresh, plain | 400 | 133 |" in text
    edges, ledgers = capacity.cores(42_891, 2.0), capacity.cores(42_891, 4.0)
    databases = capacity.cores(42_891, 100.0), capacity.cores(42_891, 10.0)
    needed = (edges, 0, 0, ledgers, 0, *databases)
    assert f"| fresh, plain | {' | '.join(map(str, needed))} | {sum(needed)} |" in text
    assert "the postgresql: at about 8 fresh requests" in text
    assert "what stays full: at about 200 fresh requests" in text
    assert "1.20 CPU-ms in a worker and 0.50 in the process" in text
    assert "with 3 workers or so" in text


def test_the_page_of_capacity_is_what_the_script_makes_of_its_figures() -> None:
    docs = Path(__file__).parents[2] / capacity.DOCS
    kept = json.loads((docs / "capacity.json").read_text(encoding="utf-8"))
    assert capacity.page(kept) == (docs / "capacity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["postgres: checkpointer "], "postgresql"),
        (["/opt/pginstall/bin/postgres", "-D", "/data"], "postgresql"),
        (["python", "-m", "tallygate_deploy.local_parts", "postgres", "/data/valkey"], "postgresql"),
        (["/opt/valkey-server *:0"], "redis"),
        (["python", "-m", "tallygate_deploy.local_parts", "valkey", "/data"], "redis"),
        (["python", "-m", "ledger_svc"], "ledger"),
        (["python", "-m", "edge"], "edge"),
        (["python", "-m", "tallygate_deploy.worker"], "worker"),
        (["python", "/bin/tallygate", "up", "--data", "/postgres"], "gateway"),
        ([], "gateway"),
    ],
)
def test_a_process_is_known_by_its_command_line(command: list[str], part: str) -> None:
    assert part_of(command) == part


def test_flame_graphs_stand_on_one_page_that_needs_nothing_else() -> None:
    shown = profile.page({"mesh: <plain>": b'<svg version="1.1" width="1200" height="640"><g/></svg>'})
    assert "mesh: &lt;plain&gt;" in shown
    assert "height=640" in shown
    assert not re.search(r"(?:src|href)=|https?://", shown)


def test_postgresql_is_found_though_it_leaves_the_family(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as root, subprocess.Popen(["postgres", "60"], executable="sleep") as server:
        try:
            (tmp_path / "postgres").mkdir()
            (tmp_path / "postgres" / "postmaster.pid").write_text(f"{server.pid}\n/data\n", encoding="utf-8")
            running = Running(0, PATH, {}, root.pid, data=tmp_path)
            assert running.processes() == {"gateway": [root.pid], "postgresql": [server.pid]}
        finally:
            root.kill()
            server.kill()
