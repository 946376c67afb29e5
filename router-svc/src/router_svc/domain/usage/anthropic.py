"""The usage of Anthropic's Messages API, for the adapter that will speak it.

https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/build-with-claude/streaming and
.../prompt-caching: ``input_tokens`` are those after the last cache breakpoint, so read and written ones stand beside
them; a stream tells the prompt's in ``message_start`` and cumulative counts in each ``message_delta``; thinking is
counted inside ``output_tokens`` and not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.money import Provenance, Usage
from router_svc.domain.usage.counts import count, details, latest


def usage_block(event: Mapping[str, Any]) -> object:
    """Where a stream's event, or a whole message, has its usage; None where it has none."""
    return event.get("usage") or details(event, "message").get("usage")


def usage_of_message(*blocks: object) -> Usage | None:
    """The usage that the blocks of one message tell, in the order in which they came; None where they say nothing."""
    told = latest(blocks)
    written = count(told, "cache_creation_input_tokens")
    if not written:  # told by time to live alone
        by_ttl = details(told, "cache_creation")
        written = count(by_ttl, "ephemeral_5m_input_tokens") + count(by_ttl, "ephemeral_1h_input_tokens")
    usage = Usage(
        input_tokens=count(told, "input_tokens"),
        cached_input_tokens=count(told, "cache_read_input_tokens"),
        cache_write_tokens=written,
        output_tokens=count(told, "output_tokens"),
        calls=1,
        provenance=Provenance.PROVIDER,
    )
    return usage if usage.prompt_tokens + usage.output_tokens else None
