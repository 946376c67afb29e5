"""The page: a verdict for each tier, the charts, the failures, and every number in a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from meshkit.money import NANO_PER_USD
from tallygate_deploy.cache_safety.items import Family
from tallygate_deploy.cache_safety.metrics import Score
from tallygate_deploy.cache_safety.report import charts
from tallygate_deploy.cache_safety.report.style import STYLE
from tallygate_deploy.cache_safety.telling import why_saved

_NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'"


def page(scores: Sequence[Score], attribution: str) -> str:
    """The whole file."""
    body = [
        "<header><h1>CacheSafety Bench</h1>",
        f"<p>How often a cached answer is replayed where it may be, and where it must not. Budget: at most "
        f"{scores[0].budget:.2%} of the replays wrong.</p></header>",
        f'<section class="cards">{"".join(map(_card, scores))}</section>',
        _section("Is it within the budget?", _INTERVALS_SAY, charts.intervals(scores)),
        _section("What became of the items", "", _legend(), charts.stacked(scores)),
        _section("Which traps did it fall into?", "", charts.heat_map(scores)),
        _failures(scores),
        _section("All numbers", "", _table(scores)),
        _notes(scores),
        f"<footer>{escape(attribution)}</footer>" if attribution else "",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>CacheSafety Bench</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_NO_REQUESTS}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


_INTERVALS_SAY = (
    "A dot is what was observed, a line its exact 95% interval. A tier is trusted, and its savings are counted, "
    "where both lines end left of the budget."
)


def _card(score: Score) -> str:
    verdict, name = _verdict(score)
    figures = (
        ("right replays", f"{score.safe_hit_rate:.1%}"),
        ("recall", f"{score.recall:.1%}"),
        ("wrong replays", f"{score.bad} of {score.safe + score.bad}"),
        ("items", f"{score.n}, {score.traps} traps"),
    )
    said = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures)
    why = f"It refuses: {score.refusal}." if score.refusal else _sentence(score)
    return (
        f'<article class="card {name}" data-tier="{escape(score.tier)}"><h2>{escape(score.tier)}</h2>'
        f'<p class="verdict">{verdict}</p>'
        f'<p class="saved"><strong>${_dollars(score)}</strong> saved per 1,000 requests</p>'
        f"<dl>{said}</dl><p>{escape(why)}</p></article>"
    )


def _verdict(score: Score) -> tuple[str, str]:
    if score.refusal:
        return "&#9675; refuses", "unproven"
    if score.within_budget:
        return "&#10003; within the budget", "within"
    return ("&#10007; over the budget", "over") if score.over_budget else ("? not proven", "unproven")


def _sentence(score: Score) -> str:
    said = why_saved(score)
    return f"{said[0].upper()}{said[1:]}."


def _dollars(score: Score) -> str:
    return f"{score.saved_per_1k_nano_usd / NANO_PER_USD:.4f}"


def _section(title: str, said: str, *parts: str) -> str:
    paragraph = f"<p>{said}</p>" if said else ""
    return f"<section><h2>{title}</h2>{paragraph}{''.join(parts)}</section>"


def _legend() -> str:
    keys = "".join(f'<li><i class="key {end.value}"></i>{name}</li>' for end, name in charts.ENDS.items())
    return f'<ul class="legend">{keys}</ul>'


def _failures(scores: Sequence[Score]) -> str:
    rows = [
        f"<tr><td>{escape(score.tier)}</td><td>{escape(one.item.category)}</td>"
        f"<td>{escape(one.item.old.last_text())}</td><td>{escape(one.item.new.last_text())}</td>"
        f"<td>{escape(one.item.difference())}</td></tr>"
        for score in scores
        for one in score.failures
    ]
    if not rows:
        return _section("Wrong replays", "There were none.")
    head = "<tr><th>tier</th><th>category</th><th>answered before</th>"
    head += "<th>asked now, and given that answer</th><th>differs in</th></tr>"
    return _section("Wrong replays", "Some of them:", f'<table class="failures">{head}{"".join(rows)}</table>')


def _table(scores: Sequence[Score]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("tier", "category", "differs in", "items", "right", "wrong", "missed", "held")
    )
    rows = "".join(
        f"<tr><td>{escape(score.tier)}</td><td>{escape(tally.category)}</td>"
        f"<td>{tally.family.value if tally.family is not Family.REUSABLE else 'nothing that matters'}</td>"
        + "".join(f"<td>{count}</td>" for count in (tally.n, tally.safe, tally.bad, tally.missed, tally.held))
        + "</tr>"
        for score in scores
        for tally in score.tallies
    )
    table = f'<table class="numbers"><tr>{head}</tr>{rows}</table>'
    return f"<details><summary>By tier and category</summary>{table}</details>"


def _notes(scores: Sequence[Score]) -> str:
    notes = [f"<li>{escape(f'{score.tier}: {note}')}</li>" for score in scores for note in score.notes]
    notes += [
        f"<li>{escape(f'{score.tier}: {count} replays told by {sign}')}</li>"
        for score in scores
        for sign, count in score.evidence
    ]
    return _section("How it was judged", "", f"<ul>{''.join(notes)}</ul>") if notes else ""
