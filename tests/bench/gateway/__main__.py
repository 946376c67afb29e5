"""How much a gateway costs: Tallygate with its ledger on, in both modes, beside others, in one run.

    python -m tests.bench.gateway [--quick] [--contenders allinone,mesh,litellm,portkey] [--rounds N] [--scale X]
                                  [--soak N] [--curves] [--receipts N]

Every gateway stands on one core, over a source in C that answers at once; the client, in C, stands on the other and
checks each answer: that it says what the source says to the request that it came for, to the end. Rounds go around
the gateways in turn. CPU-ms are those of a gateway's processes by /proc, databases apart. Writes result.json and
report.html to --out, prints a table, and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.gateway import curves
from tests.bench.gateway.contenders import MODEL, PACED_MODEL, Contender, Running, chosen
from tests.bench.gateway.programs import BenchError, Load, Programs, build, running_upstream, send
from tests.bench.gateway.report import page, table
from tests.bench.gateway.result import DIRECT, Result
from tests.bench.gateway.rounds import QUICK, Scenario, ask_of, measure, measure_direct, named, scenarios

HOME = Path(".make/bench")
ALL, ALL_QUICK = "allinone,mesh,litellm,portkey", "allinone,mesh,litellm"
SOAK_REQUESTS, SOAK_STEPS = 100_000, 10


def main() -> int:
    """Runs it."""
    arguments = _arguments()
    programs = build(HOME)
    target = "bench-quick" if arguments.quick else "bench"
    result = Result(made_by=f"`make {target}` (rounds {arguments.rounds}, scale {arguments.scale:g})")
    asked = named(scenarios(arguments.scale), QUICK if arguments.quick else [s.name for s in scenarios(1)])
    present = _present(chosen(arguments.contenders.split(","), HOME), result)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-bench-", ignore_cleanup_errors=True)))
        upstream_port = stack.enter_context(running_upstream(programs))
        running = {}
        for contender in present:
            _say(f"starting {contender.name} {contender.version}")
            started = contender.running(folder / contender.name, upstream_port)
            running[contender.name] = stack.enter_context(started)
        with result.timed("rounds"):
            for number in range(arguments.rounds):
                _round(number, programs, running, asked, upstream_port, result)
        with result.timed("soak"):
            for name, one in running.items():
                if arguments.soak and name in ("allinone", "mesh"):
                    result.soak[name] = _soak(programs, one, name, arguments.soak)
                result.rss[name] = one.rss_mib()
    _write(result, arguments.out)  # what there is so far, should a curve fail
    if arguments.curves:
        with result.timed("curves"):
            curves.measure(programs, result, scale=arguments.scale, receipts=arguments.receipts, say=_say)
        _write(result, arguments.out)
    _say("seconds: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in result.seconds.items()))
    print(table(result))
    print(f"\n{arguments.out / 'report.html'}")
    for name, why in result.missing.items():
        print(f"missing: {name}: {why}")
    print(json.dumps({name: result.line(name) for name in result.versions} | dict.fromkeys(result.missing)))
    return 0


def _write(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result.as_json(), indent=1), encoding="utf-8")
    (folder / "report.html").write_text(page(result), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="what the last line needs, and no Portkey")
    parser.add_argument("--contenders", help=f"default {ALL}; with --quick {ALL_QUICK}")
    parser.add_argument("--rounds", type=int, help="around all gateways; default 3; with --quick 2")
    parser.add_argument("--scale", type=float, help="times as many requests; default 1; with --quick 0.15")
    parser.add_argument(
        "--soak", type=int, help="requests over which memory is watched; default 100,000; 0 with --quick"
    )
    parser.add_argument("--curves", action=argparse.BooleanOptionalAction, help="cost against size; not with --quick")
    parser.add_argument("--receipts", type=int, help="the most in a ledger for its curve; default 1,000,000 x scale")
    parser.add_argument("--out", type=Path, default=HOME / "out", help="where result.json and report.html go")
    arguments = parser.parse_args()
    quick = arguments.quick
    defaults = {
        "contenders": ALL_QUICK if quick else ALL,
        "rounds": 2 if quick else 3,
        "scale": 0.15 if quick else 1.0,
        "soak": 0 if quick else SOAK_REQUESTS,
        "curves": not quick,
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.receipts is None:
        arguments.receipts = round(min(arguments.scale, 1.0) * max(curves.RECEIPTS))
    return arguments


def _present(contenders: list[Contender], result: Result) -> list[Contender]:
    """Those that can be measured here; the others are named as missing."""
    found = []
    for contender in contenders:
        if why := contender.missing():
            result.missing[contender.name] = why
        else:
            result.versions[contender.name] = contender.version
            found.append(contender)
    return found


def _round(
    number: int,
    programs: Programs,
    running: dict[str, Running],
    asked: list[Scenario],
    upstream_port: int,
    result: Result,
) -> None:
    for scenario in asked:
        if not scenario.replay:
            model = PACED_MODEL if scenario.paced else MODEL
            result.add(DIRECT, scenario.name, measure_direct(programs, upstream_port, scenario, model))
        for name, one in running.items():
            if scenario.replay and one.caching is None:
                continue
            sample = measure(programs, one, scenario, upstream_port)
            result.add(name, scenario.name, sample)
            timing = sample.timing
            _say(
                f"round {number + 1}  {scenario.name:<12} {name:<9} {sample.cpu_ms:7.3f} CPU-ms {timing.rps:8.0f}/s "
                f"p50 {timing.p50_ms:8.2f} p99 {timing.p99_ms:8.2f} ms"
            )


def _soak(programs: Programs, running: Running, name: str, requests: int) -> list[tuple[int, float]]:
    """Memory by requests served."""
    ask = ask_of(running, Scenario("plain", Load(16, 0)))
    seen = [(0, sum(running.rss_mib().values()))]
    for step in range(SOAK_STEPS):
        send(programs, ask, Load(16, requests // SOAK_STEPS))
        seen.append(((step + 1) * requests // SOAK_STEPS, sum(running.rss_mib().values())))
        _say(f"soak  {name:<9} {seen[-1][0]:>7} requests  {seen[-1][1]:.0f} MiB")
    return seen


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
