"""Tokens counted offline: by the right vocabulary, and for others never below the truth by more than is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_svc.domain.tokenizer import Tokenizer, Vocabulary, count_text, tokenizer_of
from router_svc.sources.tokens import OfflineTokens

SAMPLES: list[dict[str, Any]] = orjson.loads((Path(__file__).parent / "fixtures" / "token_samples.json").read_bytes())
MEASURED_WITH = {
    "claude-haiku-4-5": "claude",
    "gemini-2.5-pro": "gemini",
    "gemma-4-31b-it": "gemma3",
    "llama-3.3-70b-instruct": "llama3",
    "qwen3-max": "qwen3",
    "deepseek-v4-pro": "deepseek_v4",
    "mistral-large-2512": "mistral_tekken",
}


@pytest.fixture(scope="module")
def count() -> OfflineTokens:
    return OfflineTokens()


def by_words(text: str, _: Vocabulary) -> int:
    return len(text.split())


def counted(text: str, tokenizer: Tokenizer, encode: Callable[[str, Vocabulary], int] = by_words) -> int:
    return count_text(text, tokenizer, encode)


@pytest.mark.parametrize(("model", "vocabulary"), MEASURED_WITH.items())
def test_others_are_never_counted_below_the_truth_by_more_than_is_said(
    count: OfflineTokens, model: str, vocabulary: str
) -> None:
    tokenizer = tokenizer_of(model)
    assert not tokenizer.exact
    short = {
        sample["name"]: 100 - 100 * count(sample["text"], tokenizer) / sample["tokens"][vocabulary]
        for sample in SAMPLES
    }
    assert max(short.values()) <= tokenizer.under_percent, short
    assert max(short.values()) > tokenizer.under_percent - 5, "what is said is what was measured"


@pytest.mark.parametrize("vocabulary", ["llama3", "qwen3", "deepseek_v4"])
def test_nor_are_those_that_nobody_knows(count: OfflineTokens, vocabulary: str) -> None:
    unknown = tokenizer_of("kimi-k3")
    assert unknown == tokenizer_of("local/smollm2-135m-instruct") == tokenizer_of("")
    assert all(count(sample["text"], unknown) >= sample["tokens"][vocabulary] for sample in SAMPLES)


@pytest.mark.parametrize("model", MEASURED_WITH)
def test_what_people_mostly_send_is_not_counted_half_as_much_again(count: OfflineTokens, model: str) -> None:
    mostly = [sample for sample in SAMPLES if sample["name"] == "en" or sample["name"].startswith(("code", "json"))]
    assert len(mostly) > 3
    for sample in mostly:
        assert count(sample["text"], tokenizer_of(model)) <= 1.3 * sample["tokens"][MEASURED_WITH[model]]


def test_openais_own_vocabularies(count: OfflineTokens) -> None:
    text = "Größenordnung: 1234567 – ☃"
    current, older = tokenizer_of("gpt-4o"), tokenizer_of("gpt-4-turbo")
    assert (count(text, current), count(text, older)) == (12, 13)
    assert count("hello world", current) == 2
    assert count("", current) == 0


def test_names_of_special_tokens_are_text(count: OfflineTokens) -> None:
    assert count("<|endoftext|>", tokenizer_of("gpt-4o")) > 1


@pytest.mark.parametrize(
    ("names", "vocabulary"),
    [
        ("gpt-4o-mini gpt-4.1 gpt-5 gpt-6.1-sol gpt-oss-20b o3 o4-mini chatgpt-4o-latest openai/o1", Vocabulary.O200K),
        ("gpt-4 gpt-4-turbo gpt-4-0613 gpt-3.5-turbo gpt-35-turbo openai/gpt-4", Vocabulary.CL100K),
    ],
)
def test_which_models_have_them(names: str, vocabulary: Vocabulary) -> None:
    for name in names.split():
        assert (tokenizer_of(name).vocabulary, tokenizer_of(name).exact) == (vocabulary, True), name


def test_names_that_only_look_alike_are_others() -> None:
    for name in ("foo3", "claude-o1", "proto1", "qwen-o3x", "tinyllama"):
        assert not tokenizer_of(name).exact, name
    assert tokenizer_of("claude-3-5-sonnet-20241022") == tokenizer_of("claude-opus-4-20250514")
    assert tokenizer_of("anthropic/claude-opus-4.7") == tokenizer_of("claude-haiku-5-5")
    assert tokenizer_of("claude-haiku-5-5").percent > tokenizer_of("claude-haiku-4-5").percent


def test_a_name_of_the_source_decides_where_the_catalogs_says_nothing() -> None:
    assert tokenizer_of("house-blend", "anthropic/claude-opus-4-6") == tokenizer_of("claude-opus-4-6")
    assert tokenizer_of("gpt-4o", "anthropic/claude-opus-4-6").exact


def test_a_digit_is_a_token_where_it_is_one() -> None:
    assert counted("1234567 1", tokenizer_of("gemini-2.5-pro")) == 3 + (7 - 3)  # 120% of 2 words, rounded up
    assert counted("1234567 1", tokenizer_of("llama-3")) == 3


def test_chinese_is_counted_by_the_vocabulary_that_knows_it() -> None:
    seen: list[tuple[str, Vocabulary]] = []

    def encode(text: str, vocabulary: Vocabulary) -> int:
        seen.append((text, vocabulary))
        return len(text)

    assert counted("ab 人人 cd", tokenizer_of("llama-3"), encode) == 10  # 103% of 7 + 2
    assert seen == [("ab   cd", Vocabulary.CL100K), ("人人", Vocabulary.O200K)]


@given(text=st.text(max_size=60))
@pytest.mark.parametrize("model", ["claude-haiku-5-5", "gemini-2.5-pro", "kimi-k3", "gpt-4o"])
def test_no_text_is_counted_above_its_bytes(model: str, text: str) -> None:
    assert counted(text, tokenizer_of(model), lambda piece, _: len(piece.encode(errors="replace"))) <= len(
        text.encode(errors="replace")
    )
