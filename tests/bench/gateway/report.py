"""A run as a table, and as one HTML page that needs nothing else: bars with their spread, curves, memory."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

from tests.bench.gateway.curves import slope
from tests.bench.gateway.result import DIRECT, TIMINGS, Result, cpu_ms
from tests.bench.gateway.rounds import Sample, Samples

_ROWS = (
    ("fresh, CPU-ms", "fresh_cpu_ms"),
    ("replay, CPU-ms", "replay_cpu_ms"),
    ("stream of 23 events, CPU-ms", "stream_cpu_ms"),
    ("added p50 at c=1, ms", "added_p50_ms"),
    ("added p99 at c=1, ms", "added_p99_ms"),
    ("added time to first text p50 at c=16, ms", "added_ttfc_p50_ms"),
    ("fresh at c=16, requests/s", "rps_c16"),
    ("resident memory, MiB", "rss_mib"),
    ("of it the largest service, MiB", "largest_mib"),
)
_BARS = (
    ("CPU-ms for a fresh answer, 16 connections", "plain c=16"),
    ("CPU-ms for a replay, 16 connections", "replay c=16"),
    ("CPU-ms for a stream of 23 events, 16 connections", "stream c=16"),
)
_COLOURS = ("#0b6e4f", "#3a86c8", "#c8553d", "#8a6fb0", "#8d8d8d")
_WIDTH, _BAR, _LEFT, _RIGHT = 760, 30, 110, 90


def table(result: Result) -> str:
    """The numbers of the last line, for people."""
    names = list(result.versions)
    lines = {name: result.figures(name) for name in names}
    width = max(len(title) for title, _ in _ROWS)
    rows = [" " * width + "".join(f"{name:>12}" for name in names)]
    for title, field in _ROWS:
        rows.append(f"{title:<{width}}" + "".join(f"{_number(lines[name][field]):>12}" for name in names))
    return "\n".join(rows)


def page(result: Result) -> str:
    """The page."""
    parts = [f"<h1>What a gateway costs</h1><p>{_introduction(result)}</p>", _summary(result)]
    for title, scenario in _BARS:
        parts.append(_bars(title, {name: result.of(name, scenario) for name in result.versions}))
    parts.append("<h2>Every scenario</h2>" + _everything(result))
    for contender, points in result.curves.items():
        for curve in sorted({point["curve"] for point in points}):
            of_curve = [point for point in points if point["curve"] == curve]
            parts.append(_curve(f"{contender}: CPU-ms against {curve}", of_curve))
    if result.soak:
        parts.append(_memory(result))
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>What a gateway costs</title>{_STYLE}"
    return f"{head}<main>{''.join(parts)}</main></html>\n"


_STYLE = """<style>
:root{color-scheme:light dark;--ink:#1c1c1c;--paper:#fff;--faint:#d8d8d8}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--faint:#444}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}
main{max-width:820px;margin:0 auto;padding:24px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:13px}
td,th{padding:4px 8px;border-bottom:1px solid var(--faint);text-align:right}
td:first-child,th:first-child{text-align:left}
svg{display:block;max-width:100%;height:auto}svg text{fill:currentColor;font-size:12px}
h2{margin-top:32px;font-size:17px}
</style>"""


def _introduction(result: Result) -> str:
    versions = ", ".join(f"{name} ({version})" for name, version in result.versions.items())
    missing = "".join(f" Missing: {name}, {why}." for name, why in result.missing.items())
    text = (
        f"{versions}. Each on one core, over a source that answers at once, with a body of 887 bytes; Tallygate with "
        f"its ledger on, the others keep none. Bars are medians of rounds, whiskers the least and the most.{missing}"
    )
    return html.escape(text)


def _summary(result: Result) -> str:
    names = list(result.versions)
    lines = {name: result.figures(name) for name in names}
    head = "".join(f"<th>{html.escape(name)}" for name in names)
    rows = "".join(
        f"<tr><td>{title}" + "".join(f"<td>{_number(lines[name][field])}" for name in names) for title, field in _ROWS
    )
    return f"<table><tr><th>{head}{rows}</table>"


def _everything(result: Result) -> str:
    rows = ["<tr><th>scenario<th>gateway<th>CPU-ms<th>requests/s<th>p50 ms<th>p99 ms<th>first text p50 ms"]
    for scenario in dict.fromkeys(name for kept in result.samples.values() for name in kept):
        for name in (DIRECT, *result.versions):
            kept = result.of(name, scenario)
            if kept.taken:
                measured = (cpu_ms, *(TIMINGS[value] for value in ("rps", "p50_ms", "p99_ms", "ttfc_p50_ms")))
                cells = "".join(f"<td>{_with_spread(kept, value)}" for value in measured)
                rows.append(f"<tr><td>{scenario}<td>{html.escape(name)}{cells}")
    return f"<table>{''.join(rows)}</table>"


def _with_spread(kept: Samples, value: Callable[[Sample], float | None]) -> str:
    """The median of the rounds, and under it the least and the most."""
    found = kept.values(value)
    spread = f"<br><small>{_number(min(found))} to {_number(max(found))}</small>" if len(found) > 1 else ""
    return f"{_number(kept.median(value))}{spread}"


def _bars(title: str, by_name: dict[str, Samples]) -> str:
    shown = {name: kept.values(cpu_ms) for name, kept in by_name.items() if kept.values(cpu_ms)}
    if not shown:
        return ""
    most = max(max(values) for values in shown.values())
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    drawn = []
    for row, (name, values) in enumerate(shown.items()):
        median = by_name[name].median(cpu_ms) or 0.0
        y = row * _BAR + 6
        end = _LEFT + median * scale
        low, high = _LEFT + min(values) * scale, _LEFT + max(values) * scale
        middle = y + _BAR / 2 - 5
        drawn.append(
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, median * scale):.1f}" height="{_BAR - 10}" '
            f'fill="{_COLOURS[row % 5]}"/>'
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8" '
            f'stroke="currentColor"/>'
            f'<text x="{max(end, high) + 6:.1f}" y="{y + 14}">{_number(median)}</text>'
        )
    return f"<h2>{html.escape(title)}</h2>" + _svg(len(shown) * _BAR + 8, title, "".join(drawn))


def _curve(title: str, points: list[dict[str, float]]) -> str:
    if len(points) < 2:
        return ""
    xs = [math.log10(point["size"]) for point in points]
    ys = [math.log10(max(point["cpu_ms"], 1e-3)) for point in points]
    low, high = math.floor(min(ys)), math.ceil(max(ys) + 1e-9)
    height = 220

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0]) * (_WIDTH - _LEFT - _RIGHT) + _LEFT
        return across, (high - y) / max(1, high - low) * (height - 76) + 20

    places = [at(x, y) for x, y in zip(xs, ys, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [f'<polyline points="{line}" fill="none" stroke="{_COLOURS[0]}" stroke-width="2"/>']
    for (x, y), point in zip(places, points, strict=True):
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[0]}"/>'
            f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{_number(point["cpu_ms"])}</text>'
            f'<text x="{x:.1f}" y="{height - 28}" text-anchor="middle">{point["size"]:,}</text>'
            f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" opacity=".7">{_number(point["rps"])}/s</text>'
        )
    heading = f"{title} (slope {slope(points):.2f} on logarithmic axes)"
    return f"<h2>{html.escape(heading)}</h2>" + _svg(height, heading, "".join(drawn))


def _memory(result: Result) -> str:
    height, most = 220, max(mib for points in result.soak.values() for _, mib in points)
    drawn = []
    for row, (name, points) in enumerate(result.soak.items()):
        last = points[-1][0]
        places = [
            (_LEFT + served / last * (_WIDTH - _LEFT - _RIGHT), height - 40 - mib / most * (height - 70))
            for served, mib in points
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(
            f'<polyline points="{line}" fill="none" stroke="{_COLOURS[row % 5]}" stroke-width="2"/>'
            f'<text x="{places[-1][0] + 6:.1f}" y="{places[-1][1]:.1f}">{html.escape(name)} {points[-1][1]:.0f}</text>'
        )
    served = max(points[-1][0] for points in result.soak.values())
    drawn.append(f'<text x="{_WIDTH - _RIGHT}" y="{height - 12}" text-anchor="end">{served:,} requests</text>')
    return "<h2>Resident memory, MiB, by requests served</h2>" + _svg(height, "Resident memory", "".join(drawn))


def _svg(height: float, title: str, inside: str) -> str:
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{inside}</svg>'


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
