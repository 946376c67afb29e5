"""The bench over HTTP: a right cache passes, and each broken one is caught, in the category that it is broken in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from broken_caches import Gateway, in_small_letters, serving, without_temperature, without_tenant
from yarl import URL

from tallygate_deploy.cache_safety import runs
from tallygate_deploy.cache_safety.against.endpoint import EndpointError
from tallygate_deploy.cache_safety.against.evidence import Reply, replay_signs
from tallygate_deploy.cache_safety.generate import generated_items
from tallygate_deploy.cache_safety.items import TRAP_CATEGORIES, Item, Label
from tallygate_deploy.cache_safety.metrics import Score
from tallygate_deploy.cache_safety.options import Options, Target

ITEMS = generated_items(fillings=1)
SOME = runs.evenly(ITEMS, 70)
"""A few of each category."""
BROKEN = {
    "drops temperature from the key": (Gateway(key=without_temperature), {"temperature"}),
    "one cache for all tenants": (Gateway(key=without_tenant), {"tenant"}),
    "one cache for all tenants, that says so": (Gateway(key=without_tenant, says={"X-Cache": "HIT"}), {"tenant"}),
}


async def judged(gateway: Gateway, items: list[Item], **target: Any) -> Score:
    async with serving(gateway) as url:
        known = Target(url, api_key="one", model="m", other_api_key="two", other_model="n", at_once=8)
        return await runs._judge_endpoint(replace(known, **target), items, Options(0.01, 2_000_000))


def failing(score: Score) -> set[str]:
    return {tally.category for tally in score.tallies if tally.bad}


@pytest.mark.parametrize("says", [{}, {"X-Served-Mode": "exact"}, {"Cache-Status": 'bench; key="a, hit"; hit'}])
async def test_a_right_cache_falls_into_no_trap_and_replays_repeats(says: dict[str, str]) -> None:
    score = await judged(Gateway(says=says), SOME)
    assert (score.bad, failing(score)) == (0, set())
    assert {tally.category for tally in score.tallies if tally.family.value != "reusable"} == TRAP_CATEGORIES
    repeats = {tally.category: tally for tally in score.tallies}
    for category in ("repeat", "serialisation", "routing"):
        assert repeats[category].safe == repeats[category].n > 0, category
    assert score.safe == sum(repeats[category].n for category in ("repeat", "serialisation", "routing"))


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_cache_is_caught_where_it_is_broken(name: str) -> None:
    gateway, categories = BROKEN[name]
    score = await judged(gateway, SOME)
    assert failing(score) == categories
    assert score.over_budget
    assert (score.saved_per_1k_nano_usd, score.trap_failures) == (0, score.bad)


async def test_a_normal_form_that_goes_too_far_is_caught_by_identifiers_and_units() -> None:
    items = [item for item in ITEMS if item.category in ("identifier", "unit", "number", "repeat")]
    score = await judged(Gateway(key=in_small_letters), items)
    assert failing(score) == {"identifier", "unit"}
    assert 0 < score.bad < sum(tally.n for tally in score.tallies if tally.bad)


async def test_a_cache_by_likeness_alone_is_caught_in_every_family() -> None:
    # One prompt, so that the one answer that is kept is the one that is replayed.
    items = [item for item in ITEMS if item.id.startswith("generated/05-0/") and "ellipsis" not in item.category]
    items = [item for item in items if item.old == items[0].old]
    score = await judged(Gateway(cosine=True, says={"x-portkey-cache-status": "SEMANTIC HIT"}), items)
    assert failing(score) >= {"number", "system_prompt", "seed", "temperature", "model", "tenant", "user", "tools"}
    assert score.recall > 0.5
    assert dict(score.evidence)["x-portkey-cache-status"] == score.safe + score.bad


async def test_what_was_not_given_is_left_out_and_said() -> None:
    gateway = Gateway()
    score = await judged(gateway, SOME, other_api_key="", other_model="")
    left_out = {tally.category for tally in score.tallies}
    assert not left_out & {"tenant", "model"}
    assert [note for note in score.notes if "--other-api-key" in note]
    assert [note for note in score.notes if "--other-model" in note]
    assert {body["model"] for _, body in gateway.seen} == {"m"}


async def test_what_the_endpoint_refuses_is_left_out_and_said() -> None:
    parameters = [item for item in ITEMS if item.category == "parameters"]
    refused = [item for item in parameters if b"logit_bias" in item.new.body]
    score = await judged(Gateway(), parameters)
    assert (score.n, score.bad) == (len(parameters) - len(refused), 0)
    (note,) = score.notes
    assert note.startswith(f"{len(refused)} items not judged: HTTP 400: ")
    assert "logit_bias is not supported" in note


async def test_a_lost_connection_costs_its_item_only() -> None:
    few = [item for item in ITEMS if item.category in ("seed", "repeat")][:40]
    lost = [item for item in few if b'"seed":3' in item.old.body or b'"seed":3' in item.new.body]
    score = await judged(Gateway(drops_seed=3), few)
    assert (score.n, score.bad) == (len(few) - len(lost), 0)
    assert lost
    assert "Error" in score.notes[0]


async def test_a_rate_limit_is_waited_for() -> None:
    few = [item for item in SOME if item.category in ("repeat", "seed", "number")]
    limited, free = await judged(Gateway(limited_every=3), few), await judged(Gateway(), few)
    assert (limited.n, limited.safe, limited.bad, limited.notes) == (free.n, free.safe, free.bad, ())


async def test_signs_that_stand_on_fresh_answers_are_no_signs() -> None:
    gateway = Gateway(constant=True, always={"Age": "3"})
    score = await judged(gateway, SOME)
    assert (score.bad, score.safe) == (0, 0)
    for sign in ("age", "same id", "same created and content", "same content"):
        assert f"{sign!r} is no sign here: it stands on answers that can't be replays" in score.notes


async def test_an_endpoint_that_was_asked_before_does_not_answer_for_this_run() -> None:
    gateway = Gateway(key=without_tenant)
    first = await judged(gateway, SOME)
    requests = gateway.requests
    second = await judged(gateway, SOME)
    assert (first.n, first.safe, first.bad) == (second.n, second.safe, second.bad)
    assert gateway.requests == 2 * requests


async def test_nobody_there_or_no_such_key_is_an_error_that_says_so() -> None:
    async with serving(Gateway()) as url:
        gone, wrong = url, str(URL(url) / "nothing")
        options = Options(0.01, 0, target=Target(wrong, model="m"))
        with pytest.raises(EndpointError, match="404"):
            await runs._judge_endpoint(Target(wrong, model="m"), SOME, options)
    with pytest.raises(EndpointError, match="ConnectError"):
        await runs._judge_endpoint(Target(gone, model="m"), SOME, options)


def reply(headers: dict[str, str] | None = None, **changes: object) -> Reply:
    fields = {"id": "a", "created_s": 100, "content": "x" * 80, "sent_at_s": 200.0, **changes}
    return Reply(headers or {}, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "sign"),
    [
        ({"x-served-mode": "semantic"}, "X-Served-Mode"),
        ({"x-served-mode": "fresh"}, None),
        ({"cache-status": "Tallygate; hit; detail=exact"}, "Cache-Status"),
        ({"cache-status": "Tallygate; fwd=miss, CDN; hit"}, "Cache-Status"),
        ({"cache-status": 'Tallygate; fwd=miss; key="; hit"'}, None),
        ({"x-litellm-cache-key": "abc"}, "x-litellm-cache-key"),
        ({"x-portkey-cache-status": "SEMANTIC HIT"}, "x-portkey-cache-status"),
        ({"x-portkey-cache-status": "MISS"}, None),
        ({"x-cache": "Hit from cloudfront"}, "x-cache"),
        ({"x-cache": "MISS, MISS"}, None),
        ({"age": "12"}, "age"),
        ({}, None),
    ],
)
def test_headers_that_tell_a_replay(headers: dict[str, str], sign: str | None) -> None:
    assert list(replay_signs(None, reply(headers), content_differs=True)) == ([sign] if sign else [])


@pytest.mark.parametrize(
    ("old", "new", "content_differs", "signs"),
    [
        ({}, {}, False, ["same id", "same created and content"]),
        ({}, {"id": "b", "created_s": 150}, True, ["same content"]),
        ({}, {"id": "b", "created_s": 150}, False, []),  # the same question may be answered alike
        ({}, {"id": "b", "content": "y" * 80}, True, []),  # made in the same second
        ({}, {"id": "b", "sent_at_s": 101.0}, False, []),  # sent in the second in which the old one was made
        ({"content": "42"}, {"id": "b", "content": "42", "created_s": 150}, True, []),  # short answers recur
        ({"id": ""}, {"id": "", "created_s": 0}, False, []),
        (
            {},
            {"headers": {"x-served-mode": "fresh"}},
            True,
            ["same id"],
        ),  # and nothing else, where a cache says "fresh"
        ({}, {"headers": {"cache-status": "T; fwd=miss"}, "id": "b"}, True, []),
        ({}, {"headers": {"x-cache": "MISS"}, "id": "b"}, True, []),
    ],
)
def test_bodies_that_tell_a_replay(old: dict, new: dict, content_differs: bool, signs: list[str]) -> None:  # type: ignore[type-arg]
    assert list(replay_signs(reply(**old), reply(**new), content_differs=content_differs)) == signs


def test_a_few_of_each_category_are_all_over_it() -> None:
    few = runs.evenly(ITEMS, 66)
    assert len(few) == 66
    assert {(item.label, item.category) for item in few} == {(item.label, item.category) for item in ITEMS}
    assert len({item.old.body for item in few if item.label is Label.REUSABLE}) > 10
