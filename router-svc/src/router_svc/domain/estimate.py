"""Usage counted here, where a source is silent or broke off before it told all. Labelled ESTIMATED wherever shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from meshkit.money import Provenance, Usage
from router_svc.domain.images import image_rule_of, image_tokens, read_image
from router_svc.domain.plan import Candidate
from router_svc.domain.request import content_parts
from router_svc.domain.tokenizer import CountTokens, Tokenizer, tokenizer_of

_TEXTS = ("content", "name", "refusal", "reasoning_content", "reasoning")
_PART_TEXTS = ("text", "refusal", "thinking", "reasoning")
_CALLS = ("tool_calls", "function_call")
_SHAPES = ("tools", "functions", "response_format")


def estimate_usage(
    fields: Mapping[str, Any], candidate: Candidate, visible: str, reasoning: str, count: CountTokens
) -> Usage:
    """What the prompt in ``fields`` and the delivered ``visible`` and ``reasoning`` texts used at ``candidate``.

    Never more than what was held for: an estimate is no reason to charge beyond the worst case.
    """
    offer = candidate.offer
    tokenizer = tokenizer_of(offer.model_id, offer.upstream_model)
    prompt = _prompt_tokens(fields, tokenizer, count) + _images_tokens(fields, candidate)
    thought = min(count(reasoning, tokenizer), candidate.most_answer_tokens)
    return Usage(
        input_tokens=min(prompt, candidate.most_prompt_tokens),
        output_tokens=min(count(visible, tokenizer), candidate.most_answer_tokens - thought),
        reasoning_tokens=thought,
        calls=1,
        provenance=Provenance.ESTIMATED,
    )


def at_least(told: Usage, estimate: Usage) -> Usage:
    """What a source told before it was done, and what was counted since: of each class the larger, as an estimate."""
    larger = {name: max(getattr(told, name), getattr(estimate, name)) for name in ("output_tokens", "reasoning_tokens")}
    return replace(told, **larger, provenance=Provenance.ESTIMATED)


def _prompt_tokens(fields: Mapping[str, Any], tokenizer: Tokenizer, count: CountTokens) -> int:
    messages = fields.get("messages") or ()
    total = sum(count(text, tokenizer) for text in _texts(fields, messages))
    total += tokenizer.message_tokens * len(messages) + tokenizer.answer_tokens
    return total + (tokenizer.tools_tokens if fields.get("tools") or fields.get("functions") else 0)


def _texts(fields: Mapping[str, Any], messages: Any) -> Iterator[str]:
    """Every text that can become prompt tokens. JSON is counted as JSON, which no template makes longer."""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        yield from (message[name] for name in _TEXTS if isinstance(message.get(name), str))
        yield from (orjson.dumps(message[name]).decode() for name in _CALLS if message.get(name))
    for part in content_parts(messages):
        yield from (part[name] for name in _PART_TEXTS if isinstance(part.get(name), str))
    yield from (orjson.dumps(fields[name]).decode() for name in _SHAPES if fields.get(name))


def _images_tokens(fields: Mapping[str, Any], candidate: Candidate) -> int:
    rule = image_rule_of(candidate.offer.model_id, candidate.offer.upstream_model)
    parts = content_parts(fields.get("messages") or ())
    return sum(image_tokens(read_image(part, measure=True), rule) for part in parts if part.get("type") == "image_url")
