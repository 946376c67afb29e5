"""Usage counted here: all that becomes prompt, by the model that answered, and never beyond what was held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from router_rig import catalog_of
from test_router_images import inline, part, png

from meshkit.money import Provenance, Usage
from router_svc.domain.catalog import Source
from router_svc.domain.estimate import at_least, estimate_usage
from router_svc.domain.plan import Candidate
from router_svc.domain.tokenizer import Tokenizer

A = Source("a", "http://a/v1")


def candidate(model: str = "gpt-4o", upstream: str = "up", **bounds: int) -> Candidate:
    offer = next(iter(catalog_of(A).value.offers.values()))[0]
    most = {"most_prompt_tokens": 100_000, "most_answer_tokens": 10_000} | bounds
    return Candidate(replace(offer, model_id=model, upstream_model=upstream), A, offer.price, 0, **most)  # type: ignore[arg-type]


def by_words(text: str, _: Tokenizer) -> int:
    return len(text.split())


def prompt_of(model: str = "gpt-4o", **fields: Any) -> int:
    return estimate_usage(fields, candidate(model), "", "", by_words).input_tokens


def message(content: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


BARE = prompt_of(messages=[message("a b c")])


def test_the_structure_around_messages() -> None:
    assert BARE == 3 + 4 + 3, "OpenAI's: four a message, three to begin the answer"
    assert prompt_of(messages=[message("a"), message("b c", "system")]) == 3 + 2 * 4 + 3
    assert prompt_of("claude-opus-4-5", messages=[message("a b c")]) == 3 + 5 + 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"content": [{"type": "text", "text": "d e"}, {"type": "refusal", "refusal": "f"}]}, 3 - 3),
        ({"name": "Ann Lee"}, 2),
        ({"refusal": "no no no"}, 3),
        ({"reasoning_content": "hm hm"}, 2),
        ({"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}, 2),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 1),
    ],
)
def test_every_text_of_a_message(fields: dict[str, Any], words: int) -> None:
    assert prompt_of(messages=[message("a b c") | fields]) == BARE + words


def test_tools_and_schemas_are_counted_as_json_with_what_is_said_of_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "one two"}}
    assert prompt_of(messages=[message("a b c")], tools=[tool]) == BARE + 2 + 12
    claude = prompt_of("claude-opus-4-5", messages=[message("a b c")])
    assert prompt_of("claude-opus-4-5", messages=[message("a b c")], tools=[tool]) == claude + 2 + 346
    schema = {"type": "json_schema", "json_schema": {"schema": {"description": "x y z"}}}
    assert prompt_of(messages=[message("a b c")], response_format=schema) == BARE + 3


def test_images_by_the_rule_of_the_model() -> None:
    image = inline(png(1024, 1024))
    for model, tokens in (("gpt-4o", 765), ("claude-opus-4-5", 1_399), ("gemini-2.5-pro", 4 * 258)):
        empty = prompt_of(model, messages=[message([])])
        assert prompt_of(model, messages=[message([image])]) == empty + tokens
        assert prompt_of(model, messages=[message([image, image])]) == empty + 2 * tokens
    remote = [message([part("https://example.com/cat.png")])]
    assert prompt_of(messages=remote) == prompt_of(messages=[message([])]) + 1_445


def test_the_model_that_answered_decides() -> None:
    seen: list[Tokenizer] = []

    def count(text: str, tokenizer: Tokenizer) -> int:
        seen.append(tokenizer)
        return 1

    estimate_usage({"messages": [message("a")]}, candidate("house-blend", "gpt-4-turbo"), "b", "c", count)
    assert len({tokenizer.vocabulary for tokenizer in seen}) == 1
    assert len(seen) == 3
    assert seen[0].vocabulary.value == "cl100k_base"


def test_an_answer_and_its_reasoning() -> None:
    usage = estimate_usage({}, candidate(), "one two", "three", by_words)
    assert usage == Usage(input_tokens=3, output_tokens=2, reasoning_tokens=1, calls=1, provenance=Provenance.ESTIMATED)


def test_an_estimate_is_no_reason_to_charge_beyond_the_hold() -> None:
    tight = candidate(most_prompt_tokens=5, most_answer_tokens=7)
    usage = estimate_usage({"messages": [message("a " * 50)]}, tight, "b " * 50, "c " * 4, by_words)
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (5, 3, 4)
    usage = estimate_usage({}, tight, "b", "c " * 50, by_words)
    assert (usage.output_tokens, usage.reasoning_tokens) == (0, 7)


def test_what_a_source_told_on_the_way_is_the_least() -> None:
    told = Usage(input_tokens=40, output_tokens=2, reasoning_tokens=9, calls=1, provenance=Provenance.PROVIDER)
    counted = Usage(input_tokens=3, output_tokens=5, reasoning_tokens=1, calls=1, provenance=Provenance.ESTIMATED)
    assert at_least(told, counted) == replace(told, output_tokens=5, provenance=Provenance.ESTIMATED)
