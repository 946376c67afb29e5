"""Documents on top of each other: what an overlay can do, and what it is told when it is wrong."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from catalog_svc.domain import CachedTokenAccounting, CatalogInvalid, Contents, Offer, Source, WireFormat
from catalog_svc.store.documents.origin import DocumentOrigin, seed_document
from catalog_svc.store.documents.yaml_exact import parse
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier

Load = Callable[..., Contents]
README = Path(__file__).parents[1] / "README.md"


def price_of(contents: Contents, offer_id: str) -> PriceSnapshot | None:
    return next(offer for offer in contents.offers if offer.id == offer_id).price


def rates_of(contents: Contents, offer_id: str) -> Rates:
    price = price_of(contents, offer_id)
    assert price is not None
    return price.rate_tiers[0].rates


def test_defaults(load: Load, small: str) -> None:
    contents = load(small)
    assert contents.sources[1] == Source("far", "far", "https://far.example/v1")
    assert contents.models[1].display_name == "large"
    assert contents.models[1].max_output_tokens == contents.models[1].context_tokens == 9000
    assert contents.models[1].released_at_s == 1_738_540_800
    assert contents.offers[0] == Offer(
        "small",
        "near",
        "small",
        PriceSnapshot(
            "near/small",
            BillingTier.PASSTHROUGH,
            (RateTier(0, Rates(1_000_000, 1_000_000, 1_000_000, 4_000_000, 4_000_000)),),
            500,
            2500,
            "lists",
            "1.2",
            "2026-05-01",
        ),
        byok_price=PriceSnapshot("near/small", BillingTier.BYOK, (RateTier(0, Rates()),), price_source="operator"),
    )
    assert contents.offers[1].price is not None
    assert contents.offers[1].price.price_source == "operator"


def test_a_change_leaves_the_other_fields(load: Load, small: str) -> None:
    contents = load(small, "sources: {near: {base_url: 'http://127.0.0.1:8080/v1/'}}")
    assert contents.sources[0] == Source(
        "near", "Near", "http://127.0.0.1:8080/v1", api_key_env="NEAR_KEY", region="eu"
    )


def test_later_documents_win(load: Load, small: str) -> None:
    contents = load(small, "aliases: {tiny: large}", "aliases: {tiny: small, big: large}")
    assert {alias.name: alias.model_id for alias in contents.aliases} == {"tiny": "small", "big": "large"}


def test_billing_changes_one_field(load: Load, small: str) -> None:
    price = price_of(load(small, "billing: {markup_bps: 0}"), "near/small")
    assert price is not None
    assert (price.markup_bps, price.replay_bps) == (0, 2500)


def byok_price_of(contents: Contents, offer_id: str) -> PriceSnapshot | None:
    return next(offer.byok_price for offer in contents.offers if offer.id == offer_id)


def test_an_own_key_costs_nothing_unless_the_operator_takes_a_fee(load: Load, small: str) -> None:
    fee = byok_price_of(load(small), "near/small")
    assert fee == PriceSnapshot("near/small", BillingTier.BYOK, (RateTier(0, Rates()),), price_source="operator")


def test_a_fee_for_own_keys_is_a_share_rounded_up_and_so_much_for_a_call(load: Load, small: str) -> None:
    tiered = "{input: 1, output: 0.000001, tiers: [{above: 5, input: 3, output: 4, cached_input: 0}]}"
    billing = "billing: {byok_fee_bps: 500, byok_fee_per_call: 0.001}"
    contents = load(small, f"{billing}\noffers: {{near/small: {{price: {tiered}}}}}")
    fee, price = byok_price_of(contents, "near/small"), price_of(contents, "near/small")
    assert fee is not None
    assert price is not None
    assert (fee.tier, fee.markup_bps, fee.replay_bps) == (BillingTier.BYOK, 0, price.replay_bps)
    per_call = 10**9
    assert [(tier.above_input_tokens, tier.rates) for tier in fee.rate_tiers] == [
        (0, Rates(50_000, 50_000, 50_000, 1, 1, call_pico_usd=per_call)),
        (5, Rates(150_000, 0, 150_000, 200_000, 200_000, call_pico_usd=per_call)),
    ]


@pytest.mark.parametrize(
    ("billing", "offer", "per_call_pico_usd"),
    [
        ("{byok_fee_per_call: 0.001}", "{price: null}", 10**9),
        ("{byok_fee_bps: 500}", "{price: null}", None),
        ("{byok_fee_bps: 500, byok_fee_per_call: 0.001}", "{free: true}", 0),
    ],
)
def test_a_fee_for_own_keys_where_there_is_no_price(
    load: Load, small: str, billing: str, offer: str, per_call_pico_usd: int | None
) -> None:
    fee = byok_price_of(load(small, f"billing: {billing}\noffers: {{near/small: {offer}}}"), "near/small")
    rates = None if fee is None else fee.rate_tiers[0].rates
    assert rates == (None if per_call_pico_usd is None else Rates(call_pico_usd=per_call_pico_usd))


def test_a_price_is_replaced_whole(load: Load, small: str) -> None:
    tiered = "{input: 1, output: 2, cached_input: 0.1, tiers: [{above: 5, input: 3, output: 4}]}"
    below = f"offers: {{near/small: {{price: {tiered}}}}}"
    contents = load(small, below, "offers: {near/small: {price: {input: 2, output: 3}}}")
    price = price_of(contents, "near/small")
    assert price is not None
    assert price.rate_tiers == (RateTier(0, Rates(2_000_000, 2_000_000, 2_000_000, 3_000_000, 3_000_000)),)


def test_numbers_are_exact(load: Load, small: str) -> None:
    contents = load(
        small,
        """
        offers:
          near/small:
            price: {input: 0.1, cached_input: 0.000001, cache_write: "0.123456", output: 1.1, reasoning: 1.10,
                    per_image: 0.000000000001, per_second: 2, per_call: 0.0005}
        """,
    )
    assert rates_of(contents, "near/small") == Rates(
        100_000, 1, 123_456, 1_100_000, 1_100_000, 1, 2_000_000_000_000, 500_000_000
    )
    assert parse("{a: 0.1, b: 1_000, c: 1e-3, d: 2024-07-18, e: no, f: true, g: ~}", "x").data == {
        "a": Decimal("0.1"),
        "b": 1000,
        "c": "1e-3",  # YAML 1.1 reads it as a string; as a price it is then refused
        "d": dt.date(2024, 7, 18),
        "e": "no",
        "f": True,
        "g": None,
    }


def test_free_and_unknown_prices(load: Load, small: str) -> None:
    free = "offers: {near/small: {free: true}}"
    contents = load(small, free)
    price = price_of(contents, "near/small")
    assert price is not None
    assert (price.tier, price.rate_tiers) == (BillingTier.FREE, ())
    assert (
        rates_of(load(small, free, "offers: {near/small: {price: {input: 3, output: 3}}}"), "near/small").input_pico_usd
        == 3 * 10**6
    )
    assert price_of(load(small, "offers: {near/small: {price: null}}"), "near/small") is None
    assert price_of(load(small, free, "offers: {near/small: {free: false}}"), "near/small") is None


def test_a_later_price_holds_from_its_day(load: Load, small: str) -> None:
    overlay = """
    offers:
      near/small:
        price:
          {input: 1, output: 1, later: [{starts: 2027-01-01, input: 2, output: 2},
                                         {starts: 2027-02-01, input: 3, output: 3}]}
    """
    held = {
        day: rates_of(load(small, overlay, today=day), "near/small").input_pico_usd // 10**6
        for day in (dt.date(2026, 12, 31), dt.date(2027, 1, 1), dt.date(2027, 1, 31), dt.date(2027, 3, 1))
    }
    assert list(held.values()) == [1, 2, 2, 3]


def test_removing_takes_dependents_along(load: Load, small: str) -> None:
    without_source = load(small, "sources: {near: {remove: true}}")
    assert [offer.id for offer in without_source.offers] == ["far/small"]
    without_model = load(small, "models: {small: {remove: true}}")
    assert [offer.id for offer in without_model.offers] == ["near/large"]
    assert without_model.aliases == ()
    again = load(small, "models: {small: {remove: true}}", "models: {small: {context_tokens: 5}}")
    assert next(model for model in again.models if model.id == "small").owned_by == "operator"


MISTAKES = [
    (
        "sources: {near: {base_urll: 'https://x'}}",
        r"doc1.yaml:1: sources.near.base_urll: there is no such field here; known are: api_key_env, base_url",
    ),
    ("\n\nofers: {}", r"doc1.yaml:3: ofers: there is no such field here; known are: aliases, billing, models, offers"),
    (
        "offers:\n  near/small:\n    price: {input: 1, output: 2, tiers: [{abov: 4, input: 1, output: 1}]}",
        r"doc1.yaml:3: offers.near/small.price.tiers\[0\].abov: there is no such field here; known are: above, ",
    ),
    (
        "offers:\n  near/small:\n    price: {input: -1, output: 2}",
        r"doc1.yaml:3: offers.near/small.price.input: must not be negative .*free: true",
    ),
    (
        "offers: {near/small: {price: {input: cheap, output: 2}}}",
        r"offers.near/small.price.input: must be a number: USD per million",
    ),
    ("offers: {near/small: {price: {input: 1e-3, output: 2}}}", r"offers.near/small.price.input: must be a number"),
    ("offers: {near/small: {price: {input: true, output: 2}}}", r"offers.near/small.price.input: must be a number"),
    ("offers: {near/small: {price: {input: 0.0000001, output: 2}}}", r"price.input: has more than 6 decimals"),
    ("offers: {near/small: {price: {input: 10000000, output: 2}}}", r"price.input: is above 10 million"),
    ("offers: {near/small: {price: {input: 1}}}", r"offers.near/small.price.output: is required here"),
    (
        "offers: {near/small: {price: {input: .inf, output: 1}}}",
        r"offers.near/small.price.input: '.inf' is not read here",
    ),
    (
        "offers: {near/small: {price: {input: 1, output: 1}, free: true}}",
        r"offers.near/small: `free: true` and a price exclude each other",
    ),
    (
        "offers: {near/small: {price: {input: 1, output: 1, list: nope}}}",
        r"price.list: there is no price list 'nope'; known are: lists",
    ),
    (
        "offers: {near/small: {price: {input: 1, output: 1, tiers: [{above: 9, input: 1, output: 1}, "
        "{above: 3, input: 1, output: 1}]}}}",
        r"`tiers` must ascend",
    ),
    (
        "offers: {nowhere/small: {}}",
        r"doc1.yaml:1: offers.nowhere/small: there is no source 'nowhere'; add it .* or use one of: far, near",
    ),
    ("offers: {near/nothing: {}}", r"offers.near/nothing: there is no model 'nothing'; add it under `models`"),
    ("offers: {small: {}}", r"offers.small: an offer is named SOURCE/MODEL"),
    ("aliases: {other: nothing}", r"aliases.other: stands for 'nothing', which is no model"),
    (
        "aliases: {other: tiny}",
        r"aliases.other: stands for 'tiny', which is no model; an alias can't stand for an alias",
    ),
    ("aliases: {small: large}", r"aliases.small: hides the model of that name"),
    ("models: {fresh: {name: Fresh}}", r"doc1.yaml:1: models.fresh: a new model needs context_tokens"),
    (
        "models: {small: {max_output_tokens: 5000}}",
        r"models.small.max_output_tokens: an answer can't be longer than the context of 1000",
    ),
    ("models: {small: {context_tokens: 12.5}}", r"models.small.context_tokens: must be a whole number"),
    ("models: {small: {context_tokens: '1000'}}", r"models.small.context_tokens: must be a whole number"),
    ("models: {small: {capabilities: [tools, telepathy]}}", r"models.small.capabilities\[1\]: Input should be 'tools'"),
    ("models: {small: {released: soon}}", r"models.small.released: .*date"),
    ("models: {small: {released: 2024-13-01}}", r"models.small.released: 2024-13-01 is not a date"),
    ("sources: {near: {base_url: near.example}}", r"sources.near.base_url: must be an http:// or https:// address"),
    ("sources: {near: {cancel_stops_billing: 1}}", r"sources.near.cancel_stops_billing: must be true or false"),
    ("sources: {near: {wire_format: smoke}}", r"sources.near.wire_format: Input should be 'openai'"),
    ("sources: {near: {remove: true, name: x}}", r"sources.near: `remove` stands alone"),
    ("sources: {other: {remove: true}}", r"sources.other: there is nothing of this name to remove"),
    ("sources:\n  near: {}\n  near: {}", r"doc1.yaml:3: sources.near: stands twice; the first is on line 2"),
    ("models: {4.1: {}}", r"doc1.yaml:1: models: the key 4.1 is not a string; put it in quotes"),
    ("models: {small: {context_tokens: 0777}}", r"models.small.context_tokens: '0777' is not read here"),
    ("billing: {replay_bps: 10001}", r"billing.replay_bps: "),
    ("sources: [near]", r"doc1.yaml:1: sources: must be a mapping"),
    ("sources: {near: https://x}", r"doc1.yaml:1: sources.near: must be a mapping of fields"),
    ("- sources", r"doc1.yaml:1: must be a mapping of fields"),
    ("sources: {near: [", r"doc1.yaml:\d: not valid YAML"),
    ("a: &a {b: *a}", r"doc1.yaml:1: .*nested deeper"),
]


@pytest.mark.parametrize(("overlay", "problem"), MISTAKES)
def test_mistakes_are_named_with_place_and_remedy(load: Load, small: str, overlay: str, problem: str) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        load(small, overlay)
    assert re.search(problem, str(caught.value)), str(caught.value)


def test_all_mistakes_are_named_at_once(load: Load, small: str) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        load(small, "offers: {near/nothing: {}, nowhere/small: {}}\naliases: {x: y}")
    assert len(caught.value.problems) == 3


def test_a_key_in_the_place_of_its_name_is_not_repeated(load: Load, small: str) -> None:
    with pytest.raises(CatalogInvalid) as caught:
        load(small, "sources: {near: {api_key_env: sk-secret-123}}")
    assert "the name of an environment variable, never the key" in str(caught.value)
    assert "sk-secret-123" not in str(caught.value)


async def test_the_example_of_the_readme_loads_on_the_seed(write: Callable[[str, str], Path]) -> None:
    example = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[0]
    origin = DocumentOrigin(seed_document(), [write("overlay.yaml", example)])
    contents = await origin.read(dt.date(2026, 11, 22))
    sources = {source.id: source for source in contents.sources}
    assert sources["openai"].base_url == "https://eu.api.openai.com/v1"
    assert sources["openai"].api_key_env == "OPENAI_API_KEY"
    assert sources["acme"] == Source(
        "acme",
        "Acme Inference",
        "https://llm.acme.example/v1",
        WireFormat.OPENAI,
        "ACME_API_KEY",
        True,
        "eu",
        CachedTokenAccounting.INSIDE_PROMPT,
    )
    assert "groq" not in sources
    price = price_of(contents, "acme/acme-chat")
    assert price is not None
    assert price.rate_tiers[0] == RateTier(
        0, Rates(250_000, 25_000, 312_500, 1_100_000, 1_100_000, call_pico_usd=500_000_000)
    )
    assert price.rate_tiers[1].rates.cached_input_pico_usd == 500_000
    assert (price.markup_bps, price.replay_bps, price.price_version) == (300, 2000, "contract-7")
    assert price_of(contents, "openai/gpt-4o") is None
    free = price_of(contents, "acme/gpt-oss-20b")
    assert free is not None
    assert free.tier is BillingTier.FREE
    later = await origin.read(dt.date(2027, 1, 1))
    assert rates_of(later, "acme/acme-chat").input_pico_usd == 300_000
    assert {alias.name for alias in contents.aliases} >= {"chat"}
    assert "mistral-small-latest" not in {alias.name for alias in contents.aliases}


async def test_an_overlay_that_can_not_be_read(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    missing = DocumentOrigin(seed_document(), [tmp_path / "missing.yaml"])
    with pytest.raises(CatalogInvalid, match=r"missing.yaml: can't be read \(No such file"):
        await missing.read(dt.date(2026, 1, 1))
    binary = write("binary.yaml", "")
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogInvalid, match=r"binary.yaml: is not UTF-8"):
        await DocumentOrigin(seed_document(), [binary]).read(dt.date(2026, 1, 1))
    binary.write_bytes(b" " * (8 * 1024 * 1024 + 1))
    with pytest.raises(CatalogInvalid, match=r"too many for an overlay"):
        await DocumentOrigin(seed_document(), [binary]).read(dt.date(2026, 1, 1))


async def test_an_empty_overlay_changes_nothing(write: Callable[[str, str], Path]) -> None:
    bare = DocumentOrigin(seed_document(), [])
    empty = DocumentOrigin(seed_document(), [write("empty.yaml", "# nothing yet\n")])
    assert await bare.read(dt.date(2026, 11, 22)) == await empty.read(dt.date(2026, 11, 22))


async def test_the_fingerprint_follows_content_and_presence(write: Callable[[str, str], Path]) -> None:
    path = write("overlay.yaml", "aliases: {a: gpt-4o}")
    origin = DocumentOrigin(seed_document(), [path])
    first = await origin.fingerprint()
    assert await origin.fingerprint() == first
    write("overlay.yaml", "aliases: {b: gpt-4o}")
    second = await origin.fingerprint()
    path.unlink()
    assert len({first, second, await origin.fingerprint()}) == 3
