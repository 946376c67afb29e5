"""How the tokens of a model's texts are counted offline: by its own vocabulary, or by another's with a measured factor.

OpenAI's vocabularies are the only ones kept here (in the wheel of bpe-openai). For the others a factor is chosen so
that no text is counted below the truth by more than ``under_percent``. The truth was measured with the vocabularies
that their makers published, on 27 kinds of text (tests/fixtures/token_samples.json, tests/measure_tokens.py; README.md
has the table). Anthropic publishes none for current models, and Google none for Gemini: measured were Claude 2's, and
Gemma 3's and an older one of Gemini's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Vocabulary(Enum):
    """The vocabularies at hand."""

    O200K = "o200k_base"
    CL100K = "cl100k_base"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How to count: ``percent`` of what ``vocabulary`` makes of a text, ``cjk`` of its Chinese, Japanese and Korean.

    ``each_digit``: numbers are a token a digit, not one for up to three. ``message_tokens``, ``answer_tokens``: what
    the chat template has around each message, and to begin the answer. ``tools_tokens``: what it says of tools beyond
    their JSON. ``exact``: the model's own vocabulary. ``under_percent``: by how much, at most, it counted below the
    truth.
    """

    vocabulary: Vocabulary
    cjk: Vocabulary
    percent: int
    each_digit: bool
    message_tokens: int
    answer_tokens: int
    tools_tokens: int
    exact: bool
    under_percent: int


CountTokens = Callable[[str, Tokenizer], int]
"""The tokens of a text."""

O200K = Vocabulary.O200K
CL100K = Vocabulary.CL100K


def _openai(vocabulary: Vocabulary) -> Tokenizer:
    """Three tokens around a message and one for its role, three to begin the answer.
    https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken (the JSON of tools is longer than what is
    made of it there).
    """
    return Tokenizer(vocabulary, vocabulary, 100, False, 4, 3, 12, True, 0)


def _measured(
    vocabulary: Vocabulary,
    percent: int,
    *,
    under_percent: int,
    cjk: Vocabulary = O200K,
    each_digit: bool = False,
    tools_tokens: int = 150,
) -> Tokenizer:
    """Published templates have five tokens around a message and up to five before the answer."""
    return Tokenizer(vocabulary, cjk, percent, each_digit, 5, 5, tools_tokens, False, under_percent)


def _claude(percent: int) -> Tokenizer:
    """346 tokens of system prompt for tools: https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview.
    From Opus 4.7 on a text has up to 1.35 times the tokens that it had before:
    https://platform.claude.com/docs/en/about-claude/models/migration-guide.
    """
    return _measured(CL100K, percent, cjk=CL100K, tools_tokens=346, under_percent=30)


# The first that matches the model's or the source's name of a model. Longest-known families first.
_FAMILIES: tuple[tuple[str, Tokenizer], ...] = (
    (
        r"claude-([a-z]+-)?(4[-.][7-9]|[5-9])(?!\d)",
        _measured(CL100K, 170, cjk=CL100K, tools_tokens=346, under_percent=30),
    ),
    (r"claude", _measured(CL100K, 125, cjk=CL100K, tools_tokens=346, under_percent=30)),
    (r"gemini|gemma", _measured(O200K, 120, each_digit=True, under_percent=0)),
    (r"deepseek", _measured(CL100K, 108, under_percent=0)),
    (r"qwen|qwq", _measured(CL100K, 105, each_digit=True, under_percent=0)),
    (r"llama", _measured(CL100K, 103, under_percent=0)),
    (
        r"mistral|ministral|codestral|pixtral|magistral|devstral",
        _measured(O200K, 112, each_digit=True, under_percent=14),
    ),
    (r"gpt-4(?![o.])|gpt-3\.?5", _openai(CL100K)),
    (r"gpt|chatgpt|(?<!\d)o[1-9](?![a-z0-9])", _openai(O200K)),
)
_UNKNOWN = _measured(CL100K, 115, each_digit=True, under_percent=0)
_PATTERNS = tuple((re.compile(rf"(?<![a-z])(?:{pattern})", re.IGNORECASE), chosen) for pattern, chosen in _FAMILIES)

_CJK = re.compile("[\u1100-\u11ff\u2e80-\u303f\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7af\uff00-\uffef]+")
_DIGITS = re.compile(r"\d+")
_DIGITS_A_TOKEN = 3


def tokenizer_of(*names: str) -> Tokenizer:
    """The tokenizer of a model, by any of its names: the catalog's first, then the source's."""
    for name in names:
        for pattern, chosen in _PATTERNS:
            if pattern.search(name):
                return chosen
    return _UNKNOWN


def count_text(text: str, tokenizer: Tokenizer, encode: Callable[[str, Vocabulary], int]) -> int:
    """The tokens of ``text``, rounded up. ``encode``: the tokens that a vocabulary makes of a text.

    Never more than its bytes: no tokenizer in use makes more than a token of a byte, and a hold counts on it.
    """
    if not text:
        return 0
    if tokenizer.cjk is tokenizer.vocabulary:
        plain = encode(text, tokenizer.vocabulary)
    else:
        plain = encode(_CJK.sub(" ", text), tokenizer.vocabulary)
        plain += sum(encode(run, tokenizer.cjk) for run in _CJK.findall(text))
    counted = -(-plain * tokenizer.percent // 100)
    if tokenizer.each_digit:
        counted += sum(len(run) - -(-len(run) // _DIGITS_A_TOKEN) for run in _DIGITS.findall(text))
    return min(counted, len(text.encode(errors="replace")))
