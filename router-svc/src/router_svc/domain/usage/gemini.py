"""The usage of Gemini's generateContent, for the adapter that will speak it.

https://ai.google.dev/api/generate-content#UsageMetadata: ``promptTokenCount`` has the cached tokens in it; thoughts and
the results of tools that Google ran stand beside prompt and candidates, and in the total. Each chunk of a stream tells
all counts so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.money import Provenance, Usage
from router_svc.domain.usage.counts import count, latest


def usage_block(event: Mapping[str, Any]) -> object:
    """Where a chunk of a stream, or a whole answer, has its usage; None where it has none."""
    return event.get("usageMetadata")


def usage_of_generation(*blocks: object) -> Usage | None:
    """The usage that the blocks of one answer tell, in the order in which they came; None where they say nothing."""
    told = latest(blocks)
    prompt = count(told, "promptTokenCount") + count(told, "toolUsePromptTokenCount")
    output, thoughts = count(told, "candidatesTokenCount"), count(told, "thoughtsTokenCount")
    if prompt + output + thoughts == 0:
        return None
    # What the total has beyond all others was thought: some models told thoughts no other way.
    thoughts += max(count(told, "totalTokenCount") - prompt - output - thoughts, 0)
    cached = min(count(told, "cachedContentTokenCount"), prompt)
    return Usage(
        input_tokens=prompt - cached,
        cached_input_tokens=cached,
        output_tokens=output,
        reasoning_tokens=thoughts,
        calls=1,
        provenance=Provenance.PROVIDER,
    )
