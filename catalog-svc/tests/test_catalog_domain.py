"""Revisions and policy epochs: what they depend on and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog_svc.domain import Alias, CatalogInvalid, Contents, Model, Offer, Snapshot, Source, make_snapshot
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier

Take = Callable[..., Snapshot]


def epochs(snapshot: Snapshot) -> dict[str, str]:
    return {model.id: model.policy_epoch for model in snapshot.models}


def priced(input_pico_usd: int = 5, markup_bps: int = 0) -> PriceSnapshot:
    rates = Rates(input_pico_usd=input_pico_usd, output_pico_usd=9)
    return PriceSnapshot("s/m", BillingTier.PASSTHROUGH, (RateTier(0, rates),), markup_bps)


CONTENTS = Contents(
    models=(Model("m", "M", "o", 100, 10), Model("n", "N", "o", 100, 10)),
    sources=(Source("s", "S", "https://s.example/v1"), Source("t", "T", "https://t.example/v1")),
    offers=(Offer("m", "s", "m-1", priced()), Offer("m", "t", "m-2"), Offer("n", "t", "n")),
    aliases=(Alias("mm", "m"),),
)


@pytest.mark.parametrize(
    "overlay",
    [
        "offers: {near/small: {price: {input: 1.000001, output: 4}}}",
        "offers: {near/small: {price: {input: 1, output: 4, tiers: [{above: 9, input: 1, output: 4}]}}}",
        "offers: {near/small: {price: {input: 1, output: 4, reasoning: 5}}}",
        "offers: {near/small: {price: null}}",
        "offers: {near/small: {free: true}}",
        "offers: {near/small: {upstream_model: other}}",
        "offers: {near/small: {context_tokens: 10}}",
        "offers: {near/small: {remove: true}}",
        "offers: {far/small: {price: {input: 0.5, output: 2.6}}}",
        "sources: {near: {base_url: 'https://other.example/v1'}}",
        "sources: {near: {wire_format: anthropic}}",
        "sources: {near: {cached_tokens: beside_prompt}}",
        "models: {small: {capabilities: [tools, vision]}}",
        "models: {small: {max_output_tokens: 90}}",
        "billing: {markup_bps: 501}",
        "billing: {replay_bps: 2501}",
        "billing: {byok_fee_bps: 1}",
        "billing: {byok_fee_per_call: 0.000001}",
    ],
)
def test_an_epoch_changes_with_what_alters_answer_or_price(snapshot: Take, overlay: str) -> None:
    before, after = snapshot(), snapshot(overlay)
    assert epochs(before)["small"] != epochs(after)["small"]
    assert before.revision != after.revision


@pytest.mark.parametrize(
    "overlay",
    [
        "models: {small: {name: Another Name, owned_by: someone, released: 2020-01-01}}",
        "sources: {near: {name: Another Name, region: us, api_key_env: OTHER_KEY, cancel_stops_billing: true}}",
        "aliases: {wee: small}",
        "price_lists: {lists: {version: '2', date: 2026-06-01}}",
        "models: {fresh: {context_tokens: 10}}",
        "sources: {fresh: {base_url: 'https://fresh.example/v1'}}",
        "offers: {far/large: {price: {input: 1, output: 1}}}",
    ],
)
def test_an_epoch_stays_with_the_rest(snapshot: Take, overlay: str) -> None:
    assert epochs(snapshot())["small"] == epochs(snapshot(overlay))["small"]


def test_an_epoch_is_of_one_model(snapshot: Take) -> None:
    before, after = epochs(snapshot()), epochs(snapshot("offers: {near/large: {price: {input: 11, output: 40}}}"))
    assert before["small"] == after["small"]
    assert before["large"] != after["large"]


def test_a_revision_is_stamped_into_its_prices(snapshot: Take) -> None:
    taken = snapshot()
    assert len(taken.revision) == 16
    assert int(taken.revision, 16) >= 0
    assert {offer.price.catalog_revision for offer in taken.offers if offer.price} == {taken.revision}
    assert {offer.byok_price.catalog_revision for offer in taken.offers if offer.byok_price} == {taken.revision}


def test_time_is_no_content() -> None:
    assert make_snapshot(CONTENTS, created_at_ms=1).revision == make_snapshot(CONTENTS, created_at_ms=2).revision


def test_a_snapshot_of_a_snapshot_is_the_same() -> None:
    first = make_snapshot(CONTENTS, created_at_ms=1)
    again = make_snapshot(Contents(first.models, first.sources, first.offers, first.aliases), created_at_ms=1)
    assert again == first


@given(st.permutations(CONTENTS.models), st.permutations(CONTENTS.sources), st.permutations(CONTENTS.offers))
def test_order_is_no_content(models: list[Model], sources: list[Source], offers: list[Offer]) -> None:
    shuffled = Contents(tuple(models), tuple(sources), tuple(offers), CONTENTS.aliases)
    assert make_snapshot(shuffled, created_at_ms=1) == make_snapshot(CONTENTS, created_at_ms=1)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 9_999), st.integers(0, 9_999))
def test_epochs_are_equal_only_for_equal_prices(first: int, second: int, markup: int, other_markup: int) -> None:
    def epoch(rate: int, markup_bps: int) -> str:
        offers = (replace(CONTENTS.offers[0], price=priced(rate, markup_bps)), *CONTENTS.offers[1:])
        return epochs(make_snapshot(replace(CONTENTS, offers=offers), created_at_ms=1))["m"]

    assert (epoch(first, markup) == epoch(second, other_markup)) == ((first, markup) == (second, other_markup))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (replace(CONTENTS, models=CONTENTS.models * 2), "model 'm' is there twice"),
        (replace(CONTENTS, sources=CONTENTS.sources[:1]), "offer 't/m' is at a source that is not there: 't'"),
        (replace(CONTENTS, models=CONTENTS.models[:1]), "offer 't/n' is of a model that is not there: 'n'"),
        (replace(CONTENTS, aliases=(Alias("x", "y"),)), "alias 'x' stands for a model that is not there: 'y'"),
        (replace(CONTENTS, aliases=(Alias("n", "m"),)), "alias 'n' hides the model of that name"),
    ],
)
def test_broken_contents_are_refused(broken: Contents, problem: str) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        make_snapshot(broken, created_at_ms=1)
    assert problem in caught.value.problems
