"""Scores: rates, intervals, savings; the page and the tables that show them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tallygate_deploy.cache_safety import report, telling
from tallygate_deploy.cache_safety.items import Asked, Family, Item, Label
from tallygate_deploy.cache_safety.metrics import Judged, Outcome, Pricing, Score, clopper_pearson, score
from tallygate_deploy.cache_safety.reading import chat_body

PRICING = Pricing(default_cost_nano_usd=2_000_000, replay_bps=2_500)


def judged(category: str, outcome: Outcome, count: int, *, cost: int | None = None) -> list[Judged]:
    label = Label.REUSABLE if outcome in (Outcome.SAFE, Outcome.MISSED) else Label.TRAP
    old, new = Asked(chat_body("old <b>text</b>")), Asked(chat_body("new & text"))
    item = Item(f"{category}-{outcome}", category, label, old, "old answer", new, cost_nano_usd=cost)
    return [Judged(item, outcome, "exact tier" if outcome in (Outcome.SAFE, Outcome.BAD) else "")] * count


def scored(safe: int, bad: int, missed: int, held: int, *, tier: str = "exact", budget: float = 0.01) -> Score:
    ends = [
        *judged("repeat", Outcome.SAFE, safe),
        *judged("number", Outcome.BAD, bad),
        *judged("paraphrase", Outcome.MISSED, missed),
        *judged("tenant", Outcome.HELD, held),
    ]
    return score(tier, ends, budget=budget, pricing=PRICING, notes=["a <note>"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3_000), st.integers(1, 3_000))
def test_intervals_are_those_of_clopper_and_pearson(count: int, total: int) -> None:
    count = min(count, total)
    found = clopper_pearson(count, total)
    oracle = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert found.low == pytest.approx(oracle.low, abs=1e-9)
    assert found.high == pytest.approx(oracle.high, abs=1e-9)
    assert found.low <= found.observed <= found.high


def test_of_nothing_a_share_can_be_anything() -> None:
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high, clopper_pearson(0, 0).observed) == (0.0, 1.0, 0.0)


def test_rates() -> None:
    it = scored(30, 10, 20, 40)
    assert (it.n, it.traps, it.reusable, it.safe, it.bad) == (100, 50, 50, 30, 10)
    assert (it.safe_hit_rate, it.recall) == (0.3, 0.6)
    assert (it.bad_hits.observed, it.bad_replays.observed) == (0.1, 0.25)
    assert (it.trap_failures, it.failures_of(Family.MEANING), it.failures_of(Family.OWNER)) == (10, 10, 0)


def test_the_line_of_json() -> None:
    line = scored(1_000, 0, 0, 3_000).line()
    assert list(line) == [
        "tier", "n", "safe_hit_rate", "bad_hit_rate", "bad_hit_upper95", "trap_failures", "saved_per_1k_usd",
    ]  # fmt: skip
    assert (line["tier"], line["n"], line["safe_hit_rate"], line["bad_hit_rate"]) == ("exact", 4_000, 0.25, 0.0)
    assert line["bad_hit_upper95"] == pytest.approx(1 - 0.025 ** (1 / 4_000), abs=1e-6)
    # 250 of 1,000 are replayed at a quarter of $0.002.
    assert line["saved_per_1k_usd"] == 0.375
    assert "refused" not in line


def test_savings_are_of_what_an_item_says_it_cost() -> None:
    ends = [*judged("repeat", Outcome.SAFE, 1_000, cost=8_000_000), *judged("tenant", Outcome.HELD, 1_000)]
    assert score("exact", ends, budget=0.01, pricing=PRICING).saved_per_1k_nano_usd == 3_000_000_000


@pytest.mark.parametrize(
    ("safe", "bad", "within", "over"),
    [
        (1_000, 0, True, False),
        (300, 0, False, False),  # up to 1.2% may be wrong
        (368, 0, True, False),  # the least that proves 1%
        (367, 0, False, False),
        (1_000, 5, False, False),  # 0.5% were, up to 1.2% may be
        (1_000, 20, False, True),
        (0, 0, False, False),
    ],
)
def test_nothing_is_saved_unless_the_upper_bound_is_within_the_budget(
    safe: int, bad: int, within: bool, over: bool
) -> None:
    # However many traps there were that nothing was replayed for, they make no wrong replay better.
    it = scored(safe, bad, 10, 8_000)
    assert (it.within_budget, it.over_budget) == (within, over)
    assert (it.saved_per_1k_nano_usd > 0) == within
    assert it.bad_hits.high < 0.01


class Page(HTMLParser):
    """What a page has in its elements' attributes, and as text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, *names: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.elements if all(name in attrs for name in names)]


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return [scored(1_000, 0, 300, 3_000), scored(900, 30, 400, 2_970, tier="<canonical>")]


@pytest.fixture(scope="module")
def page(scores: list[Score]) -> Page:
    return Page(report.page(scores, "data by A & B"))


def test_the_charts_have_the_numbers_of_the_scores(page: Page, scores: list[Score]) -> None:
    assert not page.open
    for it in scores:
        pieces = [p for p in page.having("data-end") if p["data-tier"] == it.tier]
        for tally in it.tallies:
            drawn = {p["data-end"]: int(p["data-count"]) for p in pieces if p["data-category"] == tally.category}
            said = {end.value: getattr(tally, end.value) for end in Outcome}
            assert drawn == {end: count for end, count in said.items() if count}
        cells = {p["data-category"]: p for p in page.having("data-failures") if p["data-tier"] == it.tier}
        traps = {tally.category: tally for tally in it.tallies if tally.family is not Family.REUSABLE}
        assert {name: (int(c["data-failures"]), int(c["data-traps"])) for name, c in cells.items()} == {
            name: (tally.bad, tally.n) for name, tally in traps.items()
        }
        whiskers = {p["data-rate"]: p for p in page.having("data-high") if p["data-tier"] == it.tier}
        for name, interval in (("of replays", it.bad_replays), ("of requests", it.bad_hits)):
            assert float(whiskers[name]["data-low"]) == pytest.approx(interval.low, abs=1e-6)
            assert float(whiskers[name]["data-observed"]) == pytest.approx(interval.observed, abs=1e-6)
            assert float(whiskers[name]["data-high"]) == pytest.approx(interval.high, abs=1e-6)
            assert whiskers[name]["class"] == ("over" if interval.high > it.budget else "within")


def test_bars_are_as_long_as_their_share(page: Page, scores: list[Score]) -> None:
    pieces = [p for p in page.having("data-end") if p["data-tier"] == scores[0].tier]
    whole = {float(p["width"]) for p in pieces}
    assert len(whole) == 1  # in each category of this score there is one end
    (mixed,) = [p for p in page.having("data-end") if p["data-end"] == "bad"]
    assert float(mixed["width"]) == pytest.approx(whole.pop(), abs=0.1)


def test_the_page_asks_for_nothing_and_escapes_what_it_shows(page: Page) -> None:
    assert not [attrs for _, attrs in page.elements if {"src", "href", "srcset", "data", "action"} & attrs.keys()]
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "url(http" not in page.text
    assert "@import" not in page.text
    (policy,) = [attrs for attrs in page.having("http-equiv") if attrs["http-equiv"] == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")
    for said in ("<canonical>", "a <note>", "messages", "old <b>text</b>", "new & text", "data by A & B"):
        assert said in page.text
    assert not [tag for tag, _ in page.elements if tag in {"b", "canonical", "note"}]


def test_each_chart_has_a_title_and_a_description(page: Page) -> None:
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert {attrs["id"] for attrs in drawings} == {"intervals", "by-category", "trap-map"}
    named = {attrs.get("id") for tag, attrs in page.elements if tag in {"title", "desc"}}
    for attrs in drawings:
        assert attrs["role"] == "img"
        assert set(attrs["aria-labelledby"].split()) <= named


def test_the_verdicts(page: Page, scores: list[Score]) -> None:
    cards = {attrs["data-tier"]: attrs["class"] for tag, attrs in page.elements if tag == "article"}
    assert cards == {"exact": "card within", "<canonical>": "card over"}
    assert re.search(r"30 of 930", page.text)


def test_what_is_told_ends_with_one_line_of_json_each(capsys: pytest.CaptureFixture[str], scores: list[Score]) -> None:
    telling.tell(scores, "data by A & B")
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [json.loads(line) for line in lines[-2:]] == [it.line() for it in scores]
    assert "data by A & B" in out
    assert "counted as 0: 30 of 930 replays were wrong, over the budget of 1.00%" in out
    assert "30 of 30" in out


def test_failures_are_shown_from_all_categories() -> None:
    ends = [*judged("number", Outcome.BAD, 500), *judged("tenant", Outcome.BAD, 1), *judged("unit", Outcome.BAD, 1)]
    it = score("exact", ends, budget=0.01, pricing=PRICING)
    assert {one.item.category for one in it.failures} == {"number", "tenant", "unit"}
    assert len(it.failures) <= 24
