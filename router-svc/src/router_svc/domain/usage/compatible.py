"""The usage of OpenAI's chat completions, and of all who call theirs compatible, whatever their habits.

Seen in the field: cached tokens inside the prompt's total (OpenAI, DeepSeek, Moonshot, Groq) or beside it (Anthropic);
reasoning inside the answer's total (OpenAI) or beside it (xAI), or only visible as what the grand total has too many
(Gemini); counts under other names (DeepSeek's ``prompt_cache_hit_tokens``, Moonshot's ``cached_tokens``, Anthropic's
``cache_read_input_tokens``).
"""

from __future__ import annotations

from meshkit.money import Provenance, Usage
from router_svc.domain.usage.counts import count, details


def usage_of_source(block: object, *, cached_beside_prompt: bool = False) -> Usage | None:
    """The usage of an OpenAI-shaped ``usage`` object; None where it says nothing.

    A prompt is never empty, so a block that counts no token at all says nothing.
    """
    if not isinstance(block, dict):
        return None
    prompt, completion = count(block, "prompt_tokens"), count(block, "completion_tokens")
    if prompt + completion == 0:
        return None
    prompt_details, completion_details = (
        details(block, "prompt_tokens_details"),
        details(block, "completion_tokens_details"),
    )
    cached = (
        count(prompt_details, "cached_tokens")
        or count(block, "prompt_cache_hit_tokens")
        or count(block, "cached_tokens")
        or count(block, "cache_read_input_tokens")
    )
    written = count(prompt_details, "cache_write_tokens") or count(block, "cache_creation_input_tokens")
    beyond = count(block, "total_tokens") - prompt - completion
    beside = cached_beside_prompt or cached + written > prompt or 0 < cached + written == beyond
    output, reasoning = _answer(
        completion,
        count(completion_details, "reasoning_tokens"),
        beyond_total=beyond - (cached + written if beside else 0),
    )
    return Usage(
        input_tokens=prompt if beside else prompt - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
        calls=1,
        provenance=Provenance.PROVIDER,
    )


def _answer(completion: int, reasoning: int, *, beyond_total: int) -> tuple[int, int]:
    """Visible and reasoning tokens. ``beyond_total``: by how much the grand total passes prompt and completion."""
    if beyond_total > 0:
        answer = completion + beyond_total
        reasoning = min(max(reasoning, beyond_total), answer)
    elif reasoning > completion:
        answer = completion + reasoning
    else:
        answer = completion
    return answer - reasoning, reasoning
