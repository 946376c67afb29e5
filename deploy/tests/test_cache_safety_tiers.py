"""The tiers under judgement, and `tallygate cache-safety`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from cache_svc.settings import CacheSettings
from cache_svc.wiring import SemanticMissing
from tallygate_deploy.cache_safety import published, runs, tiers
from tallygate_deploy.cache_safety.generate import generated_items
from tallygate_deploy.cache_safety.items import TRAP_CATEGORIES, Asked, Item
from tallygate_deploy.cache_safety.metrics import Score
from tallygate_deploy.cache_safety.options import Options
from tallygate_deploy.cli import app

REPEATS = ("repeat", "serialisation", "routing")


@pytest.fixture(scope="module")
def many() -> list[Item]:
    return [*generated_items(fillings=1), *published.published_items()]


@pytest.fixture(scope="module")
def some(many: list[Item]) -> list[Item]:
    return runs.evenly(many, 300)


def by_category(score: Score) -> dict[str, tuple[int, int, int]]:
    return {tally.category: (tally.safe, tally.bad, tally.n) for tally in score.tallies}


@pytest.fixture(scope="module")
def exact(many: list[Item]) -> Score:
    return asyncio.run(runs._judge_tier("exact", many, Options(0.01, 2_000_000)))


def test_the_exact_tier_falls_into_none_of_3000_traps_and_replays_what_is_the_same(exact: Score) -> None:
    found = by_category(exact)
    assert exact.traps >= 3_000
    assert (exact.bad, exact.trap_failures) == (0, 0)
    assert found.keys() >= TRAP_CATEGORIES
    for category in REPEATS:
        safe, _, n = found[category]
        assert safe == n > 0, category
    assert exact.evidence == (("exact tier", exact.safe),)
    assert exact.safe == sum(found[category][0] for category in REPEATS)


def test_the_canonical_tier_replays_more_within_half_a_percent(many: list[Item], exact: Score) -> None:
    score = asyncio.run(runs._judge_tier("canonical", many, Options(0.005, 2_000_000)))
    assert score.recall > 2 * exact.recall
    assert score.bad_hits.high <= 0.005
    assert score.within_budget
    assert score.saved_per_1k_nano_usd > 0
    signs = dict(score.evidence)
    assert signs["exact tier"] == exact.safe
    assert signs["canonical tier"] == score.safe + score.bad - exact.safe > 0
    assert f"of {signs['canonical tier']} were wrong" in score.notes[0]


class Mistaken(tiers.TierCache):
    """What a cache would be that forgets a part of the request."""

    forgets = ""

    async def _lookup(self, group, asked):  # type: ignore[no-untyped-def]
        body = json.loads(asked.body)
        if self.forgets == "tenant":
            asked = Asked(asked.body, "first", asked.max_age_s, asked.allow_sampled)
        elif self.forgets in body:
            del body[self.forgets]
            asked = Asked(json.dumps(body).encode(), asked.tenant, asked.max_age_s, asked.allow_sampled)
        return await super()._lookup(group, asked)

    async def _store(self, group, asked, ticket, answer):  # type: ignore[no-untyped-def]
        body = {name: value for name, value in json.loads(asked.body).items() if name != self.forgets}
        tenant = "first" if self.forgets == "tenant" else asked.tenant
        await super()._store(group, Asked(json.dumps(body).encode(), tenant), ticket, answer)


@pytest.mark.parametrize("forgets", ["tenant", "user", "seed", "tools"])
async def test_a_cache_that_forgets_something_is_caught_in_that_category(
    some: list[Item], forgets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TierCache", type("M", (Mistaken,), {"forgets": forgets}))
    few = [item for item in some if item.category in (forgets, "repeat", "number", "system_prompt", "model")]
    score = await runs._judge_tier("exact", few, Options(0.01, 2_000_000))
    assert {tally.category for tally in score.tallies if tally.bad} == {forgets}
    assert score.over_budget


async def test_the_semantic_tier_is_measured_on_what_it_has_not_learnt_from_or_refuses(some: list[Item]) -> None:
    score = await runs._judge_tier("semantic", some, Options(0.01, 2_000_000))
    assert 0 < score.n < len(some)
    assert score.bad_replays.observed <= 0.01
    assert f"measured on the other {score.n}" in score.notes[0]
    by_meaning = dict(score.evidence).get("semantic tier", 0)
    assert bool(score.refusal) == (by_meaning == 0)


async def test_a_tier_that_is_not_installed_says_so(some: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(settings: CacheSettings) -> NoReturn:
        raise SemanticMissing("wordllama is not installed")

    monkeypatch.setattr(runs, "cache_service", missing)
    score = await runs._judge_tier("semantic", some, Options(0.01, 2_000_000))
    assert (score.n, score.refusal) == (0, "wordllama is not installed")
    assert score.line()["refused"] == "wordllama is not installed"
    assert score.saved_per_1k_nano_usd == 0


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cache-safety", *map(str, arguments)])
    return result.exit_code, result.output


ITEM = {"category": "mine", "label": "trap", "old_request": "a", "old_answer": "A", "new_request": "b"}


def test_the_command_judges_a_file_and_writes_the_report(tmp_path: Path) -> None:
    data, page = tmp_path / "d.jsonl", tmp_path / "out.html"
    data.write_text(f"{json.dumps(ITEM)}\n{json.dumps({**ITEM, 'label': 'reusable', 'new_request': 'a'})}\n")
    code, output = run(data, "--tier", "exact", "--report", page)
    assert code == 0, output
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [(line["tier"], line["n"], line["safe_hit_rate"], line["saved_per_1k_usd"]) for line in lines] == [
        ("exact", 2, 0.5, 0.0)
    ]
    assert "up to 97.500% of its replays may be wrong" in output
    assert "fow-cache" not in output
    assert "mine" in page.read_text()


def test_without_a_file_the_attribution_of_the_data_is_shown(tmp_path: Path) -> None:
    code, output = run("--tier", "exact", "--limit", "40", "--report", tmp_path / "out.html")
    assert code == 0, output
    assert published.ATTRIBUTION in output
    assert "Mabon ap Gwyn" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tier", "psychic"), "--tier is 'psychic', not one of exact, canonical, semantic"),
        (("--against", "http://127.0.0.1:1/v1"), "give it with --model"),
        (("--against", "http://127.0.0.1:1/v1", "--model", "m", "--tier", "exact"), "give one of them"),
        (("--against", "http://127.0.0.1:1/v1", "--model", "m"), "http://127.0.0.1:1/v1: ConnectError"),
        (("--against", "http://127.0.0.1:1/v1", "--model", "m", "--header", "x"), "--header is 'x', not NAME:VALUE"),
        (("--cost-usd", "cheap"), "--cost-usd"),
        (("--cost-usd", "-1"), "an answer costs nothing or more"),
    ],
)
def test_what_can_not_be_done_is_said_and_ends_with_2(arguments: tuple[str, ...], said: str) -> None:
    code, output = run(*arguments)
    assert (code, said in output) == (2, True), output


def test_a_broken_line_of_a_file_ends_with_2_and_its_place(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(f"{json.dumps(ITEM)}\n{{}}\n")
    code, output = run(data)
    assert code == 2
    assert f"{data}:2: category and label" in output


def test_a_report_that_can_not_be_written_loses_no_result(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps(ITEM))
    code, output = run(data, "--tier", "exact", "--report", tmp_path / "no" / "out.html")
    assert code == 2
    assert '{"tier": "exact", "n": 1' in output
    assert "No such file" in output


def test_what_the_cache_takes_for_no_request_is_left_out_and_said(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    beyond = {"messages": [{"role": "user", "content": "b"}], "seed": 2**53 + 1}
    data.write_text(f"{json.dumps(ITEM)}\n{json.dumps({**ITEM, 'new_request': beyond})}\n")
    code, output = run(data)
    assert code == 0, output
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [line["n"] for line in lines][:2] == [1, 1]
    assert "exact: 1 items not judged: the cache refuses their request: " in output


def test_a_tier_that_replays_wrong_answers_ends_with_1(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    # A trap that is none: the same request again, with another answer that is said to be the right one.
    data.write_text(json.dumps({**ITEM, "new_request": "a", "new_answer": "B"}))
    code, output = run(data, "--tier", "exact")
    assert code == 1, output
    assert "counted as 0: 1 of 1 replays were wrong" in output
